"""Batch edits: a caption in, a caption out."""

from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.options import options_of
from lib_lora.dataset.edits import EDITS, About, combine, make_edit
from lib_lora.dataset.tag_groups import kaomoji

SENTENCE = "A girl with long red hair stands in a field, holding a sword."


@pytest.mark.parametrize(
    "name, values, caption, expected",
    [
        ("add", {"tags": "x, y"}, "a", "a, x, y"),
        ("add", {"tags": "x"}, "", "x"),
        ("add", {"tags": "x", "at": "front"}, "a", "x, a"),
        ("add", {"tags": "x", "at": "place", "place": 1}, "a, b", "a, x, b"),
        ("add", {"tags": "x", "at": "place", "place": 9}, "a, b", "a, b, x"),
        ("add", {"tags": "red hair, x"}, "Red_Hair, a", "Red_Hair, a, x"),
        ("add", {"tags": "zorb", "at": "front", "move": True}, "a, zorb, b", "zorb, a, b"),
        ("remove", {"tags": "b, red hair"}, "a, b, red_hair, c", "a, c"),
        ("remove", {"tags": "red *"}, "red hat, red_hair, redhead, blue", "redhead, blue"),
        ("remove", {"tags": "b"}, "a,b ,c", "a, c"),
        ("remove", {"tags": "?", "exact": True}, "1girl, v, ?, !, smile", "1girl, v, !, smile"),
        ("rename", {"tags": "*_*", "into": "x", "exact": True}, "a_b, *_*", "a_b, x"),
        ("move_to_front", {"tags": "?", "exact": True}, "a, ?", "?, a"),
        ("rename", {"tags": "boots", "into": "red boots"}, "a, boots, b", "a, red boots, b"),
        ("rename", {"tags": "boots, shoes", "into": "footwear"}, "boots, a, shoes", "footwear, a"),
        ("rename", {"tags": "boots", "into": "footwear"}, "boots, footwear, a", "footwear, a"),
        ("rename", {"tags": "x", "into": "a, b"}, "x, c", "a, b, c"),
        ("rename", {"tags": "1Girl", "into": "1girl"}, "1Girl", "1girl"),
        ("replace", {"find": "red", "into": "blue"}, "red hat, Red scarf", "blue hat, blue scarf"),
        ("replace", {"find": "red", "into": "blue", "match_case": True}, "red hat, Red scarf", "blue hat, Red scarf"),
        ("replace", {"find": "a.b", "into": "x"}, "a.b, aab", "x, aab"),
        ("replace", {"find": r"(\w+) hair", "into": r"hair \1", "regex": True}, "red hair", "hair red"),
        ("replace", {"find": "^red$", "into": "blue", "regex": True, "within": "tag"}, "red, red hat", "blue, red hat"),
        ("replace", {"find": "red", "into": "", "within": "tag"}, "red, red hat", "hat"),
        ("replace", {"find": r"\\", "into": r"\1"}, r"a \\ b", r"a \1 b"),
        ("dedupe", {}, "a, b, A, a_b, a b, b", "a, b, a_b"),
        ("dedupe", {"alike": False}, "a, A, a", "a, A"),
        ("sort", {}, "c, b, a", "a, b, c"),
        ("sort", {"keep_first": 1, "reverse": True}, "zorb, a, b", "zorb, b, a"),
        ("sort", {"by": "length"}, "aaa, b, cc", "b, cc, aaa"),
        ("sort", {"by": "frequency"}, "a, b, c", "b, a, c"),
        ("sort", {"by": "tokens"}, "aaa, b, cc", "b, cc, aaa"),
        ("sort", {"by": "category"}, "a, b c, d", "b c, a, d"),
        ("move_to_front", {"tags": "zorb, 1*"}, "a, 1girl, zorb, 1boy", "zorb, 1girl, 1boy, a"),
        ("truncate", {"tokens": 5}, "ab, cd, e", "ab"),
        ("truncate", {"tokens": None, "tags": 2}, "a, b, c", "a, b"),
        ("truncate", {"tokens": 75}, "a,  b", "a,  b"),
        ("subsume", {}, "boots, red boots, hat", "red boots, hat"),
        ("underscores", {}, "long_hair, ^_^, a", "long hair, ^_^, a"),
        ("underscores", {"into": "underscores"}, "long hair, ^_^", "long_hair, ^_^"),
        ("parentheses", {}, r"miku \(vocaloid\), a", "miku (vocaloid), a"),
        ("parentheses", {"into": "escaped"}, r"miku (vocaloid), \(a\), (o)_(o)", r"miku \(vocaloid\), \(a\), (o)_(o)"),
        ("lower_case", {"keep_first": 1}, "Zorb, Red", "Zorb, red"),
        ("from_name", {}, "", "cat_12"),
        ("from_name", {"pattern": r"([a-z]+)_(\d+)", "policy": "append"}, "a", "a, cat, 12"),
        ("from_name", {"pattern": "dog"}, "a", "a"),
        ("set", {"text": "x,  y"}, "a", "x, y"),
        ("set", {"text": "x", "policy": "if_empty"}, "a", "a"),
        # Sentences stay.
        ("add", {"tags": "x", "at": "front"}, SENTENCE, f"x, {SENTENCE}"),
        ("sort", {}, f"b, a, {SENTENCE}", f"a, b, {SENTENCE}"),
        ("remove", {"tags": "holding a sword."}, f"a, {SENTENCE}", f"a, {SENTENCE}"),
    ],
)
def test_edits(name, values, caption, expected):
    about = About("sub/cat_12.png", {"a": 2, "b": 3, "c": 1}, len, {"b c": 0, "a": 1})
    assert make_edit(name, values)(caption, about) == expected


