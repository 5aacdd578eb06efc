"""Blocks by their modules. The tables are written out by hand from the original repositories' module lists."""

from __future__ import annotations

import pytest

from lib_lora.arch.blocks import BLOCK_LISTS, block_of, middle_place, unet_blocks
from lib_lora.arch.family import Family
from lib_lora.arch.ldm import unet_key

# ldm's names: what stands in input_blocks.4 is IN04, and so on; the second part is what is in a block.
SD1_BLOCKS = {
    "IN00": "input_blocks.0.0",
    "IN01": "input_blocks.1.0 input_blocks.1.1",
    "IN02": "input_blocks.2.0 input_blocks.2.1",
    "IN03": "input_blocks.3.0.op",
    "IN04": "input_blocks.4.0 input_blocks.4.1",
    "IN05": "input_blocks.5.0 input_blocks.5.1",
    "IN06": "input_blocks.6.0.op",
    "IN07": "input_blocks.7.0 input_blocks.7.1",
    "IN08": "input_blocks.8.0 input_blocks.8.1",
    "IN09": "input_blocks.9.0.op",
    "IN10": "input_blocks.10.0",
    "IN11": "input_blocks.11.0",
    "M00": "middle_block.0 middle_block.1 middle_block.2",
    "OUT00": "output_blocks.0.0",
    "OUT01": "output_blocks.1.0",
    "OUT02": "output_blocks.2.0 output_blocks.2.1.conv",
    "OUT03": "output_blocks.3.0 output_blocks.3.1",
    "OUT04": "output_blocks.4.0 output_blocks.4.1",
    "OUT05": "output_blocks.5.0 output_blocks.5.1 output_blocks.5.2.conv",
    "OUT06": "output_blocks.6.0 output_blocks.6.1",
    "OUT07": "output_blocks.7.0 output_blocks.7.1",
    "OUT08": "output_blocks.8.0 output_blocks.8.1 output_blocks.8.2.conv",
    "OUT09": "output_blocks.9.0 output_blocks.9.1",
    "OUT10": "output_blocks.10.0 output_blocks.10.1",
    "OUT11": "output_blocks.11.0 output_blocks.11.1",
}
SDXL_BLOCKS = {
    "IN00": "input_blocks.0.0",
    "IN01": "input_blocks.1.0",
    "IN02": "input_blocks.2.0",
    "IN03": "input_blocks.3.0.op",
    "IN04": "input_blocks.4.0 input_blocks.4.1",
    "IN05": "input_blocks.5.0 input_blocks.5.1",
    "IN06": "input_blocks.6.0.op",
    "IN07": "input_blocks.7.0 input_blocks.7.1",
    "IN08": "input_blocks.8.0 input_blocks.8.1",
    "M00": "middle_block.0 middle_block.1 middle_block.2",
    "OUT00": "output_blocks.0.0 output_blocks.0.1",
    "OUT01": "output_blocks.1.0 output_blocks.1.1",
    "OUT02": "output_blocks.2.0 output_blocks.2.1 output_blocks.2.2.conv",
    "OUT03": "output_blocks.3.0 output_blocks.3.1",
    "OUT04": "output_blocks.4.0 output_blocks.4.1",
    "OUT05": "output_blocks.5.0 output_blocks.5.1 output_blocks.5.2.conv",
    "OUT06": "output_blocks.6.0",
    "OUT07": "output_blocks.7.0",
    "OUT08": "output_blocks.8.0",
}


def diffusers_name(place: str) -> str:
    """A layer in an ldm place, by its diffusers name."""
    if place == "input_blocks.0.0":
        return unet_key(f"{place}.weight", 2)[: -len(".weight")]
    if place.endswith((".op", ".conv")):
        inside = place
    elif place.endswith(".0") or place == "middle_block.2":
        inside = f"{place}.in_layers.2"
    else:
        inside = f"{place}.transformer_blocks.0.attn1.to_q"
    return unet_key(f"{inside}.weight", 2)[: -len(".weight")]


@pytest.mark.parametrize(
    ("family", "table"), [(Family.SD1, SD1_BLOCKS), (Family.SD2, SD1_BLOCKS), (Family.SDXL, SDXL_BLOCKS)]
)
def test_every_layer_is_in_the_block_that_the_original_numbers_say(family, table):
    assert unet_blocks(family) == tuple(table)
    for block, places in table.items():
        for place in places.split():
            assert block_of(diffusers_name(place)) == block, place


@pytest.mark.parametrize("name", ["time_embedding.linear_1", "add_embedding.linear_2", "conv_norm_out", "conv_out"])
def test_what_is_in_no_block_is_said_to_be_in_none(name):
    assert block_of(name) is None


def test_lists_of_every_length_name_these_blocks():
    attention = [block for block, places in SD1_BLOCKS.items() if any(place[-2:] == ".1" for place in places.split())]
    assert list(BLOCK_LISTS[Family.SD1][26]) == ["BASE", *SD1_BLOCKS]
    assert BLOCK_LISTS[Family.SD2] == BLOCK_LISTS[Family.SD1]
    assert list(BLOCK_LISTS[Family.SD1][17]) == ["BASE", *attention]
    attention = [block for block, places in SDXL_BLOCKS.items() if any(place[-2:] == ".1" for place in places.split())]
    assert list(BLOCK_LISTS[Family.SDXL][20]) == ["BASE", *SDXL_BLOCKS]
    assert list(BLOCK_LISTS[Family.SDXL][12]) == ["BASE", *attention]
    assert {len(names) for lists in BLOCK_LISTS.values() for names in lists.values()} == {12, 17, 20, 26}


def test_the_middle_block_has_three_parts():
    names = ("mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in", "mid_block.resnets.1.conv2")
    assert [middle_place(name) for name in names] == [0, 1, 2]
    assert middle_place("down_blocks.0.resnets.0.conv1") is None
