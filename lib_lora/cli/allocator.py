"""The C library's allocator, in a process that is ours alone."""

from __future__ import annotations

import ctypes
import sys

# Names of mallopt(3); the numbers are glibc's (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, for computing on the CPU; False where the C library has no such switch.

    Every step needs the same large buffers. glibc gives them back to the system when they are freed, which hands them
    out again as new pages, zeroed one by one: a tenth of a step's time (docs/speed.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
