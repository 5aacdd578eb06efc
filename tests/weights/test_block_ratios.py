"""Presets that sd-webui-lora-block-weight has for SD1 alone, on SDXL."""

from __future__ import annotations

import pytest

from lib_lora.arch.blocks import BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.block_ratios import PRESETS, parse_ratios

# BASE, IN04, 05, 07, 08, M00, OUT00 ... OUT05, by hand.
BY_HAND = {
    "NONE": "0 0000 0 000000",
    "ALL": "1 1111 1 111111",
    "INS": "1 1100 0 000000",
    "IND": "1 0011 0 000000",
    "INALL": "1 1111 0 000000",
    "MIDD": "1 0011 1 111000",
    "OUTD": "1 0000 0 111000",
    "OUTS": "1 0000 0 000111",
    "OUTALL": "1 0000 0 111111",
    "INX": "1 1111 1 XXXXXX",
    "OUTX": "X XXXX X 111111",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_preset_fits_sdxls_blocks(name):
    found = parse_ratios(name, Family.SDXL, x=0.3)
    numbers = [{"0": 0.0, "1": 1.0, "X": 0.3}[letter] for letter in BY_HAND[name].replace(" ", "")]
    assert [found.by_block[block] for block in BLOCK_LISTS[Family.SDXL][12]] == numbers


def test_a_preset_without_base_takes_every_block():
    found = parse_ratios("LINX", Family.SDXL, x=0.3).by_block
    blocks = BLOCK_LISTS[Family.SDXL][20]
    assert set(found) == set(blocks)
    assert {block for block in blocks if found[block] == 0.3} == {"M00", *(f"OUT{n:02d}" for n in range(9))}


def test_every_preset_fits_every_family():
    for name in PRESETS:
        for family in Family:
            assert parse_ratios(name, family).by_block


def test_lists_of_ones_own_are_not_fitted():
    with pytest.raises(StudioError, match="17 block weights"):
        parse_ratios("OUTD", Family.SDXL, presets={"OUTD": ",".join("1" * 17)})
    with pytest.raises(StudioError, match="17 block weights"):
        parse_ratios(PRESETS["OUTD"], Family.SDXL)
