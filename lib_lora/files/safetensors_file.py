"""The safetensors format: reading headers alone, writing whole files.

Layout (huggingface/safetensors, "Format"): 8 bytes little-endian N, N bytes of JSON padded with spaces, then
the tensors' bytes without gaps. Header and file are those that the safetensors library writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import atomic_write
from lib_lora.files.kinds import START_BYTES, kind_of_start

# The library's own limit.
MAX_HEADER_BYTES = 100_000_000

# Bits per element, in the library's order of dtypes: a file holds the last one's tensors first.
DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_RANK = {name: number for number, name in enumerate(DTYPE_BITS)}

_WHOLE = "a whole .safetensors file"


class TensorInfo(NamedTuple):
    """One tensor of a header; ``begin`` and ``end`` count bytes from the header's ``data_offset``."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about its tensors. ``data_offset`` is where their bytes begin in the file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_offset: int


class TensorData(NamedTuple):
    """A tensor to write: dtype's name, shape, and its bytes or a function that gives them when their turn comes."""

    dtype: str
    shape: tuple[int, ...]
    data: Any | Callable[[], Any]

    def bytes(self) -> memoryview:
        """The little-endian bytes.

        Raises:
            ValueError: not as many as dtype and shape ask for.
        """
        view = memoryview(self.data() if callable(self.data) else self.data)
        view = view if view.ndim == 1 and view.format == "B" else view.cast("B")
        if view.nbytes != byte_count(self.dtype, self.shape):
            raise ValueError(f"{self.dtype} {self.shape}: {view.nbytes} bytes")
        return view


