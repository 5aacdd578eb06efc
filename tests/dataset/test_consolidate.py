"""Several tags for one thing are made one."""

from __future__ import annotations

import pytest

from lib_lora.dataset.consolidate import subsume, subsumed


@pytest.mark.parametrize(
    "tags, left",
    [
        ("boots, red footwear, red boots", "red boots"),  # the guide's own example
        ("dress, red dress, blue dress", "red dress, blue dress"),
        ("hair, long hair, very long hair", "very long hair"),
        ("animal ears, 1girl, cat ears", "1girl, cat ears"),
        ("black_dress, dress", "black_dress"),
        ("black thighhighs, white legwear", "black thighhighs, white legwear"),
        ("legwear, torn black thighhighs, black legwear", "torn black thighhighs"),
        ("sword, holding sword", "holding sword"),
    ],
)
def test_the_tag_that_says_most_is_kept(tags, left):
    assert ", ".join(subsume(tags.split(", "))) == left


@pytest.mark.parametrize(
    "tags",
    [
        "hair, hair ornament",  # the thing is the last word
        "shoes, no shoes",
        "hip, hand on hip",
        "back, looking back",
        "eyes, closed eyes",
        "shirt, t-shirt",
        "1girl, solo, multiple girls",
        "o_o, o",
        "face, hand on another's face",
        "red boots, red boots",
        "red boots, red_boots",
    ],
)
def test_tags_that_do_not_say_the_same_stay(tags):
    assert subsume(tags.split(", ")) == tags.split(", ")


def test_the_longest_is_named_as_the_one_that_says_it():
    assert subsumed(["hair", "long hair", "very long hair"]) == {
        "hair": "very long hair",
        "long hair": "very long hair",
    }
