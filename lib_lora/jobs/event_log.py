"""A job's events on disk, one line of JSON each, read by their number."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from array import array
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any


class EventLog:
    """``events.jsonl``. One writer, readers in any thread; where each line ends is kept in memory.

    A line that a killed writer left unfinished is no event, and goes with the next append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._ends: array | None = None  # bytes from the file's start to the end of each line
        self._file: FileIO | None = None

    def __len__(self) -> int:
        with self._lock:
            return len(self._known_ends())

    def append(self, values: Mapping[str, Any]) -> None:
        """Write an event and hand it to the system, so that it outlives this process."""
        line = json.dumps(values, ensure_ascii=False, default=str).encode("utf-8") + b"\n"
        with self._lock:
            ends = self._known_ends()
            start = ends[-1] if ends else 0
            if self._file is None:
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - kept for the events to come
                self._file.truncate(start)
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                self._let_go()  # what was written of the line goes with the next event
                raise
            ends.append(start + len(line))

    def read(self, after: int = 0, most: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """The events from number ``after`` on, no more than ``most``, and the number of the one that comes next."""
        with self._lock:
            ends = self._known_ends()
            if after >= len(ends):
                return [], len(ends)
            until = len(ends) if most is None else min(after + most, len(ends))
            start, end = ends[after - 1] if after > 0 else 0, ends[until - 1]
        with open(self.path, "rb") as file:
            file.seek(start)
            lines = file.read(end - start).splitlines()
        return [json.loads(line) for line in lines], until

    def clear(self) -> None:
        """Forget everything."""
        self.close()
        with self._lock:
            self.path.unlink(missing_ok=True)
            self._ends = None

    def close(self) -> None:
        """Let go of the file; the next append opens it again."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _known_ends(self) -> array:
        if self._ends is None:
            self._ends = array("q", _line_ends(self.path))
        return self._ends


def _line_ends(path: Path) -> Iterator[int]:
    if not path.exists():
        return
    end = 0
    with open(path, "rb") as file:
        for line in file:
            end += len(line)
            if line.endswith(b"\n"):
                yield end


_BAR = re.compile(r"[^|]*\d+%\|.*")


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file, without progress bars; empty where there is none."""
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    return "\n".join([line for line in text.splitlines() if line.strip() and not _BAR.match(line)][-lines:])
