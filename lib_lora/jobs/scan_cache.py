"""A dataset's scan, kept for as long as nothing in its folder changes: a page asks for the plan at each keystroke."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from lib_lora.dataset.records import Scan, scan
from lib_lora.files.stamps import stamp_of

_MOST = 4  # a training and a regularisation folder, and those before them


class ScanCache:
    """Called as ``dataset.records.scan``; may be called from several threads."""

    def __init__(self) -> None:
        self._scans: OrderedDict[Any, Scan] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, folder: Path, *, exclude: Any = (), **options: Any) -> Scan:
        excluded = tuple(map(str, exclude))
        key = (str(folder), excluded, tuple(sorted(options.items())), _fingerprint(folder))
        with self._lock:
            if key in self._scans:
                self._scans.move_to_end(key)
                return self._scans[key]
        found = scan(folder, exclude=exclude, **options)
        with self._lock:
            self._scans[key] = found
            while len(self._scans) > _MOST:
                self._scans.popitem(last=False)
        return found


def _fingerprint(folder: Path) -> str:
    """Another text when a file below ``folder`` is new, gone, renamed or written to."""
    digest, seen = hashlib.blake2b(digest_size=16), set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            digest.update(f"{root}/{name}:{stamp_of(os.path.join(root, name))};".encode("utf-8", "surrogatepass"))
        digest.update(f"{root}:{folders};".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
