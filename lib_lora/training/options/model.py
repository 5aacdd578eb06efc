"""Options: what is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import REQUIRED, option

GROUP = "Model"


@dataclass(frozen=True)
class ModelOptions:
    """The group "Model"."""

    pretrained_model_name_or_path: Path = option(
        REQUIRED,
        "checkpoint to train on: .safetensors, .ckpt, .pt, or a folder in diffusers' layout",
        group=GROUP,
        label="Checkpoint",
        folder="models",
    )
    vae: Path | None = option(
        None,
        "VAE that replaces the checkpoint's own: .safetensors, .ckpt, .pt, .bin, or diffusers' folder",
        group=GROUP,
        label="VAE",
        folder="models",
    )
    clip_skip: int = option(
        1,
        "text encoder layer to take, counted from the end (SD1; the others have theirs)",
        minimum=1,
        maximum=12,
        group=GROUP,
        label="CLIP skip",
    )
    prediction_type: str = option(
        "auto",
        "what the UNet predicts; auto finds out",
        choices=("auto", "epsilon", "v_prediction"),
        level="advanced",
        group=GROUP,
    )
    zero_terminal_snr: str = option(
        "auto",
        "noise schedule that ends in noise alone (arXiv 2305.08891); auto finds out",
        choices=("auto", "on", "off"),
        level="advanced",
        group=GROUP,
        label="Zero terminal SNR",
    )
