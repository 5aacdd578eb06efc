"""Which block of a UNet a layer belongs to, and the lists that people write block weights in.

Names are diffusers'; a block is called as in sd-webui-lora-block-weight: IN00 .. IN11, M00, OUT00 .. OUT11, and BASE
for the text encoders. One formula serves every family:

    down_blocks.i.{resnets,attentions}.j  IN(1 + 3i + j)      up_blocks.i.{resnets,attentions}.j  OUT(3i + j)
    down_blocks.i.downsamplers            IN(3 + 3i)          up_blocks.i.upsamplers              OUT(2 + 3i)
    conv_in                               IN00                mid_block                           M00

``time_embedding``, ``add_embedding``, ``conv_norm_out`` and ``conv_out`` belong to no block; ``weights.blocks.vector``
says what that means.

Sources: hako-mikan/sd-webui-lora-block-weight b403cb7; kohya-ss/sd-scripts 48d368f, networks/lora.py,
``get_block_index``.
"""

from __future__ import annotations

import re

from lib_lora.arch.family import Family

BASE, MIDDLE = "BASE", "M00"
_PLACE = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.|$)")
_MIDDLE_PLACES = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")


def _names(word: str, numbers: range | tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{word}{number:02d}" for number in numbers)


_FULL_SD1 = (BASE, *_names("IN", range(12)), MIDDLE, *_names("OUT", range(12)))
_ATTENTION_SD1 = (BASE, *_names("IN", (1, 2, 4, 5, 7, 8)), MIDDLE, *_names("OUT", range(3, 12)))
_FULL_SDXL = (BASE, *_names("IN", range(9)), MIDDLE, *_names("OUT", range(9)))
_ATTENTION_SDXL = (BASE, *_names("IN", (4, 5, 7, 8)), MIDDLE, *_names("OUT", range(6)))

# By length, as the lists are told apart: every block, and those that have attention.
BLOCK_LISTS: dict[Family, dict[int, tuple[str, ...]]] = {
    Family.SD1: {26: _FULL_SD1, 17: _ATTENTION_SD1},
    Family.SD2: {26: _FULL_SD1, 17: _ATTENTION_SD1},
    Family.SDXL: {20: _FULL_SDXL, 12: _ATTENTION_SDXL},
}


def unet_blocks(family: Family) -> tuple[str, ...]:
    """Every block of the family's UNet, in the order of the data."""
    return (_FULL_SDXL if family is Family.SDXL else _FULL_SD1)[1:]


def block_of(module_name: str) -> str | None:
    """The block of a UNet's layer by its diffusers name, such as ``down_blocks.1.attentions.0.proj_in``.

    None for what belongs to no block.
    """
    if module_name == "conv_in":
        return "IN00"
    if module_name.startswith("mid_block."):
        return MIDDLE
    match = _PLACE.match(module_name)
    if not match:
        return None
    level, place = int(match[2]), int(match[4])
    if match[3] in ("downsamplers", "upsamplers"):
        place = 2
    return f"IN{1 + 3 * level + place:02d}" if match[1] == "down_blocks" else f"OUT{3 * level + place:02d}"


def middle_place(module_name: str) -> int | None:
    """Which of the middle block's three parts a layer is in, from 0; sd-scripts weighs them one by one for SDXL."""
    for place, name in enumerate(_MIDDLE_PLACES):
        if module_name.startswith(f"{name}."):
            return place
    return None
