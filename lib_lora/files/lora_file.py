"""A LoRA file in memory, and the hashes by which the WebUI and model sites know files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import (
    TensorData,
    header_bytes,
    header_with,
    read_header,
    tensor_chunks,
    write_safetensors,
)

# The slice of a file that the WebUI's oldest hash covers.
_LEGACY_BEGIN, _LEGACY_BYTES = 0x100000, 0x10000
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class LoraFile:
    """Tensors by key as bytes, and the metadata."""

    tensors: Mapping[str, TensorData]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path | str) -> LoraFile:
        """The whole file.

        Raises:
            StudioError: there is no such file, or it is no whole .safetensors file.
        """
        header = read_header(path)
        with open(path, "rb") as file:
            file.seek(header.data_offset)
            data = memoryview(file.read())
        tensors = {
            name: TensorData(info.dtype, info.shape, data[info.begin : info.end])
            for name, info in header.tensors.items()
        }
        return cls(tensors, header.metadata)

    def with_hashes(self) -> LoraFile:
        """The same with the hashes that belong to these tensors in the metadata."""
        return LoraFile(self.tensors, {**self.metadata, **tensor_hashes(self.tensors, self.metadata)})

    def write(self, path: Path | str) -> None:
        """Write it, whole or not at all.

        Raises:
            StudioError: the disk is full or the place cannot be written to.
        """
        write_safetensors(path, self.tensors, self.metadata)


def tensor_hashes(tensors: Mapping[str, TensorData], metadata: Mapping[str, str]) -> dict[str, str]:
    """The hashes that a LoRA's metadata hold.

    - ``sshs_model_hash``: sha256 of the bytes after the header; the WebUI's AutoV3 is its first 12 digits.
    - ``sshs_legacy_hash``: first 8 digits of the sha256 of bytes 0x100000 to 0x110000 of a file whose header
      holds only the ``ss_*`` metadata (sd-scripts 48d368f, ``precalculate_safetensors_hashes``): later edits of
      other metadata leave it as it is.
    - ``modelspec.hash_sha256``: ``0x`` and the sha256 of the tensors' bytes (modelspec 1.0.1).
    """
    return _hashes(header_bytes(tensors, _immutable(metadata)), tensor_chunks(tensors))


def file_hashes(path: Path | str, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
    """The hashes of a file on disk, whose tensors may lie in another order than those that we write.

    Args:
        metadata: that the file is to have; None for its own.

    Raises:
        StudioError: there is no such file, or it is no whole .safetensors file.
    """
    header = read_header(path)
    with open(path, "rb") as file:
        file.seek(header.data_offset)
        chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
        return _hashes(header_with(header, _immutable(header.metadata if metadata is None else metadata)), chunks)


def _immutable(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.startswith("ss_")}


def _hashes(head: bytes, chunks: Iterable[bytes | memoryview]) -> dict[str, str]:
    """``head``: of the file that holds the ``ss_*`` metadata alone."""
    whole, legacy = hashlib.sha256(), hashlib.sha256(_legacy_part(head, 0))
    place = len(head)
    for chunk in chunks:
        whole.update(chunk)
        legacy.update(_legacy_part(chunk, place))
        place += len(chunk)
    return {
        "sshs_model_hash": whole.hexdigest(),
        "sshs_legacy_hash": legacy.hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{whole.hexdigest()}",
    }


def _legacy_part(chunk: bytes | memoryview, place: int) -> bytes | memoryview:
    """What of a chunk that stands at ``place`` in a file the legacy hash covers."""
    begin, end = _LEGACY_BEGIN - place, _LEGACY_BEGIN + _LEGACY_BYTES - place
    return chunk[max(begin, 0) : max(end, 0)]


def model_hash_legacy(path: Path | str) -> str:
    """``ss_sd_model_hash``: the WebUI's old 8-digit hash of a checkpoint.

    Raises:
        StudioError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            file.seek(_LEGACY_BEGIN)
            return hashlib.sha256(file.read(_LEGACY_BYTES)).hexdigest()[:8]
    except OSError as error:
        raise StudioError(
            f"cannot be read: {error.strerror or error}", file=path, allowed="a file that can be read"
        ) from error
