"""The yaml beside a checkpoint, in LDM's or sgm's form: what a checkpoint's tensors cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.models.diffusers_folder import FolderFacts


@dataclass(frozen=True)
class ModelYaml:
    """Defaults are SD1's, from Stability's v1-inference.yaml.

    Attributes:
        heads: number of attention heads of the UNet, on every level or of each level.
        head_channels: channels of one head, where the yaml gives these instead.
        text_folders: for each text encoder the folder with its config and vocabulary; None for the published ones.
        vocabulary_folder: with the vocabulary, where that lies elsewhere.
        penultimate: SD2's text is the output of the last layer but one (through the final layer norm).
        parameterization: "eps" or "v"; None when nobody says.
        path: the file, for messages.
    """

    heads: int | list[int] | None = 8
    head_channels: int | None = None
    text_folders: tuple[Path | None, ...] = ()
    vocabulary_folder: Path | None = None
    penultimate: bool = False
    scale_factor: float = 0.18215
    beta_start: float = 0.00085
    beta_end: float = 0.012
    parameterization: str | None = None
    path: Path | None = None

    def text_folder(self, index: int) -> Path | None:
        return self.text_folders[index] if index < len(self.text_folders) else None


OPENAI_CLIP = "openai/clip-vit-large-patch14"

# A1111 v1.10.1, sd_models_config.py: v1-inference.yaml, v2-inference.yaml, sd_xl_base.yaml and their inpainting kin.
_PUBLISHED = {
    Family.SD1: ModelYaml(),
    Family.SD2: ModelYaml(heads=None, head_channels=64, penultimate=True),
    Family.SDXL: ModelYaml(heads=None, head_channels=64, scale_factor=0.13025),
}


def published_config(family: Family) -> ModelYaml:
    """What holds for a family's checkpoints that come without a yaml."""
    return _PUBLISHED[family]


def folder_config(facts: FolderFacts) -> ModelYaml:
    """What the configurations of a folder in diffusers' layout say.

    Its text encoder of SD2 is stored without the layer that is never run: nothing is left to skip.
    """
    return ModelYaml(
        heads=facts.heads,
        text_folders=facts.text_folders,
        vocabulary_folder=facts.vocabulary_folder,
        scale_factor=facts.scale_factor,
        beta_start=float(facts.scheduler.get("beta_start", 0.00085)),
        beta_end=float(facts.scheduler.get("beta_end", 0.012)),
    )


def yaml_beside(checkpoint: Path) -> ModelYaml | None:
    """What the yaml of the checkpoint's name beside it says, or None when there is none."""
    path = checkpoint.with_suffix(".yaml")
    return read_model_yaml(path) if path.is_file() else None


def read_model_yaml(path: Path) -> ModelYaml:
    """What a yaml in LDM's form (SD1, SD2) or sgm's (SDXL) says.

    Raises:
        StudioError: it is not one, or the text encoder's folder that it names is missing.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        unet = (params.get("unet_config") or params["network_config"])["params"]
        encoders = _text_encoders(params)
        scaling, schedule = _sgm_denoiser(params)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise StudioError(
            f"not a model configuration ({error})", file=path, allowed="LDM's form, as v1-inference.yaml, or sgm's"
        ) from error
    channels = unet.get("num_head_channels")
    return ModelYaml(
        heads=None if channels else unet.get("num_heads", 8),
        head_channels=channels if channels and channels > 0 else None,
        text_folders=tuple(_text_folder(encoder, path) for encoder in encoders),
        penultimate=any(_params(encoder).get("layer") == "penultimate" for encoder in encoders),
        scale_factor=float(params.get("scale_factor", 0.18215)),
        beta_start=float({**schedule, **params}.get("linear_start", 0.00085)),
        beta_end=float({**schedule, **params}.get("linear_end", 0.012)),
        parameterization="v" if "VScaling" in scaling else str(params.get("parameterization", "eps")),
        path=path,
    )


def _params(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("params") or {}


def _text_encoders(params: dict[str, Any]) -> list[dict[str, Any]]:
    """LDM's one encoder, or those of sgm's embedders that read text."""
    if "cond_stage_config" in params:
        return [params["cond_stage_config"]]
    return [entry for entry in params["conditioner_config"]["params"]["emb_models"] if entry.get("input_key") == "txt"]


def _sgm_denoiser(params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of sgm's scaling class (``VScaling`` means v-prediction) and its schedule's parameters."""
    denoiser = _params(params.get("denoiser_config") or {})
    return (denoiser.get("scaling_config") or {}).get("target", ""), _params(
        denoiser.get("discretization_config") or {}
    )


def _text_folder(encoder: dict[str, Any], path: Path) -> Path | None:
    version = _params(encoder).get("version")
    if version is None or version == OPENAI_CLIP:
        return None
    folder = path.parent / str(version)  # an absolute version stays absolute
    if folder.is_dir():
        return folder
    if "OpenCLIP" in encoder["target"]:
        return None  # the name of the weights that open_clip would fetch
    raise StudioError(
        "the text encoder's folder that the yaml names is missing",
        file=path,
        came=str(version),
        allowed=f"a folder beside the yaml, or {OPENAI_CLIP}",
    )
