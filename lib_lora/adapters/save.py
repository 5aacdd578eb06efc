"""Between torch's tensors and LoRA files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.files.lora_file import LoraFile
from lib_lora.files.safetensors_file import TensorData

# sd-scripts' names of the precisions that a LoRA is saved in.
SAVE_PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def save_network(path: Path | str, network: Network, dtype: str, metadata: Mapping[str, str]) -> LoraFile:
    """Write a network as a LoRA file, whole or not at all, with its hashes in the metadata.

    Args:
        dtype: "fp16", "bf16" or "float".
        metadata: text by name; the hashes are added.

    Returns:
        What was written.

    Raises:
        StudioError: an unknown dtype, weights that are not finite in it, or a place that cannot be written to.
    """
    if dtype not in SAVE_PRECISIONS:
        raise StudioError("unknown precision", field="save_precision", came=dtype, allowed=SAVE_PRECISIONS)
    tensors = network.state_tensors(SAVE_PRECISIONS[dtype])
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise StudioError(
            f"{len(broken)} tensors hold infinite values or none at all (NaN), the first is {broken[0]}: not saved",
            field="save_precision",
            came=dtype,
            allowed="weights that are finite numbers in the precision they are saved in",
        )
    file = LoraFile(tensor_data(tensors), dict(metadata)).with_hashes()
    file.write(path)
    return file


def tensor_data(tensors: Mapping[str, Tensor]) -> dict[str, TensorData]:
    """Tensors as a file writes them; each is turned into bytes when its turn comes.

    Raises:
        StudioError: a dtype that files cannot hold.
    """
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise StudioError("cannot be saved in this dtype", field=key, came=str(tensor.dtype), allowed=_DTYPES)
    return {
        key: TensorData(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), lambda tensor=tensor: tensor_bytes(tensor))
        for key, tensor in tensors.items()
    }


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The little-endian bytes; a view where the tensor is contiguous and on the CPU."""
    # numpy knows no bfloat16: as bytes it is all the same.
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A LoRA file's tensors, as they are in it, and its metadata.

    Raises:
        StudioError: no such file, no whole .safetensors file, or a dtype that torch does not have.
    """
    file = LoraFile.read(path)
    tensors = {}
    for key, data in file.tensors.items():
        if data.dtype not in _DTYPES:
            raise StudioError(f"{key} has a dtype that cannot be read", file=path, came=data.dtype, allowed=_DTYPES)
        # A copy: torch wants memory that it may write to.
        flat = torch.frombuffer(bytearray(data.bytes()), dtype=torch.uint8) if data.data else torch.empty(0).byte()
        tensors[key] = flat.view(_DTYPES[data.dtype]).reshape(data.shape)
    return tensors, dict(file.metadata)
