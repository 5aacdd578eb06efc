"""The families of checkpoints."""

from __future__ import annotations

from enum import Enum


class Family(str, Enum):
    """A family shares layout and key names; the value is what people and metadata call it."""

    SD1 = "SD1"
    SD2 = "SD2"
    SDXL = "SDXL"


# ``ss_base_model_version``, by which the WebUI and model sites know a LoRA's family.
BASE_VERSIONS = {Family.SD1: "sd_v1", Family.SD2: "sd_v2", Family.SDXL: "sdxl_base_v1-0"}
# ``modelspec.architecture``; that of SD2 is for epsilon, and models of v have another.
ARCHITECTURES = {
    Family.SD1: "stable-diffusion-v1",
    Family.SD2: "stable-diffusion-v2-512",
    Family.SDXL: "stable-diffusion-xl-v1-base",
}
MODELSPEC = {
    "modelspec.sai_model_spec": "1.0.1",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
}


class Part(str, Enum):
    """A part of a checkpoint; the value is the prefix of its keys in files of the original layout."""

    UNET = "model.diffusion_model."
    VAE = "first_stage_model."
    TEXT_ENCODER = "cond_stage_model."  # SD1 and SD2
    TEXT_ENCODER_1 = "conditioner.embedders.0."  # SDXL: OpenAI's ViT-L/14
    TEXT_ENCODER_2 = "conditioner.embedders.1."  # SDXL: OpenCLIP's ViT-bigG/14


def text_parts(family: Family) -> tuple[Part, ...]:
    """The text encoders of a family, in its own order."""
    return (Part.TEXT_ENCODER_1, Part.TEXT_ENCODER_2) if family is Family.SDXL else (Part.TEXT_ENCODER,)
