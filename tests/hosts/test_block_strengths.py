"""The strengths that carry block weights, without a WebUI."""

from __future__ import annotations

import copy
import pickle

import pytest

from lib_lora.arch.family import Family
from lib_lora.hosts.webui.block_weights import Strength
from lib_lora.weights.blocks.words import read_tag

DEEP, FLAT = "lora_unet_up_blocks_1_attentions_0_proj_in", "lora_unet_up_blocks_3_attentions_0_proj_in"


def strength(*tags: str) -> Strength:
    read = [read_tag(tag.split(":"), family=Family.SD1) for tag in tags]
    return Strength((tag.unet, tag) for tag in read)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_is_the_same(copied):
    given = strength("a:0.8:lbw=OUTD", "a:0.3:start=0.5")
    made = copied([given])[0]
    assert made == given and float(made) == float(given) and made.of(DEEP) == given.of(DEEP)


def test_of_several_tags_the_products_are_added():
    given = strength("a:0.5:lbw=OUTD", "a:0.25")
    assert (float(given), given.of(DEEP), given.of(FLAT)) == (0.75, 0.75, 0.25)


def test_it_is_another_where_a_tag_is():
    tags = ["a:0.5:lbw=OUTD", "a:0.5:lbw=OUTS", "a:0.4:lbw=OUTD", "a:0.5:stop=2", "a:0.5"]
    made = [strength(tag) for tag in tags] + [strength(tags[0], tags[-1])]
    assert all((one == other) is (place == at) for place, one in enumerate(made) for at, other in enumerate(made))
    assert strength("a:0.5") != 0.5
