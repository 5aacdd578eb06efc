"""Which parts of a caption are tags and which are sentences."""

from __future__ import annotations

import pytest

from lib_lora.dataset.tags import CaptionParts, split_caption

SENTENCE = "A girl with long red hair stands in a field, holding a sword."


@pytest.mark.parametrize(
    "caption, before, prose, after",
    [
        ("", (), "", ()),
        ("1girl, red hair,hat ,, ", ("1girl", "red hair", "hat"), "", ()),
        # Tags with full stops and many words.
        ("mr. popo, st. gloriana's military uniform, !?, ...", None, "", ()),
        ("girls und panzer, hatsune miku (vocaloid), holding another's wrist", None, "", ()),
        (SENTENCE, (), SENTENCE, ()),
        (f"zorb, 1girl, {SENTENCE}", ("zorb", "1girl"), SENTENCE, ()),
        (f"{SENTENCE} 1girl, red hair", (), SENTENCE, ("1girl", "red hair")),
        (f"zorb, {SENTENCE} 1girl", ("zorb",), SENTENCE, ("1girl",)),
        (
            "zorb, In a green field, a girl with long red hair stands holding a sword",
            ("zorb",),
            "In a green field, a girl with long red hair stands holding a sword",
            (),
        ),
        ("a photo of a zorb dog sitting on a table", (), "a photo of a zorb dog sitting on a table", ()),
    ],
)
def test_tags_and_sentences_are_told_apart(caption, before, prose, after):
    if before is None:
        before = tuple(caption.split(", "))
    assert split_caption(caption) == CaptionParts(before, prose, after)


@pytest.mark.parametrize(
    "caption, tags, expected",
    [
        ("a, b", ["c"], "c"),
        (f"a, {SENTENCE}", ["b", "a"], f"b, a, {SENTENCE}"),
        (f"{SENTENCE} a, b", ["new", "a", "b"], f"new, {SENTENCE} a, b"),
        (f"{SENTENCE} a, b", ["a", "b", "new"], f"{SENTENCE} a, b, new"),
        (f"{SENTENCE} a, b", ["b"], f"{SENTENCE} b"),
        (f"a, {SENTENCE} b", ["a", "c", "b"], f"a, c, {SENTENCE} b"),
        (f"a, {SENTENCE} b", [], SENTENCE),
    ],
)
def test_sentences_stay_where_tags_change_around_them(caption, tags, expected):
    assert split_caption(caption).with_tags(tags) == expected


@pytest.mark.parametrize("caption", ["a, b", SENTENCE, f"a, {SENTENCE} b, c", f"{SENTENCE} a", f"a, {SENTENCE}"])
def test_a_caption_is_put_together_as_it_was(caption):
    parts = split_caption(caption)
    assert parts.with_tags(parts.tags) == caption
