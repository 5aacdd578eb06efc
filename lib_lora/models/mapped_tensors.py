"""Tensors over a file's memory map: the one place where bytes of a file become tensors."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

import torch

from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import Header
from lib_lora.files.torch_file import PlacedTensor

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}


def map_tensors(path: Path, placed: Mapping[str, PlacedTensor]) -> dict[str, torch.Tensor]:
    """Each tensor as a view of the file's memory map; nothing is read before it is used.

    The map is private: whoever writes to a tensor writes to memory of its own and never to the file. In PyTorch's
    legacy format, and in .safetensors files from before 2023, tensors may stand at places that are no multiple of
    their element's size. Copying from there is safe; computing wants ``align_parameters``.

    Args:
        placed: places that were checked to lie within the file.

    Raises:
        StudioError: the file cannot be mapped, or this PyTorch lacks a dtype.
    """
    if not placed:
        return {}
    try:
        with open(path, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise StudioError(f"cannot be mapped into memory: {error}", file=path) from error
    return {key: _tensor(mapping, tensor, path) for key, tensor in placed.items()}


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def placed_in_safetensors(header: Header) -> dict[str, PlacedTensor]:
    """The places of a .safetensors file's tensors, which are contiguous."""
    start = header.data_offset
    return {
        key: PlacedTensor(dtype, shape, _contiguous(shape), start + begin, start + end)
        for key, (dtype, shape, begin, end) in header.tensors.items()
    }


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _tensor(mapping: mmap.mmap, placed: PlacedTensor, path: Path) -> torch.Tensor:
    dtype = getattr(torch, _DTYPES.get(placed.dtype, ""), None)
    if dtype is None:
        raise StudioError("this PyTorch does not know the number format", file=path, came=placed.dtype, allowed=_DTYPES)
    if placed.end == placed.begin:
        return torch.empty(placed.shape, dtype=dtype)
    count = (placed.end - placed.begin) // dtype.itemsize
    flat = torch.frombuffer(mapping, dtype=dtype, count=count, offset=placed.begin)
    return flat.as_strided(placed.shape, placed.stride)


def align_parameters(module: torch.nn.Module) -> None:
    """Copy the parameters that stand at odd places of a file: fast loops may count on even ones."""
    for parameter in module.parameters():
        if parameter.data_ptr() % parameter.element_size():
            parameter.data = parameter.data.clone()
