"""Which tensors of a checkpoint a LoRA's modules mean, whatever names the file has for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from lib_lora.arch.blocks import BASE, block_of
from lib_lora.arch.family import Family, Part, text_parts
from lib_lora.arch.keys import (
    TEXT_PREFIX,
    UNET_PREFIX,
    kohya_key,
    module_name,
    split_prefix,
    text_module_name,
    text_prefix,
    unet_file_name,
)
from lib_lora.arch.ldm import resnets_per_level, text_keys, unet_key

FIRST_ENCODER, SECOND_ENCODER = "lora_te1_", "lora_te2_"
# Other tools' prefixes, and the WebUI's own, that the WebUI takes for these.
_PREFIXES = {
    "oft_unet_": UNET_PREFIX,
    "diffusion_model_": UNET_PREFIX,
    "transformer_text_model_": f"{TEXT_PREFIX}text_model_",
    "model_transformer_": f"{TEXT_PREFIX}transformer_",
    "0_transformer_text_model_": f"{FIRST_ENCODER}text_model_",
    "1_model_transformer_": f"{SECOND_ENCODER}transformer_",
}
_NO_LAYERS = ("embeddings.", "position_embedding", "text_projection")  # that the WebUI changes by a LoRA


@dataclass(frozen=True)
class Layer:
    """A layer of a checkpoint.

    Attributes:
        key: its name in LoRA files: LDM's for SDXL's UNet, diffusers' and transformers' for everything else.
        weight, bias: keys of its tensors in the checkpoint; a layer may have no bias.
        shape: of its weight.
        rows: which rows of the tensors are this layer's, (begin, end): open_clip keeps query, key and value in one.
    """

    key: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None


def checkpoint_layers(shapes: Mapping[str, tuple[int, ...]], family: Family) -> dict[str, Layer]:
    """Every layer of the UNet and the text encoders that a LoRA may change, by its name in LoRA files.

    Args:
        shapes: by the keys of single files (``models.checkpoint_file``); what belongs to neither is left out.
    """
    layers = {}
    for key, weight, rows in _weights(shapes, family):
        bias = weight[: -len("weight")] + "bias"
        shape = shapes[weight] if rows is None else (rows[1] - rows[0], *shapes[weight][1:])
        layers[key] = Layer(key, weight, bias if bias in shapes else None, tuple(shape), rows)
    return layers


def _weights(
    shapes: Mapping[str, tuple[int, ...]], family: Family
) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """(name in LoRA files, key of the weight, rows) of each layer."""
    unet = [key[len(Part.UNET.value) :] for key in shapes if key.startswith(Part.UNET.value)]
    per_level = resnets_per_level(unet) if unet else 0
    for key in unet:
        if not key.endswith(".weight"):
            continue
        try:
            name = unet_key(key, per_level)[: -len(".weight")]
        except KeyError:
            continue
        yield kohya_key(UNET_PREFIX, unet_file_name(name, family is Family.SDXL)), Part.UNET.value + key, None
    parts = text_parts(family)
    for index, part in enumerate(parts):
        prefix = text_prefix(index, len(parts))
        for key in shapes:
            if key.startswith(part.value) and key.endswith("weight"):
                yield from _text_weights(prefix, part.value, key, shapes[key][0])


def _text_weights(prefix: str, part: str, key: str, rows: int) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    try:
        names = text_keys(key[len(part) :])
    except KeyError:
        return
    for number, name in enumerate(names):
        name = text_module_name(name[: -len(".weight")])
        if any(word in name for word in _NO_LAYERS):
            continue
        own = rows // len(names)
        yield kohya_key(prefix, name), key, None if len(names) == 1 else (number * own, (number + 1) * own)


def canonical_key(key: str, family: Family | None) -> str:
    """One name for a layer's several: that of ``Layer.key``. A name that is nobody's stays as it is.

    Args:
        family: None where nobody knows: names are then taken for SD1's and SD2's unless they are SDXL's by LDM.
    """
    key = common_prefix(key)
    if key.startswith(FIRST_ENCODER) and family in (Family.SD1, Family.SD2):
        key = TEXT_PREFIX + key[len(FIRST_ENCODER) :]
    if not key.startswith(UNET_PREFIX):
        return key
    if family is None and key.startswith(tuple(UNET_PREFIX + part for part in ("input_", "middle_", "output_"))):
        return key
    try:
        return kohya_key(UNET_PREFIX, unet_file_name(module_name(key), family is Family.SDXL))
    except KeyError:
        return key


def common_prefix(key: str) -> str:
    """A module's name with kohya's prefix, where another tool's was."""
    for old, new in _PREFIXES.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


@lru_cache(maxsize=8192)  # prompts ask for the blocks of all layers again and again
def block_of_key(key: str) -> str | None:
    """The block that block weights name the layer by: BASE for text encoders, IN00 ... OUT11, None for no block."""
    key = common_prefix(key)
    try:
        prefix, _ = split_prefix(key)
    except KeyError:
        return None
    return block_of(module_name(key)) if prefix == UNET_PREFIX else BASE


def is_text_key(key: str) -> bool:
    """Whether a module belongs to a text encoder."""
    return key.startswith("lora_te")
