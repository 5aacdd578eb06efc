from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.text.extra_networks import LoraTag, has_tags, parse_lora_tags


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:x>", LoraTag("x", 1.0, 1.0)),
        ("<lora:x:0.8>", LoraTag("x", 0.8, 0.8)),
        ("<lora:x:0.8:0.5>", LoraTag("x", 0.8, 0.5)),
        ("<lora:x:0.8:0.5:4>", LoraTag("x", 0.8, 0.5, 4)),
        ("<lora:x:unet=0.5>", LoraTag("x", 1.0, 0.5, None, {"unet": "0.5"})),
        ("<lora:x:te=0.5>", LoraTag("x", 0.5, 0.5, None, {"te": "0.5"})),
        ("<lora:x:0.8:te=0.5:dyn=2>", LoraTag("x", 0.5, 0.5, 2, {"te": "0.5", "dyn": "2"})),
        ("<lora:x:-1:lbw=MIDD>", LoraTag("x", -1.0, -1.0, None, {"lbw": "MIDD"})),
        ("<lyco:my lora v1.2:1>", LoraTag("my lora v1.2", 1.0, 1.0)),
    ],
)
def test_tags(tag, expected):
    assert parse_lora_tags(f"a {tag} b") == ("a  b", [expected])


def test_tags_keep_their_order_and_the_text_stays():
    prompt, tags = parse_lora_tags("a <b, (c:1.2)<lora:one:1><lora:two:0.5>, d>")
    assert prompt == "a <b, (c:1.2), d>"
    assert [tag.name for tag in tags] == ["one", "two"]


def test_a_prompt_without_tags_stays():
    assert parse_lora_tags("a < b > c: <3") == ("a < b > c: <3", [])
    assert not has_tags("a < b > c: <3")
    assert has_tags("a <lora:x:1>")


@pytest.mark.parametrize("prompt", ["<hypernet:x:1>", "<lora::1>", "<lora:te=1>", "<lora:x:strong>", "<lora:x:unet=>"])
def test_unusable_tags_are_named(prompt):
    with pytest.raises(StudioError, match="prompt"):
        parse_lora_tags(prompt)
