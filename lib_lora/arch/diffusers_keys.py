"""Key names the other way: from diffusers' folders to the LDM layout of single files.

The tables are made from ``arch.ldm``'s own, so that there is one source of names: every LDM name that could be is
given to it, and what comes out is looked up backwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import product

from lib_lora.arch.ldm import unet_key, vae_key

_UNET_TOP = (
    "input_blocks.0.0.",
    "time_embed.0.",
    "time_embed.2.",
    "label_emb.0.0.",
    "label_emb.0.2.",
    "out.0.",
    "out.2.",
)
_RESNET = ("in_layers.0.", "in_layers.2.", "emb_layers.1.", "out_layers.0.", "out_layers.3.", "skip_connection.")
_ATTENTION = ("norm.", "proj_in.", "proj_out.", "transformer_blocks.")
_MAX_BLOCKS = 24  # of input or output; SD1 and SD2 have 12 of each

_VAE_TOP = ("conv_in.", "conv_out.", "norm_out.", "mid.attn_1.norm.", "mid.attn_1.q.", "mid.attn_1.k.", "mid.attn_1.v.")
_VAE_RESNET = ("norm1.", "conv1.", "norm2.", "conv2.", "nin_shortcut.")
_MAX_VAE_RESNETS = 5  # of one level
# diffusers' own names before version 0.18
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def ldm_unet_keys(keys: Iterable[str]) -> dict[str, str]:
    """LDM's name of each key of diffusers' ``UNet2DConditionModel``, both without prefix.

    Raises:
        KeyError: a key that no Stable Diffusion UNet has.
    """
    keys = list(keys)
    per_level = len({key.split(".")[3] for key in keys if key.startswith("down_blocks.0.resnets.")})
    heads = _inverse(_unet_names(), lambda name: unet_key(name, per_level))
    for level in range(_MAX_BLOCKS // (per_level + 1)):
        # The upsampler stands after the attention where the level has one.
        slot = 2 if any(key.startswith(f"up_blocks.{level}.attentions.") for key in keys) else 1
        heads[f"up_blocks.{level}.upsamplers.0.conv."] = (
            f"output_blocks.{(level + 1) * (per_level + 1) - 1}.{slot}.conv."
        )
    return {key: _renamed(key, heads) for key in keys}


def _unet_names() -> list[str]:
    names = list(_UNET_TOP)
    for part, number in product(("input_blocks", "output_blocks"), range(_MAX_BLOCKS)):
        names += [f"{part}.{number}.0.{rest}" for rest in (*_RESNET, "op.")]
        names += [f"{part}.{number}.1.{rest}" for rest in _ATTENTION]
    for number in (0, 2):
        names += [f"middle_block.{number}.{rest}" for rest in _RESNET]
    return names + [f"middle_block.1.{rest}" for rest in _ATTENTION]


def ldm_vae_keys(keys: Iterable[str]) -> dict[str, str]:
    """LDM's name of each key of diffusers' ``AutoencoderKL``, both without prefix.

    Raises:
        KeyError: a key that no Stable Diffusion VAE has.
    """
    keys = list(keys)
    levels = len({key.split(".")[2] for key in keys if key.startswith("decoder.up_blocks.")})
    heads = _inverse(_vae_names(levels), lambda name: vae_key(name, levels))
    return {key: _renamed(_current_vae_name(key), heads) for key in keys}


def _vae_names(levels: int) -> list[str]:
    names = ["quant_conv.", "post_quant_conv."]
    for side, down in (("encoder", "down"), ("decoder", "up")):
        names += [f"{side}.{rest}" for rest in (*_VAE_TOP, "mid.attn_1.proj_out.")]
        names += [f"{side}.mid.block_{number}.{rest}" for number, rest in product((1, 2), _VAE_RESNET)]
        for level in range(levels):
            blocks = product(range(_MAX_VAE_RESNETS), _VAE_RESNET)
            names += [f"{side}.{down}.{level}.block.{number}.{rest}" for number, rest in blocks]
            names.append(f"{side}.{down}.{level}.{down}sample.conv.")
    return [name + kind for name, kind in product(names, ("weight", "bias"))]


def _current_vae_name(key: str) -> str:
    match = re.match(r"(.*\.attentions\.0\.)(query|key|value|proj_attn)\.(.*)", key)
    return f"{match[1]}{_OLD_VAE_ATTENTION[match[2]]}.{match[3]}" if match else key


def _inverse(names: Iterable[str], rename: Callable[[str], str]) -> dict[str, str]:
    table = {}
    for name in names:
        try:
            table[rename(name)] = name
        except KeyError:
            continue  # no such block
    return table


def _renamed(key: str, heads: dict[str, str]) -> str:
    """The key with its beginning, up to some dot or whole, replaced by what the table has for it."""
    for match in (*re.finditer(r"\.", key), re.search("$", key)):
        head = key[: match.end()]
        if head in heads:
            return heads[head] + key[match.end() :]
    raise KeyError(key)
