"""What a model file is, from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError

Shapes = Mapping[str, tuple[int, ...]]

_UNET = "model.diffusion_model."
_CROSS = f"{_UNET}input_blocks.{{}}.1.transformer_blocks.0.attn2.to_k.weight"


def detect_family(shapes: Shapes, file: object) -> Family:
    """The family of a checkpoint.

    Args:
        shapes: every key of the file with its shape.
        file: named in the error.

    Raises:
        StudioError: not a Stable Diffusion checkpoint; the message says what it is instead.
    """
    if any(key.startswith(f"{_UNET}input_blocks.") for key in shapes):
        if any(key.startswith("conditioner.embedders.") for key in shapes) or f"{_UNET}label_emb.0.0.weight" in shapes:
            return Family.SDXL
        if any(key.startswith("cond_stage_model.model.") for key in shapes):
            return Family.SD2
        if any(key.startswith("cond_stage_model.transformer.") for key in shapes):
            return Family.SD1
        raise StudioError(
            "a checkpoint without a text encoder", file=file, allowed="a whole Stable Diffusion checkpoint"
        )
    raise StudioError(
        f"this file holds {describe(shapes)}", file=file, allowed="a Stable Diffusion checkpoint (.safetensors)"
    )


def describe(shapes: Shapes) -> str:
    """What the tensors of a file that is no Stable Diffusion checkpoint are, in a few words."""
    for words, is_it in _OTHERS:
        if is_it(shapes):
            return words
    return "no model that we know"


def _any_prefix(*prefixes: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(key.startswith(prefixes) for key in shapes)


def _any_part(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in key for key in shapes for part in parts)


# In the order of asking: an adapter of some model names that model's layers too.
_OTHERS: list[tuple[str, Callable[[Shapes], bool]]] = [
    (
        "a LoRA, not a checkpoint",
        _any_part(
            ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".hada_w1_a", ".lokr_w1", ".oft_blocks", "lora_unet_"
        ),
    ),
    ("a ControlNet, not a checkpoint", _any_part("control_model.", "controlnet_", "input_hint_block", "zero_convs.")),
    ("a Stable Diffusion 3 model", _any_part("joint_blocks.")),
    ("a Flux model", _any_part("double_blocks.", "single_transformer_blocks.")),
    ("a Stable Cascade model", _any_part("down_blocks.0.0.channelwise.", "effnet_mapper", "clip_txt_pooled_mapper")),
    (
        "a VAE, not a checkpoint",
        lambda shapes: (
            "decoder.conv_in.weight" in shapes
            or (all(key.startswith("first_stage_model.") for key in shapes) and bool(shapes))
        ),
    ),
    (
        "a textual inversion embedding",
        lambda shapes: set(shapes) & {"emb_params", "string_to_param", "clip_l"} != set(),
    ),
    ("a UNet in diffusers' layout (give the pipeline's single-file checkpoint)", _any_prefix("down_blocks.")),
    ("a text encoder only", _any_prefix("text_model.", "cond_stage_model.")),
    ("no tensors at all", lambda shapes: not shapes),
]
