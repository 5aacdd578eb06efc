"""Which part of a prompt is a tag; what a LoRA's says is tested in tests/weights/blocks/test_words.py."""

from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.text.extra_networks import has_tags, split_tags


@pytest.mark.parametrize(
    ("tag", "items"),
    [
        ("<lora:x>", ["x"]),
        ("<lora:x:0.8:unet=0.5>", ["x", "0.8", "unet=0.5"]),
        ("<lyco:my lora v1.2:1>", ["my lora v1.2", "1"]),
    ],
)
def test_a_tag_is_taken_out_as_its_items(tag, items):
    assert split_tags(f"a {tag} b") == ("a  b", [items])


def test_tags_keep_their_order_and_the_text_stays():
    prompt, tags = split_tags("a <b, (c:1.2)<lora:one:1><lora:two:0.5>, d>")
    assert prompt == "a <b, (c:1.2), d>"
    assert tags == [["one", "1"], ["two", "0.5"]]


def test_a_prompt_without_tags_stays():
    assert split_tags("a < b > c: <3") == ("a < b > c: <3", [])
    assert not has_tags("a < b > c: <3")
    assert has_tags("a <lora:x:1>")


def test_a_tag_of_another_kind_is_named():
    with pytest.raises(StudioError, match="prompt: only LoRA tags are known; got: '<hypernet:x:1>'"):
        split_tags("<hypernet:x:1>")
