"""Key names and configurations: LDM (what checkpoint files hold) to diffusers (what our modules use).

Everything is read off names and shapes. A shape cannot tell the number of attention heads: that comes from
the yaml beside the file, from the live model or from the family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lib_lora.base.errors import StudioError

Shapes = Mapping[str, tuple[int, ...]]
SDXL_RESNETS = 2  # per level
SIZE_CONDITIONS = 6  # original height and width, crop top and left, target height and width

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_TOP = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}
_OPEN_CLIP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",  # transposed: open_clip computes x P
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def _is_resnet(rest: str) -> bool:
    return rest.startswith(("in_layers", "emb_layers", "out_layers", "skip_connection"))


def _resnet(rest: str) -> str:
    for old, new in _RESNET.items():
        if rest.startswith(old + "."):
            return new + rest[len(old) :]
    raise KeyError(rest)


def _count(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern's group matches; 0 when nothing does."""
    found = [int(match.group(1)) for key in keys if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


def resnets_per_level(keys: Iterable[str]) -> int:
    """The UNet's residual blocks per level (2 in every SD family), from where its first downsampler stands."""
    for key in sorted(keys, key=_natural):
        match = re.match(r"input_blocks\.(\d+)\.0\.op\.", key)
        if match:
            return int(match.group(1)) - 1
    raise StudioError("the UNet has no downsampler: not a Stable Diffusion UNet")


def _natural(text: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def unet_key(key: str, per_level: int) -> str:
    """The diffusers name of one LDM UNet key (both without prefix), e.g.
    ``input_blocks.1.1.proj_in.weight`` -> ``down_blocks.0.attentions.0.proj_in.weight``.

    Raises:
        KeyError: the key is no part of a Stable Diffusion UNet.
    """
    for old, new in _UNET_TOP.items():
        if key.startswith(old + "."):
            return new + key[len(old) :]
    match = re.match(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.*)", key)
    if not match:
        raise KeyError(key)
    part, number, rest = match.group(1), match.group(2), match.group(3)
    if part == "middle_block":
        return f"{_MIDDLE[number]}.{_resnet(rest) if number in '02' else rest}"
    slot, _, rest = rest.partition(".")
    if part == "input_blocks":
        level, place = divmod(int(number) - 1, per_level + 1)
        block = f"down_blocks.{level}"
        if rest.startswith("op."):
            return f"{block}.downsamplers.0.conv.{rest[3:]}"
    else:
        level, place = divmod(int(number), per_level + 1)
        block = f"up_blocks.{level}"
        if rest.startswith("conv."):
            return f"{block}.upsamplers.0.{rest}"
    if slot == "0" and _is_resnet(rest):
        return f"{block}.resnets.{place}.{_resnet(rest)}"
    if slot == "1" and rest.startswith(("norm.", "proj_in.", "proj_out.", "transformer_blocks.")):
        return f"{block}.attentions.{place}.{rest}"
    raise KeyError(key)


def vae_key(key: str, levels: int) -> str:
    """The diffusers name of one LDM VAE key (both without prefix).

    Raises:
        KeyError: the key is no part of the VAE (a discriminator's, say).
    """
    if key.startswith(("quant_conv.", "post_quant_conv.")):
        return key
    match = re.match(r"(encoder|decoder)\.(.*)", key)
    if not match:
        raise KeyError(key)
    side, rest = match.groups()
    if rest.startswith(("conv_in.", "conv_out.")):
        return key
    if rest.startswith("norm_out."):
        return f"{side}.conv_{rest}"
    if match := re.match(r"mid\.block_([12])\.(.*)", rest):
        return f"{side}.mid_block.resnets.{int(match.group(1)) - 1}.{_shortcut(match.group(2))}"
    if match := re.match(r"mid\.attn_1\.(\w+)\.(\w+)", rest):
        return f"{side}.mid_block.attentions.0.{_VAE_ATTENTION[match.group(1)]}.{match.group(2)}"
    if match := re.match(r"(down|up)\.(\d+)\.block\.(\d+)\.(.*)", rest):
        return f"{side}.{_vae_block(match, levels)}.resnets.{match.group(3)}.{_shortcut(match.group(4))}"
    if match := re.match(r"(down|up)\.(\d+)\.(down|up)sample\.(.*)", rest):
        return f"{side}.{_vae_block(match, levels)}.{match.group(3)}samplers.0.{match.group(4)}"
    raise KeyError(key)


def _vae_block(match: re.Match[str], levels: int) -> str:
    # LDM numbers the decoder's levels from fine to coarse, diffusers in the order they run.
    number = int(match.group(2))
    return f"down_blocks.{number}" if match.group(1) == "down" else f"up_blocks.{levels - 1 - number}"


def _shortcut(rest: str) -> str:
    return rest.replace("nin_shortcut", "conv_shortcut")


def sdxl_module_name(name: str) -> str:
    """The LDM name of a module of SDXL's UNet in diffusers, the inverse of ``unet_key``: sd-scripts names SDXL's
    layers by it, e.g. ``down_blocks.1.attentions.0.proj_in`` -> ``input_blocks.4.1.proj_in``.

    Raises:
        KeyError: no module of SDXL's UNet.
    """
    for old, new in _UNET_TOP.items():
        if name == new:
            return old
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, number, rest = match.groups()
        return (
            f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(number)}.{_ldm_resnet(rest)}"
        )
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if not match:
        raise KeyError(name)
    side, level, kind, number, rest = match.groups()
    first = int(level) * (SDXL_RESNETS + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + SDXL_RESNETS + 1}.0.op"
    if kind == "upsamplers":  # comes after the attention, which each of SDXL's blocks with an upsampler has
        return f"output_blocks.{first + SDXL_RESNETS}.2.conv"
    block = f"input_blocks.{first + 1 + int(number)}" if side == "down" else f"output_blocks.{first + int(number)}"
    return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.0.{_ldm_resnet(rest)}"


def _ldm_resnet(rest: str) -> str:
    return next((old for old, new in _RESNET.items() if rest == new), rest)


def text_keys(key: str) -> tuple[str, ...]:
    """The names in transformers' CLIP of one tensor of a text encoder, in the form ``text_model.encoder...``.

    Known layouts (keys without the part's prefix): ``transformer.text_model.`` and, in older files, ``transformer.``
    as transformers writes them, and ``model.`` as open_clip does. A key of open_clip's fused projection has three
    names: its first dimension holds query, key and value one after the other.

    Raises:
        KeyError: the key is no part of a text encoder.
    """
    if key.startswith("model."):
        return _open_clip_keys(key[len("model.") :])
    name = key[len("transformer.") :] if key.startswith("transformer.") else key
    if name.startswith(("text_model.", "text_projection.")):
        return (name,)
    if name.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return (f"text_model.{name}",)
    raise KeyError(key)


def _open_clip_keys(key: str) -> tuple[str, ...]:
    """Source: open_clip, ``TextTransformer`` and ``ResidualAttentionBlock`` in open_clip/transformer.py."""
    if key in _OPEN_CLIP:
        return (_OPEN_CLIP[key],)
    match = re.match(r"transformer\.resblocks\.(\d+)\.(.*)[._](weight|bias)$", key)
    if not match:
        raise KeyError(key)
    number, rest, kind = match.groups()
    layer = f"text_model.encoder.layers.{number}"
    if rest == "attn.in_proj":
        return tuple(f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
    return (f"{layer}.{_OPEN_CLIP_LAYER[rest]}.{kind}",)


def is_open_clip(keys: Iterable[str]) -> bool:
    """Whether a text encoder's keys (without the part's prefix) are in open_clip's layout."""
    return any(key.startswith("model.transformer.resblocks.") for key in keys)


def unet_config(shapes: Shapes, heads: int | list[int], pooled_width: int | None = None) -> dict[str, Any]:
    """Arguments of diffusers' ``UNet2DConditionModel`` for an LDM UNet.

    Args:
        shapes: LDM keys without prefix, with the tensors' shapes.
        heads: number of attention heads, one for all levels or one per level.
        pooled_width: of SDXL's pooled text; the rest of ``label_emb``'s input is shared by the six size conditions.
    """
    per_level = resnets_per_level(shapes)
    inputs = _count(shapes, r"input_blocks\.(\d+)\.")
    levels = inputs // (per_level + 1)
    channels, attention, depth = [], [], []
    for level in range(levels):
        first = f"input_blocks.{1 + level * (per_level + 1)}"
        channels.append(shapes[f"{first}.0.out_layers.3.weight"][0])
        attention.append(f"{first}.1.proj_in.weight" in shapes)
        depth.append(_count(shapes, re.escape(first) + r"\.1\.transformer_blocks\.(\d+)\.") or 1)
    context = next(shapes[key][1] for key in shapes if key.endswith("attn2.to_k.weight"))
    return {
        **_added_conditions(shapes, pooled_width),
        "sample_size": 64,
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": tuple(channels),
        "layers_per_block": per_level,
        "down_block_types": tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        "transformer_layers_per_block": depth if len(set(depth)) > 1 else depth[0],
        "cross_attention_dim": context,
        # In this class the argument of this name is the number of heads (diffusers #2011).
        "attention_head_dim": tuple(heads) if isinstance(heads, list) else heads,
        "use_linear_projection": any(
            key.endswith(".proj_in.weight") and len(shape) == 2 for key, shape in shapes.items()
        ),
    }


def _added_conditions(shapes: Shapes, pooled_width: int | None) -> dict[str, Any]:
    """SDXL's ``vector`` condition (sgm's ``ConcatTimestepEmbedderND``): the pooled text, then six embedded sizes."""
    if pooled_width is None:
        return {}
    width = shapes["label_emb.0.0.weight"][1]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (width - pooled_width) // SIZE_CONDITIONS,
        "projection_class_embeddings_input_dim": width,
    }


def vae_config(shapes: Shapes, scaling_factor: float) -> dict[str, Any]:
    """Arguments of diffusers' ``AutoencoderKL`` for an LDM VAE; ``shapes`` as in ``unet_config``."""
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "block_out_channels": tuple(shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)),
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": shapes["post_quant_conv.weight"][1],
        "scaling_factor": scaling_factor,
    }


def vae_levels(shapes: Iterable[str]) -> int:
    return _count(shapes, r"encoder\.down\.(\d+)\.")
