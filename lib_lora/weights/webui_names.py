"""Which modules of a LoRA file WebUI 1.10.1 finds in a model. What it does not find has no effect, silently.

Source: A1111 v1.10.1, extensions-builtin/Lora/networks.py, ``convert_diffusers_name_to_compvis`` and ``load_network``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product

from lib_lora.arch.family import Family
from lib_lora.arch.keys import UNET_PREFIX, kohya_key, text_prefix, unet_file_name
from lib_lora.weights.layers import canonical_key

# Transformer blocks per level of the published UNets, 0 for a level without attention; layers of the text encoders.
_DEPTHS = {Family.SD1: (1, 1, 1, 0), Family.SD2: (1, 1, 1, 0), Family.SDXL: (0, 2, 10)}
_TEXT_LAYERS = {Family.SD1: (12,), Family.SD2: (24,), Family.SDXL: (12, 32)}
_RESNET = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")
_ATTENTION = tuple(f"{part}.{name}" for part in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0"))
_BLOCK = (*_ATTENTION, "ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")
_TEXT_LAYER = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
)
_TOP = ("conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out")
_OPEN_CLIP = {"lora_te_": (Family.SD2,), "lora_te2_": (Family.SDXL,)}
# Names in diffusers' spelling that it has no rule for, or a wrong one; LDM's names are found as they are.
_LDM = ("input_blocks_", "middle_block_", "output_blocks_", "time_embed_", "label_emb_", "out_")
_FIRST_UPSAMPLER = "output_blocks_2_{}_conv"  # behind the attention where there is one: 2 in SDXL, 1 in others
_NO_RULE = ("conv_norm_out", "add_embedding_")
_WRONG_IN_SDXL = "up_blocks_0_upsamplers_"
_PROJECTIONS = tuple(f"_self_attn_{name}_proj" for name in ("q", "k", "v", "out"))


def published_layers(family: Family) -> set[str]:
    """The names in LoRA files of every layer that the family's published models have (``Layer.key``)."""
    is_sdxl = family is Family.SDXL
    names = {kohya_key(UNET_PREFIX, unet_file_name(name, is_sdxl)) for name in _unet_names(family)}
    counts = _TEXT_LAYERS[family]
    for index, layers in enumerate(counts):
        prefix = text_prefix(index, len(counts))
        places = product(range(layers), _TEXT_LAYER)
        names |= {kohya_key(prefix, f"text_model.encoder.layers.{number}.{name}") for number, name in places}
        names.add(f"{prefix}text_model_final_layer_norm")
    return names


def _unet_names(family: Family) -> Iterator[str]:
    depths = _DEPTHS[family]
    yield from _TOP
    if family is Family.SDXL:
        yield from ("add_embedding.linear_1", "add_embedding.linear_2")
    last = len(depths) - 1
    for level, depth in enumerate(depths):
        up = last - level
        for number in range(3):
            if number < 2:
                yield from _places(f"down_blocks.{level}", number, depth)
            yield from _places(f"up_blocks.{up}", number, depth)
        if level < last:
            yield f"down_blocks.{level}.downsamplers.0.conv"
            yield f"up_blocks.{level}.upsamplers.0.conv"
    yield from _places("mid_block", 0, max(depths[-1], 1))
    yield from (f"mid_block.resnets.1.{name}" for name in _RESNET)


def _places(block: str, number: int, depth: int) -> Iterator[str]:
    yield from (f"{block}.resnets.{number}.{name}" for name in _RESNET)
    if depth:
        attention = f"{block}.attentions.{number}"
        yield from (f"{attention}.{name}" for name in ("norm", "proj_in", "proj_out"))
        yield from (f"{attention}.transformer_blocks.{index}.{name}" for index, name in product(range(depth), _BLOCK))


def is_found(key: str, family: Family, layers: Collection[str]) -> bool:
    """Whether the WebUI finds a module of a file in a model of the family with these layers (``Layer.key``)."""
    if canonical_key(key, family) not in layers:
        return False
    prefix = key[: key.index("_", len("lora_")) + 1]
    if prefix in ("lora_unet_", "oft_unet_"):
        name = key[len(prefix) :]
        if name.startswith(_LDM):
            return name != _FIRST_UPSAMPLER.format(1 if family is Family.SDXL else 2)
        is_wrong = family is Family.SDXL and name.startswith(_WRONG_IN_SDXL)
        return prefix == "lora_unet_" and not name.startswith(_NO_RULE) and not is_wrong
    if prefix == "lora_te1_":
        return family is not Family.SD2
    return "_encoder_layers_" in key and not (family in _OPEN_CLIP.get(prefix, ()) and "_layer_norm" in key)


def incomplete_attention(keys: Collection[str], family: Family) -> list[str]:
    """Modules that are found and skipped: of open_clip's attention query, key, value and output go together."""
    prefix = next((name for name, families in _OPEN_CLIP.items() if family in families), None)
    if prefix is None:
        return []
    own = [key for key in keys if key.startswith(prefix) and key.endswith(_PROJECTIONS)]
    heads = {key: key[: key.index("_self_attn_")] for key in own}
    counts = {head: sum(other == head for other in heads.values()) for head in set(heads.values())}
    return sorted(key for key, head in heads.items() if counts[head] < len(_PROJECTIONS))
