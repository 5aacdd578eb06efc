"""A loaded model: frozen modules, and what one must know to use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib_lora.arch.family import Family


@dataclass
class DiffusionModel:
    """The parts of a checkpoint as modules.

    Every parameter is frozen and may share its storage with a file's memory map or with another program's
    live module: nothing here may be written to. Adapters are attached from outside, by hooks.

    Attributes:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL, in ``compute_dtype``.
        text_encoders: transformers' CLIPTextModels, in the family's order.
        tokenizers: one per text encoder.
        alphas_cumprod: float64 [1000], the product of (1 - beta) up to each timestep.
        prediction_type: "epsilon" or "v_prediction": what the UNet predicts.
        compute_dtype: what activations are computed in.
        name: the checkpoint's name, for metadata and messages.
        path: its file, when there is one.
        vae_path: the file of a VAE that replaced the checkpoint's own.
    """

    family: Family
    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    alphas_cumprod: torch.Tensor
    prediction_type: str
    device: torch.device
    compute_dtype: torch.dtype
    name: str
    path: Path | None = None
    vae_path: Path | None = None

    def modules(self) -> list[torch.nn.Module]:
        return [self.unet, self.vae, *self.text_encoders]
