"""The sha256 of large files, remembered from run to run by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import write_text

# Smaller files take less than a second, and their hashes are not worth a file.
WORTH_KEEPING_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 24


def sha256_steps(path: Path | str, store: Path | None = None) -> Generator[tuple[int, int], None, str]:
    """The sha256 of a whole file as hexadecimal digits, after (bytes done, their total) of each block.

    ``ss_new_sd_model_hash`` holds it; the WebUI shows its first 10 digits.

    Args:
        store: JSON file of what is known; it is read and added to, and may be deleted at any time. None: nothing is.

    Raises:
        StudioError: the file cannot be read.
    """
    path = Path(path).resolve()
    try:
        before = path.stat()
        known = _read(store) if store and before.st_size >= WORTH_KEEPING_BYTES else {}
        mark = _mark(before)
        if known.get(str(path), [None])[:-1] == mark:
            return known[str(path)][-1]
        digest, done = hashlib.sha256(), 0
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                done += len(block)
                yield done, before.st_size
    except OSError as error:
        raise StudioError(
            f"cannot be read: {error.strerror or error}", file=path, allowed="a file that can be read"
        ) from error
    if store and before.st_size >= WORTH_KEEPING_BYTES:
        _write(store, {**_read(store), str(path): [*mark, digest.hexdigest()]})
    return digest.hexdigest()


def remember_sha256(path: Path | str, store: Path, digest: str) -> None:
    """Spare ``sha256_steps`` the work: somebody else knows the hash of the file as it is now."""
    path = Path(path).resolve()
    with contextlib.suppress(OSError):
        now = path.stat()
        entry = [*_mark(now), digest]
        known = _read(store)
        if now.st_size >= WORTH_KEEPING_BYTES and known.get(str(path)) != entry:
            _write(store, {**known, str(path): entry})


def _mark(now: os.stat_result) -> list[int]:
    return [now.st_size, now.st_mtime_ns]


class HashAhead:
    """``sha256_steps`` at work in a thread from now on, so that who wants the hash later need not wait for it."""

    def __init__(self, path: Path | str, store: Path | None = None) -> None:
        self.path = Path(path)
        self._done: tuple[int, int] | None = None
        self._result: str | StudioError | None = None
        self._thread = threading.Thread(target=self._work, args=(store,), name="hash ahead", daemon=True)
        self._thread.start()

    def _work(self, store: Path | None) -> None:
        steps = sha256_steps(self.path, store)
        try:
            while True:
                self._done = next(steps)
        except StopIteration as end:
            self._result = end.value
        except StudioError as error:
            self._result = error

    def steps(self) -> Generator[tuple[int, int], None, str]:
        """As ``sha256_steps``, with fewer steps or none where the thread is far ahead."""
        while self._thread.is_alive():
            self._thread.join(0.1)
            if self._done and self._thread.is_alive():
                yield self._done
        if isinstance(self._result, StudioError):
            raise self._result
        assert self._result is not None
        return self._result


def _read(store: Path) -> dict[str, list[Any]]:
    """What is known; nothing where the store is missing or damaged."""
    try:
        table = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = table.items() if isinstance(table, dict) else ()
    return {path: entry for path, entry in entries if isinstance(entry, list) and len(entry) == 3}


def _write(store: Path, table: dict[str, list[Any]]) -> None:
    """Where the store cannot be written, the hash is worked out again next time: nothing else is lost."""
    with contextlib.suppress(OSError, StudioError):
        store.parent.mkdir(parents=True, exist_ok=True)
        write_text(store, json.dumps(table, indent=1))
