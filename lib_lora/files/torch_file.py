"""PyTorch's own files (.ckpt, .pt, .pth, .bin): which tensors they hold and where their bytes stand.

Two formats (torch/serialization.py):

- zip, since 1.6: ``<name>/data.pkl`` and one entry ``<name>/data/<key>`` for each storage, stored as they are;
- legacy, from 0.1.10 on: the pickles of a magic number, a version, the system, the object and the list of storage
  keys, then for each storage 8 bytes with its number of elements and the elements.

The pickle is read as data (``files.pickle_data``): nothing is imported, called or written, and no tensor's bytes
are touched. Every place is checked against the file before anybody may look there.
"""

from __future__ import annotations

import io
import mmap
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lib_lora.base.errors import StudioError
from lib_lora.files.kinds import START_BYTES, kind_of_start
from lib_lora.files.pickle_data import Global, Inert, PickleFault, load_pickle
from lib_lora.files.safetensors_file import DTYPE_BITS

MAX_PICKLE_BYTES = 64_000_000
MAX_DIRECTORY_BYTES = 16_000_000
# The most leaves that are listed: a pickle can repeat one table by reference, in itself too, without end.
MAX_LEAVES = 1_000_000
MAX_DEPTH = 32

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_LARGEST = 1 << 48
_WHOLE = "a whole PyTorch file"

_STORAGE_DTYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "UntypedStorage": "U8",
}
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


class PlacedTensor(NamedTuple):
    """A tensor in a file. ``begin`` and ``end`` are bytes from the file's start and hold every element; ``stride``
    counts elements."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    begin: int
    end: int


@dataclass(eq=False)
class _Storage:
    """One storage of the pickle; ``begin`` is known once the file has been looked at."""

    key: str
    dtype: str
    count: int
    begin: int = -1


class _View(NamedTuple):
    """A tensor of the pickle, unchecked but for its types. ``offset`` and ``stride`` count elements of ``dtype``."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(path: Path | str) -> dict[str, PlacedTensor]:
    """Every tensor of a PyTorch file by its key.

    A checkpoint's table ``state_dict`` stands for the whole; other nested tables have their keys joined by dots.

    Raises:
        StudioError: there is no such file, or it is no whole PyTorch file with tensors, or it claims what cannot be;
            the message says what it is.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(4) == b"PK\x03\x04":
                root = _read_zip(file, size)
            else:
                file.seek(0)
                root = _read_legacy(file, size)
        return {key: _placed(key, view) for key, view in _leaves(_state_dict(root))}
    except FileNotFoundError:
        raise StudioError("no such file", file=path, allowed=_WHOLE) from None
    except OSError as error:
        raise StudioError(f"cannot be read: {error.strerror or error}", file=path, allowed=_WHOLE) from error
    except PickleFault as fault:
        raise StudioError(str(fault), file=path, allowed=_WHOLE) from fault


# --- the two formats ---------------------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, size: int) -> Any:
    try:
        archive = zipfile.ZipFile(_ShortReads(file))
    except PickleFault:
        raise
    except Exception as error:  # damaged directories raise nearly anything: BadZipFile, struct.error, ValueError, ...
        raise PickleFault(
            f"the file is truncated or damaged: it begins as a zip archive, but its list of contents at the end of its "
            f"{size} bytes is missing (an unfinished download or copy)"
        ) from error
    entries = _entries(archive)
    folder = _folder(entries)
    _check_byte_order(file, entries.get(f"{folder}/byteorder"), size)
    begin, length = _place(file, entries[f"{folder}/data.pkl"], size)
    if length > MAX_PICKLE_BYTES:
        raise PickleFault(f"its table of contents has {length} bytes, more than the {MAX_PICKLE_BYTES} that are read")
    file.seek(begin)
    storages: dict[str, _Storage] = {}
    root = _load(io.BytesIO(file.read(length)), storages)
    for key, storage in storages.items():
        entry = entries.get(f"{folder}/data/{key}")
        if entry is None:
            raise PickleFault(f"its storage {key!r} is missing")
        storage.begin, available = _place(file, entry, size)
        _check_length(storage, available)
    return root


class _ShortReads:
    """A file that is not read in large pieces: ``zipfile`` believes whatever length a list of contents claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        if count > MAX_DIRECTORY_BYTES:
            raise PickleFault(
                f"its list of contents has {count} bytes, more than the {MAX_DIRECTORY_BYTES} that are read"
            )
        return self.file.read(count if count >= 0 else MAX_DIRECTORY_BYTES)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if entry.filename in entries:
            raise PickleFault(f"the archive names {entry.filename!r} twice")
        entries[entry.filename] = entry
    return entries


