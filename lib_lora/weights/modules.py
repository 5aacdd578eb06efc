"""Modules of LoRA files: the tensors of a low-rank one, its kernel, and what a whole file says of itself."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from lib_lora.adapters.save import SAVE_PRECISIONS
from lib_lora.arch.keys import module_name
from lib_lora.base.errors import StudioError
from lib_lora.weights.delta import LoHa, LoKr, LoraWeights, ModuleDelta, read_lora
from lib_lora.weights.output import low_rank_tensors

MB = 1024 * 1024

_KERNEL = (3, 3)
# The ends of the names of layers that look at neighbours, in diffusers' names.
_SPATIAL = ("conv1", "conv2", "conv_in", "conv_out", "downsamplers.0.conv", "upsamplers.0.conv")
_ENTRY_BYTES = 110  # of a header's line beside the name
_METADATA_BYTES = 2048  # that a tool adds
_SMALL_LOHA = 8  # the rank up to which its factors, of the squared rank, are less work than the whole matrix


def factor_tensors(key: str, up: Tensor, down: Tensor, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The whole keys of a LoRA module whose delta is up [out, r] @ down [r, in * kh * kw].

    Args:
        shape: the layer's weight's, as far as it is known (``ModuleDelta.shape``).
    """
    own = low_rank_tensors(up, down, layer_kernel(key, shape))
    return {f"{key}.{suffix}": tensor for suffix, tensor in own.items()}


def layer_kernel(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(kh, kw) of a convolution, () of a linear layer; by its name where the shape has lost it (LoKr)."""
    if len(shape) == 4:
        return tuple(shape[2:])
    return _KERNEL if is_spatial(key, shape) else ()


def is_spatial(key: str, shape: tuple[int, ...]) -> bool:
    """Whether a layer is a convolution that looks at neighbours."""
    if len(shape) == 4:
        return tuple(shape[2:]) != (1, 1)
    try:
        return module_name(key).endswith(_SPATIAL)
    except KeyError:
        return False


def rank_bytes(shape: tuple[int, ...], precision: str) -> int:
    """Bytes that one rank of a layer takes."""
    return (shape[0] + prod(shape[1:])) * SAVE_PRECISIONS[precision].itemsize


def precision_of(weights: LoraWeights) -> str:
    """The precision that most of a file's numbers are in."""
    counts: Counter = Counter()
    for delta in weights.modules.values():
        for tensor in delta.tensors.values():
            counts[tensor.dtype] += tensor.numel()
    names = {dtype: name for name, dtype in SAVE_PRECISIONS.items()}
    return names.get(counts.most_common(1)[0][0], "float") if counts else "float"


def read_whole(path: Path, reading: str = "webui") -> LoraWeights:
    """A LoRA file all of whose modules are understood.

    Raises:
        StudioError: as ``read_lora`` and ``refuse_unread``.
    """
    weights = read_lora(path, reading)
    refuse_unread(weights)
    return weights


def ignored_text(weights: LoraWeights) -> str | None:
    """Which tensors this reading of the file leaves out, None where it takes all."""
    ignored = sorted({suffix for delta in weights.modules.values() for suffix in delta.ignored})
    return f"left out, because the WebUI leaves it out, too: {', '.join(ignored)}" if ignored else None


def refuse_unread(weights: LoraWeights) -> None:
    """No tool leaves out part of a file without a word.

    Raises:
        StudioError: the file holds modules of no type that is known.
    """
    if weights.unread:
        module, suffixes = next(iter(weights.unread.items()))
        raise StudioError(
            f"{len(weights.unread)} modules are of no known type, the first is {module} ({', '.join(suffixes)})",
            file=weights.path,
            allowed="a LoRA of a type that the WebUI loads",
        )
    if not weights.modules:
        raise StudioError("holds no LoRA", file=weights.path)


def header_bytes(modules: Iterable[str], others: Iterable[str], metadata: Mapping[str, str]) -> int:
    """Bytes, rather too many than too few, of a LoRA file's header and alphas."""
    words = sum(3 * (len(key) + _ENTRY_BYTES) for key in modules) + sum(len(key) + _ENTRY_BYTES for key in others)
    return words + len(json.dumps(dict(metadata)).encode()) + _METADATA_BYTES


def delta_norm(delta: ModuleDelta, weight: Tensor | None = None) -> float:
    """||W|| of a module's change, from its factors where it has them: ||U D||^2 = tr(U^T U D D^T), and for a Kronecker
    product ||A x B|| = ||A|| ||B||. A whole matrix is summed in single precision, which is good to six digits."""
    if isinstance(delta, LoKr) and delta.is_product:
        return abs(delta.scale) * math.prod(float(matrix.norm()) for matrix in delta.matrices(torch.float64))
    is_large = isinstance(delta, LoHa) and delta.rank > _SMALL_LOHA
    factors = None if is_large else delta.low_rank(weight)
    if factors is None:
        return float(delta.dense(weight, torch.float32).norm())
    return math.sqrt(max(delta_product(factors, factors), 0.0))


def delta_product(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """The sum of products <U D, V E> = tr((U^T V)(E D^T)) of two changes given by their factors."""
    (up, down), (other_up, other_down) = first, second
    return float(((up.T @ other_up) * (down @ other_down.T)).sum())
