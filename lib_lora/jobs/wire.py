"""What a parent process and its child say to each other: words on the child's standard input, and the child's events
in a file, a line of JSON each. Both outlive a crash of the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, event_to_json
from lib_lora.base.signals import Control
from lib_lora.files.atomic import lock_file
from lib_lora.jobs.failure import as_studio_error

PAUSE, RESUME, STOP, ABORT, SAVE_STATE, SAVE_LORA = "pause", "resume", "stop", "abort", "save_state", "save_lora"
"""The words are names of ``Control``'s methods."""
_WORDS = (PAUSE, RESUME, STOP, ABORT, SAVE_STATE, SAVE_LORA)


def lock_of(events: Path) -> Path:
    """The file that a child holds as long as it lives."""
    return events.with_name(f"{events.name}.lock")


class EventFile:
    """Where a child tells its events. A context manager: an error that ends the block is told, too.

    Raises:
        StudioError: another process tells its events there, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._held = lock_file(lock_of(path))
        self._file = open(path, "ab")  # noqa: SIM115 - closed with this object

    def tell(self, event: Event) -> None:
        self._write(event_to_json(event))

    def __enter__(self) -> EventFile:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self._write({"error": as_studio_error(error).to_json()})
        self._file.close()
        self._held.close()

    def _write(self, values: dict) -> None:
        self._file.write(json.dumps(values, ensure_ascii=False, default=str).encode("utf-8") + b"\n")
        self._file.flush()


class LineReader:
    """The lines that are added to a file, each once and whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    def read(self) -> Iterator[bytes]:
        """What is new since the last time."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if line.endswith(b"\n"):
                    self._read_bytes += len(line)
                    yield line


def listen(control: Control, source: int = 0) -> None:
    """Do from now on what the lines of ``source``, a file descriptor, say. When it ends, whoever started this process
    is gone: the work keeps its state and what it has, and ends.
    """
    threading.Thread(target=_obey, args=(control, source), name="control", daemon=True).start()


def _obey(control: Control, source: int) -> None:
    for word in _words(source):
        if word in _WORDS:
            getattr(control, word)()
        else:
            print(f"control: {word!r} is none of: {', '.join(_WORDS)}", file=sys.stderr)
    control.save_state()
    control.stop()


def _words(source: int) -> Iterator[str]:
    """The lines as they come. Not by ``sys.stdin``, whose lock a thread would still hold at the interpreter's end."""
    rest = b""
    with contextlib.suppress(OSError):
        while data := os.read(source, 4096):
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode("utf-8", "replace").strip() for line in lines)


def event_file(path: str | None) -> contextlib.AbstractContextManager[EventFile | None]:
    """The file where events are told; None where nobody wants them.

    Raises:
        StudioError: it cannot be written.
    """
    return contextlib.nullcontext() if path is None else EventFile(Path(path))


def check_source(text: str | None) -> bool:
    """Whether words are listened to.

    Raises:
        StudioError: from somewhere that we do not know.
    """
    if text not in (None, "-"):
        raise StudioError("not allowed", field="control", came=text, allowed="- for standard input")
    return text is not None
