"""What every tool writes: LoRA files with hashes that are theirs, in the precision that was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib_lora.adapters.save import SAVE_PRECISIONS, tensor_data
from lib_lora.arch.family import ARCHITECTURES, BASE_VERSIONS, MODELSPEC, Family
from lib_lora.base.errors import StudioError
from lib_lora.files.lora_file import LoraFile

# An exponent that keeps sums of any length far from a half-precision float's limits.
_TARGET_EXPONENT = -2
_NAME, _TITLE = "ss_output_name", "modelspec.title"
# Of the metadata, what a change of ranks or type changes.
_RANK_KEYS = ("ss_network_module", "ss_network_dim", "ss_network_alpha")
# What LoRAs of one origin say alike, and what is made of them may say, too.
_ORIGIN = (
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "ss_base_model_version",
    "ss_v2",
    "ss_vae_name",
    "ss_clip_skip",
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.resolution",
    "modelspec.encoder_layer",
    *MODELSPEC,
)


def check_output(path: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Before any work: a name that is taken is only written over when that was asked for, and an input's never.

    Raises:
        StudioError: the file exists, its folder does not, or its name is no LoRA's.
    """
    if path.resolve() in {other.resolve() for other in inputs}:
        raise StudioError("is one of the inputs, which stay as they are", field="output", came=path)
    if path.suffix.lower() != ".safetensors":
        raise StudioError("not a name for the result", field="output", came=path, allowed="a name.safetensors")
    if not path.parent.is_dir():
        raise StudioError("the folder does not exist", field="output", came=path.parent)
    if path.exists() and not overwrite:
        raise StudioError("exists already", field="output", file=path, allowed="another name, or overwrite")


def low_rank_tensors(up: Tensor, down: Tensor, kernel: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """``lora_up``, ``lora_down`` and ``alpha`` of the change up @ down, exactly.

    Each rank's column and row are made equally large by powers of two, and what they have in common goes into alpha,
    so that half precision, too, keeps its whole mantissa.

    Args:
        up: [out, r].
        down: [r, in * kh * kw].
        kernel: (kh, kw) of a convolution.
    """
    rank = up.shape[1]
    up_sizes, down_sizes = _exponents(up.abs().amax(0)), _exponents(down.abs().amax(1))
    shift = ((down_sizes - up_sizes) / 2).round()
    largest = int((up_sizes + shift).max()) if rank else 0
    common = _TARGET_EXPONENT - largest
    up, down = torch.ldexp(up, shift + common), torch.ldexp(down, (common - shift)[:, None])
    if kernel:
        up, down = up[:, :, None, None], down.unflatten(1, (-1, *kernel))
    return {
        "lora_up.weight": up,
        "lora_down.weight": down,
        "alpha": torch.tensor(math.ldexp(rank, -2 * common), dtype=torch.float64),
    }


def _exponents(sizes: Tensor) -> Tensor:
    return torch.frexp(sizes.double()).exponent.double()


def saved(tensors: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """The tensors in a precision of ``SAVE_PRECISIONS``; single numbers that it cannot hold exactly stay float32."""
    dtype = SAVE_PRECISIONS[precision]
    return {key: _saved(tensor, dtype) for key, tensor in tensors.items()}


def _saved(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to(dtype).contiguous()
    if not tensor.dim() and cast.double() != tensor.double():
        return tensor.float()
    return cast


def write_lora(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> LoraFile:
    """Write a LoRA file, whole or not at all, with its own hashes in the metadata.

    Args:
        tensors: as they are to be saved (``saved``).

    Raises:
        StudioError: a value is not finite, the LoRA is empty, or the place cannot be written to.
    """
    if not tensors:
        raise StudioError("nothing is left to save: every layer's change is zero", file=path)
    broken = [key for key, tensor in tensors.items() if not tensor.float().isfinite().all()]
    if broken:
        raise StudioError(
            f"{len(broken)} tensors hold infinite values or none at all (NaN), the first is {broken[0]}: not saved",
            file=path,
            allowed="inputs that are finite, and a precision that can hold the result",
        )
    file = LoraFile(tensor_data(tensors), dict(metadata)).with_hashes()
    file.write(path)
    return file


def lora_metadata(name: str, family: Family | None, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What hosts look for in any LoRA file: its name, family, rank and alpha ("Dynamic" where they differ), and
    ModelSpec's fields but for SD2, whose architecture depends on the prediction type."""
    ranks = {tensor.shape[0] for key, tensor in tensors.items() if key.endswith("lora_down.weight")}
    alphas = {float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")}
    metadata = {
        _NAME: name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": _one(ranks),
        "ss_network_alpha": _one(alphas),
    }
    if family is not None:
        metadata |= {"ss_base_model_version": BASE_VERSIONS[family], "ss_v2": str(family is Family.SD2)}
    if family in (Family.SD1, Family.SDXL):
        metadata |= {**MODELSPEC, "modelspec.architecture": f"{ARCHITECTURES[family]}/lora", _TITLE: name}
    return metadata


def derived_metadata(
    own: Mapping[str, str], name: str, family: Family | None, tensors: Mapping[str, Tensor], new_ranks: bool = True
) -> dict[str, str]:
    """A file's metadata for what was made of it: its own with another name, by which prompts tell the two apart.

    Args:
        new_ranks: it became LoRA of the ranks of ``tensors``.
    """
    dropped = {"lora_adapter_metadata", *(["ss_network_args"] if new_ranks else [])}
    kept = {key: value for key, value in own.items() if key not in dropped}
    if kept.get(_TITLE) == kept.get(_NAME):  # a title that nobody has written
        kept.pop(_TITLE, None)
    values = lora_metadata(name, family, tensors)
    return values | kept | {key: values[key] for key in (_NAME, *(_RANK_KEYS if new_ranks else ()))}


def common_metadata(files: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What the metadata of all files say alike of where they come from, such as the checkpoint's name."""
    first, *others = files
    return {key: first[key] for key in _ORIGIN if key in first and all(o.get(key) == first[key] for o in others)}


def _one(values: set) -> str:
    return str(values.pop()) if len(values) == 1 else "Dynamic"
