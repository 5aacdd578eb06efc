"""Checkpoints and VAEs on disk, whatever their format, as tensors by the names of single files.

Read are .safetensors, PyTorch's .ckpt, .pt, .pth and .bin (the content decides, not the extension) and folders in
diffusers' layout. Keys are those of the original single files (LDM's, and sgm's for SDXL), with one exception:
text encoders of folders keep transformers' names, since OpenCLIP's fused projections could not be views of the files:

- SD1 and SD2: ``cond_stage_model.transformer.text_model...``; ``facts.family`` tells the two apart
- SDXL: ``conditioner.embedders.0.transformer.text_model...``, and for the second encoder
  ``conditioner.embedders.1.transformer.text_model...`` with ``...transformer.text_projection.weight``
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib_lora.arch.diffusers_keys import ldm_unet_keys, ldm_vae_keys
from lib_lora.arch.family import Family, Part
from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import looks_like_safetensors, read_header
from lib_lora.files.torch_file import read_torch_file
from lib_lora.models.diffusers_folder import (
    INDEX,
    FolderFacts,
    Weights,
    components,
    find_weights,
    is_diffusers_folder,
    read_facts,
)
from lib_lora.models.mapped_tensors import map_tensors, placed_in_safetensors

FORMATS = "a .safetensors, .ckpt or .pt file, or a folder in diffusers' layout"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that was opened; nothing of its tensors was read yet.

    Attributes:
        path: the file or folder.
        tensors: by key, views of the files' memory maps.
        metadata: of a .safetensors file.
        facts: what a folder's configurations say; None for a file.
        notes: which files of a folder were taken.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    facts: FolderFacts | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What people call it: the file's name without extension, or the folder's."""
        path = self.path.resolve()
        return path.stem if self.facts is None else path.name


def open_checkpoint(path: Path | str) -> CheckpointFile:
    """A checkpoint of any format. Only headers are read: the time does not depend on the size.

    Raises:
        StudioError: there is nothing, or something else; the message says what.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    tensors, metadata = _open_file(path)
    return CheckpointFile(path, tensors, metadata)


def open_vae(path: Path | str) -> Tensors:
    """The tensors of a VAE by LDM's names without prefix, as far as they look like one: a VAE file or a whole
    checkpoint of any format in LDM's or diffusers' names, or a diffusers folder (a pipeline's or the VAE's own).

    Raises:
        StudioError: as ``open_checkpoint``.
    """
    path = Path(path)
    if path.is_dir():
        tensors = _open_weights(find_weights(path / "vae" if is_diffusers_folder(path) else path))
    else:
        tensors, _ = _open_file(path)
    inside = {key[len(Part.VAE.value) :]: tensor for key, tensor in tensors.items() if key.startswith(Part.VAE.value)}
    tensors = inside or tensors
    is_diffusers = "decoder.mid_block.resnets.0.norm1.weight" in tensors
    return _in_ldm_layout(tensors, ldm_vae_keys, path) if is_diffusers else tensors


def _open_file(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    if not path.is_file():
        raise StudioError("no such file", file=path, allowed=FORMATS)
    if looks_like_safetensors(path):
        header = read_header(path)
        return map_tensors(path, placed_in_safetensors(header)), header.metadata
    return map_tensors(path, read_torch_file(path)), {}


def _open_folder(folder: Path) -> CheckpointFile:
    if not is_diffusers_folder(folder):
        raise StudioError(f"this folder has no {INDEX}", file=folder, allowed=FORMATS)
    parts = components(folder)
    facts = read_facts(folder, parts)
    tensors: Tensors = {}
    taken = []
    for name in parts:
        weights = find_weights(folder / name)
        tensors |= _single_file_layout(name, _open_weights(weights), facts.family, folder / name)
        more = len(weights.files) - 1
        taken.append(f"{name}/{weights.files[0].name}" + (f" and {more} more" if more else ""))
    return CheckpointFile(folder, tensors, {}, facts, (f"The folder's weights are taken from {', '.join(taken)}",))


def _open_weights(weights: Weights) -> Tensors:
    tensors: Tensors = {}
    for file in weights.files:
        opened, _ = _open_file(file)
        tensors |= opened
    if weights.keys is not None:
        missing = sorted(set(weights.keys) - set(tensors))
        if missing:
            raise StudioError(
                f"{len(missing)} tensors that the index names are missing, the first is {missing[0]}",
                file=weights.files[0].parent,
                allowed="all shards of one model",
            )
    return tensors


_TEXT_PREFIXES = {
    ("text_encoder", Family.SDXL): Part.TEXT_ENCODER_1,
    ("text_encoder_2", Family.SDXL): Part.TEXT_ENCODER_2,
}


def _single_file_layout(name: str, tensors: Tensors, family: Family, folder: Path) -> Tensors:
    if name == "unet":
        return _prefixed(Part.UNET.value, _in_ldm_layout(tensors, ldm_unet_keys, folder))
    if name == "vae":
        return _prefixed(Part.VAE.value, _in_ldm_layout(tensors, ldm_vae_keys, folder))
    part = _TEXT_PREFIXES.get((name, family), Part.TEXT_ENCODER)
    return _prefixed(f"{part.value}transformer.", tensors)


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _in_ldm_layout(tensors: Tensors, names: Callable[[Iterable[str]], dict[str, str]], file: Path) -> Tensors:
    try:
        renamed = names(tensors)
    except KeyError as error:
        raise StudioError(
            f"the tensor {error} belongs to no Stable Diffusion model", file=file, allowed=FORMATS
        ) from None
    return {renamed[key]: _as_in_ldm(renamed[key], tensor) for key, tensor in tensors.items()}


def _as_in_ldm(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The VAE's attention is made of 1x1 convolutions in LDM and of linear layers in diffusers: a view."""
    is_linear = ".mid.attn_1." in key and tensor.dim() == 2
    return tensor[:, :, None, None] if is_linear else tensor
