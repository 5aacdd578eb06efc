"""Tiny checkpoints with random weights, written name by name as the original repositories write them.

The names follow ldm's, sgm's, transformers' and open_clip's own modules, not our key tables: what is built from these
files tests those tables.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from .shapes import FULL_SIZE, SD1, SD2, SDXL, SHAPES, Shape
from .state import MetaState, State
from .text import text_encoders, text_folder_name, write_clip_folder
from .unet import unet
from .vae import VAE_LEVELS, vae
from .yamls import arch_name, open_clip_config, yaml_text

__all__ = [
    "CONTEXT",
    "FULL_SIZE",
    "HEADS",
    "SD1",
    "SD2",
    "SDXL",
    "SHAPES",
    "VAE_LEVELS",
    "Shape",
    "arch_name",
    "checkpoint_tensors",
    "meta_tensors",
    "open_clip_config",
    "write_checkpoint",
    "write_clip_folder",
    "yaml_text",
]

CONTEXT, HEADS = SD1.context, SD1.heads


def checkpoint_tensors(seed: int = 0, shape: Shape = SD1) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint, float32."""
    return _fill(State(seed), shape)


def meta_tensors(shape: Shape) -> dict[str, torch.Tensor]:
    """The same without values, for checkpoints of any size."""
    return _fill(MetaState(), shape)


def _fill(state: State, shape: Shape) -> dict[str, torch.Tensor]:
    unet(state, shape)
    vae(state)
    text_encoders(state, shape)
    return dict(state)


def write_checkpoint(
    folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, name: str = "tiny", shape: Shape = SD1
) -> Path:
    """``name.safetensors``, ``name.yaml`` and the text encoders' folders; the checkpoint's path."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to(dtype) for key, tensor in checkpoint_tensors(seed, shape).items()}
    path = folder / f"{name}.safetensors"
    save_file(tensors, str(path), metadata={"format": "pt"})
    path.with_suffix(".yaml").write_text(yaml_text(shape), encoding="utf-8")
    for text in shape.texts:
        write_clip_folder(folder / text_folder_name(text), text, shape.vocabulary)
    return path
