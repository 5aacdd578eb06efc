"""What the plot's axes make of a tag, without a WebUI."""

from __future__ import annotations

import pytest

from lib_lora.hosts.webui.xyz import set_te, set_weights
from lib_lora.weights.blocks.words import read_tag


@pytest.mark.parametrize(
    ("tag", "unet"),
    [
        ("a", 1),
        ("a:0.8", 0.8),
        ("a:0.8:0.5", 0.5),
        ("a:unet=0.25", 0.25),
        ("a:lbw=OUTD:0.8:0.5", 0.5),
        ("a:0.8:OUTX:0.5", 0.8),
        ("a:OUTX:0.5", 1),
    ],
)
def test_the_unets_strength_stays_when_the_text_encoders_changes(tag, unet):
    changed = read_tag(set_te(tag.split(":"), 0.1), family=None)
    assert (changed.te, changed.unet) == (0.1, unet)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("a:0.8", "a:0.8:lbw=OUTD"),
        ("a:0.8:lwb=INX:x=0.2", "a:0.8:x=0.2:lbw=OUTD"),
        ("a:0.8:0.6:INX:0.2", "a:0.8:0.6:x=0.2:lbw=OUTD"),
        ("a:INX:0.2", "a:x=0.2:lbw=OUTD"),
        ("a:0.8:INX:ATTNDEEPON", "a:0.8:lbwe=ATTNDEEPON:lbw=OUTD"),
        ("a:stop=0.5:0.8", "a:0.8:stop=0.5:lbw=OUTD"),
    ],
)
def test_block_weights_take_the_place_of_a_tags_own(tag, expected):
    assert ":".join(set_weights(tag.split(":"), "OUTD")) == expected