def _folder(entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """The one folder at the top that holds data.pkl; names are compared and never used as paths."""
    folders = [name[: -len("/data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise PickleFault("this is an ordinary zip archive, not a PyTorch file: unpack it if the model is inside")
    if f"{folders[0]}/constants.pkl" in entries:
        raise PickleFault("this is a TorchScript program, not a table of tensors")
    return folders[0]


def _place(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Where an entry's bytes begin in the file, and how many they are (zip specification, 4.3.7)."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 0x1:
        raise PickleFault(
            f"its part {entry.filename!r} is compressed or encrypted, which PyTorch never does: "
            "the file was packed again by another program"
        )
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise PickleFault(f"the file is damaged: its part {entry.filename!r} is not where the list of contents says")
    begin = entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if begin + entry.file_size > size:
        raise PickleFault(f"the file is truncated: its part {entry.filename!r} ends at {begin + entry.file_size}")
    return begin, entry.file_size


def _check_byte_order(file: BinaryIO, entry: zipfile.ZipInfo | None, size: int) -> None:
    if entry is None:
        return
    begin, length = _place(file, entry, size)
    file.seek(begin)
    if file.read(min(length, 16)) != b"little":
        raise PickleFault("it was written by a big-endian machine")


def _read_legacy(file: BinaryIO, size: int) -> Any:
    start = file.read(START_BYTES)
    if start[257:262] == b"ustar":
        raise PickleFault("this is a tar archive, as PyTorch wrote before 2017: save it again with a current PyTorch")
    if start[:1] != b"\x80":
        raise PickleFault(kind_of_start(start, size))
    # Only so much is mapped that a length that lies cannot fill the memory.
    with mmap.mmap(file.fileno(), min(size, MAX_PICKLE_BYTES), access=mmap.ACCESS_READ) as data:
        root, storages, keys = _legacy_pickles(data)
        file.seek(data.tell())
    _place_legacy(file, storages, keys, size)
    return root


def _legacy_pickles(data: mmap.mmap) -> tuple[Any, dict[str, _Storage], Any]:
    first = _load(data, {})
    if first != _MAGIC:
        raise PickleFault(f"this is a pickle, but no PyTorch file (it holds {_what(first)})")
    version, system = _load(data, {}), _load(data, {})
    if version != _VERSION:
        raise PickleFault(f"it has version {version if isinstance(version, int) else '?'} of PyTorch's legacy format")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise PickleFault("it was written by a big-endian machine")
    storages: dict[str, _Storage] = {}
    root, keys = _load(data, storages), _load(data, {})
    return root, storages, keys


def _place_legacy(file: BinaryIO, storages: dict[str, _Storage], keys: Any, size: int) -> None:
    if not isinstance(keys, list) or set(map(type, keys)) - {str} or set(keys) != set(storages):
        raise PickleFault("its list of storages is not that of its tensors")
    place = file.tell()
    for key in keys:
        storage = storages[key]
        file.seek(place)
        head = file.read(8)
        storage.begin = place + 8
        place = storage.begin + _bytes(storage)
        if len(head) < 8 or place > size:
            raise PickleFault(
                f"the file is truncated: its tensors need {place} bytes and more, {size} are there "
                "(an unfinished download or copy)"
            )
        if int.from_bytes(head, "little", signed=True) != storage.count:
            raise PickleFault(f"its storage {key!r} has another length than its tensors say")


# --- the pickle ---------------------------------------------------------------------------------------------------


def _load(file: BinaryIO, storages: dict[str, _Storage]) -> Any:
    return load_pickle(file, _MAKERS, lambda identity: _storage(identity, storages))


def _storage(identity: Any, storages: dict[str, _Storage]) -> _Storage | _View:
    """The storage of a persistent id ``("storage", type, key, location, count[, view])``."""
    if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
        return Inert(identity[1])  # a module's class with its source text: the class is never looked at
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise PickleFault("it refers to something outside itself that is no storage")
    _, kind, key, _, count = identity[:5]
    dtype = _STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) and kind.module.startswith("torch") else None
    if dtype is None or not isinstance(key, str) or not _is_count(count):
        raise PickleFault("one of its storages is of an unknown kind")
    storage = storages.setdefault(key, _Storage(key, dtype, count))
    if (storage.dtype, storage.count) != (dtype, count):
        raise PickleFault(f"its storage {key!r} is described in two ways")
    view = identity[5] if len(identity) == 6 else None
    if view is None:
        return storage
    if not isinstance(view, tuple) or len(view) != 3 or not all(map(_is_count, view[1:])):
        raise PickleFault(f"a part of its storage {key!r} is damaged")
    return _View(storage, dtype, view[1], (view[2],), (1,))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _View:
    """``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``."""
    dtype = storage.dtype if isinstance(storage, (_Storage, _View)) else None
    return _view(storage, dtype, offset, shape, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _requires_grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> _View:
    """``torch._utils._rebuild_tensor_v3``: the storage counts bytes, the dtype is the tensor's own."""
    name = _DTYPES.get(dtype.name) if isinstance(dtype, Global) and dtype.module == "torch" else None
    return _view(storage, name, offset, shape, stride)


def _view(storage: Any, dtype: str | None, offset: Any, shape: Any, stride: Any) -> _View:
    if not isinstance(storage, (_Storage, _View)) or dtype is None:
        raise PickleFault("a tensor has no storage or an unknown dtype")
    if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= MAX_DEPTH):
        raise PickleFault("a tensor's shape is damaged")
    if not all(map(_is_count, (offset, *shape, *stride))) or prod(max(number, 1) for number in shape) > _LARGEST:
        raise PickleFault("a tensor's shape, stride or offset is damaged")
    if isinstance(storage, _View):
        storage, offset = storage.storage, storage.offset + offset
    return _View(storage, dtype, offset, shape, stride)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    if isinstance(items, dict):
        return items
    if not isinstance(items, (list, tuple)) or any(
        not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], (str, int)) for item in items
    ):
        raise PickleFault("a table is damaged")
    return {key: value for key, value in items}


def _from_type(function: Any, _type: Any, args: Any, *_: Any) -> Any:
    """``torch._tensor._rebuild_from_type_v2``: a tensor of a class of its own is the tensor inside."""
    maker = _MAKERS.get(function) if isinstance(function, Global) else None
    if maker is None or maker is _from_type or not isinstance(args, tuple):
        return Inert(function, args)
    return maker(*args)


_MAKERS = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("torch", "Size"): lambda shape=(): tuple(shape) if isinstance(shape, (list, tuple)) else (),
    Global("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    Global("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    Global("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    Global("torch._tensor", "_rebuild_from_type_v2"): _from_type,
}


# --- the tensors --------------------------------------------------------------------------------------------------


def _state_dict(root: Any) -> Any:
    inner = root.get("state_dict") if isinstance(root, dict) else None
    return root if inner is None else inner


def _leaves(root: Any) -> Iterator[tuple[str, _View]]:
    """(key, tensor) of everything inside, in the pickle's order."""
    found = False
    stack: list[tuple[str, int, Any]] = [("", 0, root)]
    for _ in range(MAX_LEAVES):
        if not stack:
            break
        name, depth, value = stack.pop()
        if isinstance(value, _View):
            found = True
            yield name, value
        elif depth < MAX_DEPTH:
            prefix = f"{name}." if name else ""
            inside = [(prefix + str(key), depth + 1, item) for key, item in _inside(value)]
            stack.extend(reversed(inside))
    else:
        raise PickleFault(f"it lists more than {MAX_LEAVES} things")
    if not found:
        raise PickleFault(f"this PyTorch file holds no tensors, but {_what(root)}: it is no checkpoint")


def _inside(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from ((key, item) for key, item in value.items() if isinstance(key, (str, int)))
    elif isinstance(value, (list, tuple)) and not isinstance(value, _View):
        yield from enumerate(value)
    elif isinstance(value, Inert):
        yield from _inside(value.pairs)
        yield from _inside(value.state if isinstance(value.state, (dict, tuple)) else {})


def _placed(key: str, view: _View) -> PlacedTensor:
    """Checks that every element lies inside the storage, and that no element is told to be many."""
    storage, width = view.storage, DTYPE_BITS[view.dtype] // 8
    count = prod(view.shape)
    last = sum((size - 1) * step for size, step in zip(view.shape, view.stride)) if count else -1
    begin = view.offset * width
    end = begin + (last + 1) * width
    if max(end, count * width) > _bytes(storage) or begin > _bytes(storage):
        raise PickleFault(f"its tensor {key!r} reaches beyond its storage {storage.key!r}")
    return PlacedTensor(view.dtype, view.shape, view.stride, storage.begin + begin, storage.begin + end)


def _bytes(storage: _Storage) -> int:
    return storage.count * (DTYPE_BITS[storage.dtype] // 8)


def _check_length(storage: _Storage, available: int) -> None:
    if _bytes(storage) > available:
        raise PickleFault(f"its storage {storage.key!r} has {available} bytes, its tensors need {_bytes(storage)}")


def _what(value: Any) -> str:
    """A few words for a value, without looking deep into it."""
    if isinstance(value, Inert):
        value = value.of
    if isinstance(value, Global):
        return f"an object of {value.module}.{value.name}"[:120]
    return {dict: "a table", list: "a list", str: "text", int: "a number"}.get(type(value), f"a {type(value).__name__}")
