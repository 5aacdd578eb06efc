"""A folder of tensors that runs share: one safetensors file per key, made of all that the tensors follow from.

A key has the content of what was encoded and of the weights that encoded it, never a name or a time: what is found
under it is right, and what has changed is not found. Nothing in the folder is needed; it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from lib_lora.adapters.save import read_tensors, tensor_data
from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import write_safetensors

FORMAT = 1  # counts up when the same key would mean other numbers
_BLOCK_BYTES = 1 << 20


def make_key(**what: Any) -> str:
    """A name for tensors that follow from ``what`` (numbers, texts and lists of them)."""
    text = json.dumps({"format": FORMAT, **what}, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=20).hexdigest()


def file_identity(path: Path) -> str:
    """A hash of a file's content.

    Raises:
        StudioError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=20)
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise StudioError(f"cannot be read: {error.strerror or error}", file=path) from error
    return digest.hexdigest()


def weights_identity(modules: Iterable[torch.nn.Module]) -> str:
    """A hash of modules' weights: names, shapes, dtypes and values."""
    digest = hashlib.blake2b(digest_size=20)
    for module in modules:
        _add_tensors(digest, module.state_dict())
    return digest.hexdigest()


def _add_tensors(digest: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, data in tensor_data(tensors).items():
        digest.update(f"{name}:{data.dtype}:{data.shape};".encode())
        digest.update(data.bytes())


class TensorCache:
    """Tensors by key in a folder. Several threads and processes may use it at once.

    Attributes:
        notes: files that were broken, for a person to read; ``take_notes`` empties it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._notes: list[str] = []
        self._lock = threading.Lock()

    def path(self, key: str) -> Path:
        # Two levels: some systems are slow with many thousand files in one folder.
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """What was put under ``key``, or None; a broken file counts as none and is noted."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            tensors, metadata = read_tensors(path)
        except (StudioError, OSError) as error:
            self._note(path, error.problem if isinstance(error, StudioError) else str(error))
            return None
        if metadata.get("content") != _content(tensors):
            self._note(path, "its content is not what was written")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # when it was last used: what was not for longest is deleted first
        return tensors

    def take(self, key: str, what: str) -> dict[str, torch.Tensor]:
        """What was put under ``key`` before the run began.

        Args:
            what: it is, in words.

        Raises:
            StudioError: its file has gone or is broken.
        """
        tensors = self.get(key)
        if tensors is None:
            raise StudioError(
                f"{what} has gone from the cache during the run",
                field="cache_dir",
                file=self.path(key),
                allowed="start again: what is missing is made anew",
            )
        return tensors

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep ``tensors``, whole or not at all. Of several writers the last one wins: all write the same.

        Raises:
            StudioError: the disk is full or the place cannot be written to.
        """
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudioError(f"cannot be written: {error.strerror}", field="cache_dir", file=path.parent) from error
        write_safetensors(path, tensor_data(tensors), {"content": _content(tensors)})

    def take_notes(self) -> list[str]:
        with self._lock:
            notes, self._notes = self._notes, []
        return notes

    def _note(self, path: Path, problem: str) -> None:
        with self._lock:
            self._notes.append(f"made anew, the file in the cache is broken: {path}: {problem}")


def _content(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    _add_tensors(digest, dict(sorted(tensors.items())))
    return digest.hexdigest()
