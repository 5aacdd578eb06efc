"""The families of checkpoints."""

from __future__ import annotations

from enum import Enum


class Family(str, Enum):
    """A family shares layout and key names; the value is what people and metadata call it."""

    SD1 = "SD1"
    SD2 = "SD2"
    SDXL = "SDXL"


class Part(str, Enum):
    """A part of a checkpoint; the value is the prefix of its keys in an SD1 file."""

    UNET = "model.diffusion_model."
    VAE = "first_stage_model."
    TEXT_ENCODER = "cond_stage_model."
