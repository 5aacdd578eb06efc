"""What tells that a file has changed, without reading it."""

from __future__ import annotations

import os
from pathlib import Path

Stamp = tuple[int, int]  # size in bytes, time of the last change in ns


def stamp_of(path: str | Path) -> Stamp | None:
    """None where there is no such file, or the system does not say."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
