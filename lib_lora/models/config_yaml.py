"""The yaml beside a checkpoint, in LDM's form: what a checkpoint's tensors cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib_lora.base.errors import StudioError


@dataclass(frozen=True)
class ModelYaml:
    """Defaults are SD1's, from Stability's v1-inference.yaml.

    Attributes:
        heads: number of attention heads of the UNet on every level.
        head_channels: channels of one head, where the yaml gives these instead.
        clip_folder: folder with the text encoder's config and vocabulary; None for OpenAI's ViT-L/14.
        path: the file, for messages.
    """

    heads: int | None = 8
    head_channels: int | None = None
    clip_folder: Path | None = None
    scale_factor: float = 0.18215
    beta_start: float = 0.00085
    beta_end: float = 0.012
    parameterization: str = "eps"
    path: Path | None = None


OPENAI_CLIP = "openai/clip-vit-large-patch14"


def yaml_beside(checkpoint: Path) -> ModelYaml:
    """What the yaml of the checkpoint's name beside it says, or SD1's defaults when there is none."""
    path = checkpoint.with_suffix(".yaml")
    return read_model_yaml(path) if path.is_file() else ModelYaml()


def read_model_yaml(path: Path) -> ModelYaml:
    """What a yaml in LDM's form says.

    Raises:
        StudioError: it is not one, or the text encoder's folder that it names is missing.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        unet = params["unet_config"]["params"]
        version = (params["cond_stage_config"].get("params") or {}).get("version")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise StudioError(
            f"not a model configuration ({error})", file=path, allowed="LDM's form, as v1-inference.yaml"
        ) from error
    channels = unet.get("num_head_channels")
    return ModelYaml(
        heads=None if channels else unet.get("num_heads", 8),
        head_channels=channels if channels and channels > 0 else None,
        clip_folder=_clip_folder(version, path),
        scale_factor=float(params.get("scale_factor", 0.18215)),
        beta_start=float(params.get("linear_start", 0.00085)),
        beta_end=float(params.get("linear_end", 0.012)),
        parameterization=str(params.get("parameterization", "eps")),
        path=path,
    )


def _clip_folder(version: Any, path: Path) -> Path | None:
    if version is None or version == OPENAI_CLIP:
        return None
    folder = path.parent / str(version)  # an absolute version stays absolute
    if not folder.is_dir():
        raise StudioError(
            "the text encoder's folder that the yaml names is missing",
            file=path,
            came=str(version),
            allowed=f"a folder beside the yaml, or {OPENAI_CLIP}",
        )
    return folder
