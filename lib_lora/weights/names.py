"""Names of LoRA modules in other tools: diffusers' and PEFT's, with dots, and LDM's for every family.

kohya      lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight       as sd-scripts writes them
diffusers  unet.down_blocks.1.attentions.0.proj_in.lora_A.weight               also older spellings, when read
ldm        lora_unet_input_blocks_4_1_proj_in.lora_down.weight                 sd-scripts' names for SDXL's UNet
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lib_lora.arch.family import Family
from lib_lora.arch.keys import TEXT_PREFIX, UNET_PREFIX, kohya_key, module_name, split_prefix, text_module_name
from lib_lora.arch.ldm import sdxl_module_name
from lib_lora.base.errors import StudioError
from lib_lora.weights.layers import FIRST_ENCODER

NAMES = ("kohya", "diffusers", "ldm")

_SIDES = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "down": "lora_down.weight", "up": "lora_up.weight"}
# (pattern, ending of the module's name) of each way that diffusers has written a tensor.
_SPELLINGS = (
    (re.compile(r"(.+)\.(lora_A|lora_B)(?:\.default)?\.weight"), ""),
    (re.compile(r"(.+)\.lora(?:_linear_layer)?\.(down|up)\.weight"), ""),
    (re.compile(r"(.+)\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight"), "processor"),
)
_PARTS = {"unet": UNET_PREFIX, "text_encoder": TEXT_PREFIX, "text_encoder_2": "lora_te2_"}
_BARE = (("text_model.", "text_encoder"), ("down_blocks.", "unet"), ("mid_block.", "unet"), ("up_blocks.", "unet"))
_SETTINGS = "lora_adapter_metadata"  # diffusers from 0.34: what PEFT knows of each part


# How other names begin: kohya's and LDM's, and embeddings that a file carries along.
OTHER_NAMES = ("lora_", "lycoris_", "oft_unet_", "bundle_emb.")


def is_diffusers(keys: Iterable[str]) -> bool:
    """Whether a file's keys are diffusers' or PEFT's."""
    return any(_module_of(key) for key in keys if not key.startswith(OTHER_NAMES))


def from_diffusers(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under kohya's names with diffusers' for the UNet's layers. Alphas that the file's metadata tell
    become tensors; without one alpha is the rank, as PEFT takes it.

    Raises:
        StudioError: a key that no LoRA of Stable Diffusion has.
    """
    settings = _settings(metadata)
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module, suffix = _module_of(key) or _alpha_of(key)
        if suffix is None:
            raise StudioError("is no name of diffusers' or PEFT's that is known", field=key)
        part, name = _split(module)
        own = kohya_key(_PARTS[part], name if part == "unet" else text_module_name(name))
        named[f"{own}.{suffix}"] = tensor
        if suffix == "lora_down.weight":
            alpha = _alpha(settings, part, name, tensor.shape[0])
            if alpha is not None:
                named.setdefault(f"{own}.alpha", torch.tensor(alpha))
    return _with_numbers(named)


def _module_of(key: str) -> tuple[str, str] | None:
    """(module, kohya's suffix)."""
    for pattern, ending in _SPELLINGS:
        match = pattern.fullmatch(key)
        if match and ending:
            layer = "to_out.0" if match[2] == "to_out" else match[2]
            return f"{match[1]}.{layer}", _SIDES[match[3]]
        if match:
            return match[1], _SIDES[match[2]]
    return None


def _alpha_of(key: str) -> tuple[str, str | None]:
    return (key[: -len(".alpha")], "alpha") if key.endswith(".alpha") else (key, None)


def _split(module: str) -> tuple[str, str]:
    """``unet.down_blocks.0.x`` -> ("unet", "down_blocks.0.x").

    Raises:
        StudioError: it begins with no part of Stable Diffusion.
    """
    name = module.replace("base_model.model.", "")
    first, _, rest = name.partition(".")
    if first in _PARTS:
        return first, rest
    for start, part in _BARE:
        if name.startswith(start):
            return part, name
    raise StudioError("belongs to no part of Stable Diffusion", field=module, allowed=[f"{part}..." for part in _PARTS])


def _settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get(_SETTINGS, "{}"))
    except ValueError:
        raise StudioError("is no JSON text", field=_SETTINGS, came=metadata[_SETTINGS]) from None
    return found if isinstance(found, dict) else {}


def _alpha(settings: Mapping[str, Any], part: str, name: str, rank: int) -> float | None:
    """PEFT's scale is alpha / r, with ``use_rslora`` alpha / sqrt(r); patterns match the end of a module's name."""
    patterns = settings.get(f"{part}.alpha_pattern") or {}
    matching = (value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", name))
    alpha = next(matching, settings.get(f"{part}.lora_alpha"))
    if alpha is None:
        return None
    return float(alpha) * (math.sqrt(rank) if settings.get(f"{part}.use_rslora") else 1)


def _with_numbers(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first text encoder is called ``lora_te1_`` where there is a second one: SDXL's."""
    if not _is_sdxl(named):
        return named
    return {
        FIRST_ENCODER + key[len(TEXT_PREFIX) :] if key.startswith(TEXT_PREFIX) else key: t for key, t in named.items()
    }


def _is_sdxl(named: Mapping[str, Tensor]) -> bool:
    """By a second text encoder, a depth that only SDXL has, or the width of its text."""
    wide = (t.shape[1] for key, t in named.items() if "attn2_to_k.lora_down" in key or "attn2_to_v.lora_down" in key)
    return 2048 in wide or any(key.startswith("lora_te2_") or "transformer_blocks_9_" in key for key in named)


def diffusers_name(key: str) -> str:
    """``lora_unet_x_y`` -> ``unet.x.y``, ``lora_te2_...`` -> ``text_encoder_2....``.

    Raises:
        StudioError: no name of a layer.
    """
    try:
        prefix, _ = split_prefix(key)
        name = module_name(key)
    except KeyError:
        raise StudioError("is no name of a layer", field=key) from None
    part = "unet" if prefix == UNET_PREFIX else "text_encoder_2" if prefix == "lora_te2_" else "text_encoder"
    return f"{part}.{name}"


def ldm_key(key: str, family: Family | None) -> str:
    """The module's name with LDM's for the UNet's layers, whatever it is now.

    Raises:
        StudioError: no name of a layer.
    """
    if not key.startswith(UNET_PREFIX):
        return key
    name = module_name(key)
    if name == "up_blocks.0.upsamplers.0.conv" and family is not Family.SDXL:
        # This level has no attention, after which the upsampler would stand.
        return f"{UNET_PREFIX}output_blocks_2_1_conv"
    try:
        return kohya_key(UNET_PREFIX, sdxl_module_name(name))
    except KeyError:
        raise StudioError("is no name of a layer", field=key) from None