def byte_count(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor.

    Raises:
        ValueError: the sub-byte elements do not fill whole bytes.
    """
    count, rest = divmod(DTYPE_BITS[dtype] * prod(shape), 8)
    if rest:
        raise ValueError(f"{dtype} {shape} does not fill whole bytes")
    return count


def looks_like_safetensors(path: Path | str) -> bool:
    """Whether a file begins as the format does; a damaged one may, too.

    Raises:
        StudioError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise StudioError(f"cannot be read: {error.strerror or error}", file=path, allowed=_WHOLE) from error
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES


def read_header(path: Path | str) -> Header:
    """The header of a .safetensors file; the tensors' bytes are not touched.

    Raises:
        StudioError: there is no such file, or it is no whole .safetensors file; the message says what it is.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _read_header(file, os.fstat(file.fileno()).st_size, path)
    except FileNotFoundError:
        raise StudioError("no such file", file=path, allowed=_WHOLE) from None
    except OSError as error:
        raise StudioError(f"cannot be read: {error.strerror or error}", file=path, allowed=_WHOLE) from error


def _read_header(file: BinaryIO, size: int, path: Path) -> Header:
    start = file.read(START_BYTES)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or length > min(size - 8, MAX_HEADER_BYTES) or start[8:9] != b"{":
        raise StudioError(_what_is(start, size, length), file=path, allowed=_WHOLE)
    file.seek(8)
    table, metadata = _parse(file.read(length), path)
    tensors = {name: _tensor_info(name, entry, path) for name, entry in table.items()}
    _check_offsets(tensors, size - 8 - length, path)
    return Header(tensors, metadata, 8 + length)


def _what_is(start: bytes, size: int, length: int) -> str:
    """What a file is that does not begin as a .safetensors file does."""
    # First what a cut-off file looks like: the low byte of its length may be any letter of other formats' marks.
    if start[8:9] == b"{" and length <= MAX_HEADER_BYTES:
        return f"the file is truncated inside its header: it has {size} bytes, the header alone ends at {8 + length}"
    if start[8:9] == b"{":
        return f"the header claims {length} bytes, more than the {MAX_HEADER_BYTES} that the format allows"
    return kind_of_start(start, size)


def _parse(raw: bytes, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except _DuplicateError as error:
        raise StudioError(f"the header names {error} twice", file=path, allowed=_WHOLE) from None
    except (ValueError, RecursionError):
        raise StudioError("the header is damaged: it is no JSON text", file=path, allowed=_WHOLE) from None
    metadata = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise StudioError("the metadata hold something that is not text", file=path, allowed=_WHOLE)
    return table, metadata


class _DuplicateError(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise _DuplicateError(repr(name))
        table[name] = value
    return table


def _tensor_info(name: str, entry: Any, path: Path) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise StudioError(f"the header's entry of {name!r} is damaged", file=path, allowed=_WHOLE) from None
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise StudioError(f"shape or place of {name!r} is damaged", file=path, came=entry, allowed=_WHOLE)
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise StudioError(f"{name!r} has an unknown dtype", file=path, came=dtype, allowed=DTYPE_BITS)
    if DTYPE_BITS[dtype] * prod(shape) != 8 * (end - begin):
        raise StudioError(
            f"{name!r} has {end - begin} bytes, which is not what its dtype and shape need",
            file=path,
            came=f"{dtype} {list(shape)}",
            allowed=_WHOLE,
        )
    return TensorInfo(dtype, shape, begin, end)


def _check_offsets(tensors: dict[str, TensorInfo], available: int, path: Path) -> None:
    """Every byte of the data belongs to exactly one tensor, as the safetensors library demands."""
    needed = max((info.end for info in tensors.values()), default=0)
    if needed > available:
        raise StudioError(
            f"the file is truncated: its tensors need {needed} bytes, {available} are there "
            "(an unfinished download or copy)",
            file=path,
            allowed=_WHOLE,
        )
    place = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin < place:
            raise StudioError(f"{name!r} overlaps another tensor", file=path, allowed=_WHOLE)
        if info.begin > place:
            raise StudioError(
                f"{info.begin - place} bytes before {name!r} belong to no tensor", file=path, allowed=_WHOLE
            )
        place = info.end
    if place != available:
        raise StudioError(f"{available - place} bytes at the end belong to no tensor", file=path, allowed=_WHOLE)


def file_order(tensors: Mapping[str, TensorData]) -> list[str]:
    """Keys in the order of their bytes in a file: wider dtypes first, then by name."""
    return sorted(tensors, key=lambda name: (-_RANK[tensors[name].dtype], name.encode("utf-8")))


def header_bytes(tensors: Mapping[str, TensorData], metadata: Mapping[str, str]) -> bytes:
    """All bytes of a file before its tensors' own.

    Raises:
        StudioError: a metadata value is no text, or holds half a surrogate pair (an undecodable file name).
    """
    entries: dict[str, Any] = {}
    begin = 0
    for name in file_order(tensors):
        if name == "__metadata__":
            raise ValueError("no tensor may be called __metadata__")
        dtype, shape, _ = tensors[name]
        end = begin + byte_count(dtype, tuple(shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    return _packed(entries, metadata)


def _packed(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The header of these tensors' entries, with its length before it.

    Raises:
        StudioError: a metadata value is no text, or holds half a surrogate pair (an undecodable file name).
    """
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise StudioError("metadata are text", field=key, came=value)
    table = {"__metadata__": dict(metadata), **entries} if metadata else dict(entries)
    try:
        text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise StudioError("the metadata hold characters that no text file can hold", came=error.object) from None
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_chunks(tensors: Mapping[str, TensorData]) -> Iterator[memoryview]:
    """The bytes after the header, one tensor at a time."""
    for name in file_order(tensors):
        yield TensorData(*tensors[name]).bytes()


def write_safetensors(
    path: Path | str, tensors: Mapping[str, TensorData], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a .safetensors file; under its final name it is whole or not there at all.

    Args:
        tensors: per key (dtype's name, shape, bytes or a function giving bytes); functions are called one at a
            time, so that only one tensor needs to be in memory.
        metadata: text by name.

    Raises:
        StudioError: the disk is full or the place cannot be written to.
    """
    head = header_bytes(tensors, metadata or {})
    with atomic_write(path) as file:
        file.write(head)
        for chunk in tensor_chunks(tensors):
            file.write(chunk)


_COPY_BYTES = 1 << 24


def header_with(header: Header, metadata: Mapping[str, str]) -> bytes:
    """All bytes before the tensors' own, which stay in their order, with other metadata.

    Raises:
        StudioError: as ``header_bytes``.
    """
    entries = {
        name: {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [info.begin, info.end]}
        for name, info in header.tensors.items()
    }
    return _packed(entries, metadata)


def replace_metadata(path: Path | str, metadata: Mapping[str, str]) -> None:
    """Give a .safetensors file other metadata. Its tensors' bytes and their order stay as they are.

    Raises:
        StudioError: it is no whole .safetensors file, a value is no text, or the place cannot be written to. The file
            is then as it was.
    """
    old = read_header(path)
    head = header_with(old, metadata)
    with atomic_write(path) as file:
        file.write(head)
        # Closed before the rename, which Windows refuses over an open file.
        with open(path, "rb") as source:
            source.seek(old.data_offset)
            while chunk := source.read(_COPY_BYTES):
                file.write(chunk)