@pytest.mark.parametrize(
    "name, values",
    [
        ("add", {"tags": "b"}),
        ("remove", {"tags": "x"}),
        ("rename", {"tags": "x", "into": "y"}),
        ("replace", {"find": "x", "into": "y"}),
        ("replace", {"find": "x", "into": "y", "within": "tag"}),
        ("dedupe", {}),
        ("sort", {}),
        ("move_to_front", {"tags": "a"}),
        ("truncate", {"tokens": None}),
        ("subsume", {}),
        ("underscores", {}),
        ("parentheses", {}),
        ("lower_case", {}),
    ],
)
def test_a_caption_without_anything_to_change_stays_as_it_is_written(name, values):
    caption = "a,b ,,  c"
    assert make_edit(name, values)(caption) == caption


def test_shuffling_has_one_order_for_a_seed_and_a_picture():
    caption = "zorb, " + ", ".join(map(str, range(20)))
    shuffle = make_edit("shuffle", {"seed": 3})
    first = shuffle(caption, About("a.png"))
    assert first == shuffle(caption, About("a.png")) != caption
    assert first != shuffle(caption, About("b.png"))
    assert first != make_edit("shuffle", {"seed": 4})(caption, About("a.png"))
    assert first.startswith("zorb, ")
    assert sorted(first.split(", ")) == sorted(caption.split(", "))


def test_faces_keep_their_underscores():
    faces = ", ".join(sorted(kaomoji()))
    assert make_edit("underscores", {})(faces) == faces


@pytest.mark.parametrize(
    "name, values, field",
    [
        ("no_such", {}, "edit"),
        ("add", {}, "tags"),
        ("add", {"tags": " , "}, "tags"),
        ("add", {"tags": "a", "at": "middle"}, "at"),
        ("add", {"tag": "a"}, "tag"),
        ("rename", {"tags": "a"}, "into"),
        ("replace", {}, "find"),
        ("replace", {"find": "(", "regex": True}, "find"),
        ("replace", {"find": "a", "into": r"\1", "regex": True}, "into"),
        ("replace", {"find": "a", "into": r"\g<x>", "regex": True}, "into"),
        ("from_name", {"pattern": "("}, "pattern"),
        ("truncate", {"tokens": 0}, "tokens"),
        ("set", {"text": " "}, "text"),
    ],
)
def test_bad_options_are_refused_at_their_field(name, values, field):
    with pytest.raises(StudioError) as fault:
        make_edit(name, values)
    assert fault.value.field == field


@pytest.mark.parametrize("name, values", [("truncate", {}), ("sort", {"by": "tokens"}), ("sort", {"by": "category"})])
def test_what_is_asked_for_must_be_there(name, values):
    edit = make_edit(name, values)
    assert edit.needs()
    with pytest.raises(StudioError):
        edit("a, b")


def test_every_edit_says_what_it_does():
    for name in EDITS:
        kind = EDITS.get(name)
        assert kind.help
        assert all(info.help for info in options_of(kind))


@pytest.mark.parametrize(
    "old, new, policy, expected",
    [
        ("a", "b", "if_empty", "a"),
        ("", "b", "if_empty", "b"),
        ("a", "b", "overwrite", "b"),
        ("a", "b, a", "append", "a, b"),
        ("a", "b, A", "prepend", "b, a"),
        ("a", "", "overwrite", "a"),
        ("a", "A", "append", "a"),
        ("a", SENTENCE, "append", f"a, {SENTENCE}"),
        (f"a, {SENTENCE}", SENTENCE, "append", f"a, {SENTENCE}"),
    ],
)
def test_two_captions_become_one_by_a_policy(old, new, policy, expected):
    assert combine(old, new, policy) == expected
