"""The filter language, against what each picture is."""

from __future__ import annotations

import random

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.dataset.tag_index import TagIndex, bits_of, bits_of_flags, ids_of
from tiny_dataset import ids_of as ids_named

CAPTIONS = {
    "5_zorb/a": "1girl, red hair, hat",
    "5_zorb/b": "1girl, blue_hair, Hat",
    "5_zorb/c": "1boy, red dress, hatsune_miku_(vocaloid), :d",
    "5_zorb/IMG_7": "red, hair, -_-, |_|",
    "other/e": None,
    "other/f": "1girl, A girl with long red hair stands in a field, holding a sword.",
    "other/g": 'the "quoted" tag, a/b, >_<, selected, tags',
}


@pytest.fixture
def collection(opened):
    collection = opened(CAPTIONS)
    collection.count_tokens = lambda text: len(text.split())
    return collection


def names(collection, ids):
    return " ".join(collection.item(number).stem for number in ids)


@pytest.mark.parametrize(
    "query, expected",
    [
        ("", "a b c IMG_7 e f g"),
        ("   ", "a b c IMG_7 e f g"),
        ("1girl", "a b f"),
        ("1GIRL", "a b f"),
        ("1girl -hat", "f"),
        ("1girl !hat", "f"),
        ("hat", "a b"),
        ('"hat"', "a"),
        ('"Hat"', "b"),
        ("-1girl", "c IMG_7 e g"),
        ("NOT 1girl", "c IMG_7 e g"),
        ("NOT NOT 1girl", "a b f"),
        ("red_*", "a c"),
        ("red_hair", "a"),
        ('"red hair"', "a"),
        ('"red_hair"', ""),
        ("red hair", "a IMG_7"),
        ("red hair 1girl", "a"),
        ("1girl red hair", "a"),
        ("red AND hair", "IMG_7"),
        ("red, hair", "IMG_7"),
        ("red_*, -hat, ", "c"),
        ("red_* AND NOT (blue_hair OR hat)", "c"),
        ("red_* AND NOT(blue_hair OR hat)", "c"),
        ("-(1girl OR 1boy)", "IMG_7 e g"),
        ("blue_hair OR 1boy", "b c"),
        ("blue_hair | 1boy", "b c"),
        ("1girl & blue_hair", "b"),
        ("blue_hair OR 1girl hat", "a b"),  # AND binds tighter
        ("1?oy", "c"),
        ("hatsune_miku_(vocaloid)", "c"),
        ("(hatsune_miku_(vocaloid))", "c"),
        (r"hatsune_miku_\(vocaloid\)", "c"),
        (":d", "c"),
        ("-:d 1boy", ""),
        ("-_-", "IMG_7"),
        ("|_|", "IMG_7"),
        (">_<", "g"),
        (r'"the \"quoted\" tag"', "g"),
        ("a/b", "g"),
        ("/^red/", "a c IMG_7"),
        ("/HAIR$/", "a b IMG_7"),
        (r"/a\/b/", "g"),
        ("tag:/^h/ 1girl", "a b"),
        ("tag:hat", "a b"),
        ('tag:"hat"', "a"),
        ("caption:sword", "f"),
        ("caption:RED", "a c IMG_7 f"),
        ('caption:"long red"', "f"),
        ("caption:long*sword", "f"),
        (r"caption:/red \w+,/", "a c"),
        (r"caption:/RED \S+,/", "a c"),
        ("prose:field", "f"),
        ("name:img", "IMG_7"),
        ("name:IMG_*", "IMG_7"),
        ("name:*.png -path:5_zorb/*", "e f g"),
        ("name:g*", "g"),
        ("path:other/", "e f g"),
        ("folder:other", "e f g"),
        ("concept:zorb", "a b c IMG_7"),
        ("tags>3", "c IMG_7 g"),
        ("tags=3", "a b"),
        ("tags==3", "a b"),
        ("tags!=0 tags<3", "f"),
        ("TAGS>=4", "c IMG_7 g"),
        ("characters<1", "e"),
        ("tokens>10", "f"),
        ("width=16 height<=8", "a b c IMG_7 e f g"),
        ("side<8", ""),
        ("ratio>1.9", "a b c IMG_7 e f g"),
        ("megapixels>1", ""),
        ("kilobytes<100 repeats=5", "a b c IMG_7"),
        ("lines>1", ""),
        ("is:captioned", "a b c IMG_7 f g"),
        ("is:uncaptioned", "e"),
        ("is:prose", "f"),
        ("is:untrained", "e f g"),
        ("is:damaged OR is:animated OR is:regularisation", ""),
        ("selected", "a e"),
        ("1girl selected", "a"),
        ("-selected -1girl", "c IMG_7 g"),
        ("is:selected", "a e"),
        ('"selected"', "g"),
        ('"tags"', "g"),
    ],
)
def test_filters(collection, query, expected):
    selected = ids_named(collection, "a", "e")
    assert names(collection, collection.select(query, selected=selected)) == expected


@pytest.mark.parametrize(
    "query, position",
    [
        ("1girl AND", 10),
        ("OR a", 1),
        ("a OR OR b", 6),
        ("(a", 3),
        ("a)", 2),
        ("()", 2),
        ("a AND AND b", 7),
        ("NOT", 4),
        ('a "b', 3),
        ('""', 1),
        ("tags>", 6),
        ("tags>x", 6),
        ("a width<1px", 9),
        ("/a(/", 3),
        ("caption:/[/", 10),
        ("caption:", 9),
        ("is:red", 4),
        ("-(" * 60, 52),
    ],
)
def test_what_cannot_be_understood_is_refused_at_its_position(collection, query, position):
    with pytest.raises(StudioError) as fault:
        collection.select(query)
    assert fault.value.field == "filter"
    assert fault.value.problem.startswith(f"position {position}:"), fault.value.problem


def test_tokens_need_a_tokenizer(collection):
    collection.count_tokens = None
    with pytest.raises(StudioError, match="tokenizer"):
        collection.select("tokens>75")


def test_a_filter_looks_within_what_is_given(collection):
    a, b, c = ids_named(collection, "a", "b", "c")
    assert collection.select("1girl", within=[c, b, a]) == [a, b]


def test_filters_see_every_edit(collection):
    (a,) = ids_named(collection, "a")
    collection.set_captions({a: "unique tag"})
    for query in ("unique_tag", "caption:unique", "tags=1 name:a*", "/^unique/"):
        assert collection.select(query) == [a]
    collection.undo()
    assert collection.select("unique_tag") == collection.select("caption:unique") == []


def test_filters_are_as_right_where_ids_have_gaps(collection):
    a, b = ids_named(collection, "a", "b")
    (collection.folder / "5_zorb" / "b.png").unlink()
    collection.refresh()
    for query in ("caption:red", "tags>3", "name:*7*", "is:captioned", "1girl"):
        expected = [item.id for item in collection.items if item.id in set(collection.select(query))]
        assert collection.select(query) == expected
        assert b not in expected
    assert names(collection, collection.select("caption:red")) == "a c IMG_7 f"
    collection.set_captions({a: "blue"})
    assert names(collection, collection.select("caption:red")) == "c IMG_7 f"


def test_bits_and_ids_are_one_another():
    draw = random.Random(1)
    for _ in range(50):
        ids = sorted(draw.sample(range(300), draw.randint(0, 100)))
        assert ids_of(bits_of(ids)) == ids
        assert bits_of(ids) == sum(1 << number for number in ids)
        assert bits_of_flags(bytes(number in ids for number in range(300))) == bits_of(ids)
    assert bits_of_flags(b"") == 0


def test_an_index_that_was_changed_is_as_one_made_anew():
    draw, tags = random.Random(2), [f"tag {number}" for number in range(12)] + ["TAG_1"]
    items = {number: tuple(draw.sample(tags, 3)) for number in range(30)}
    index = TagIndex(items)
    for _ in range(200):
        number, new = draw.randrange(40), tuple(draw.sample(tags, draw.randint(0, 4)))
        index.change(number, items.get(number, ()), new)
        items[number] = new
    fresh = TagIndex(items)
    assert index.counts() == fresh.counts()
    assert index.counts(bits_of(range(5))) == fresh.counts(bits_of(range(5)))
    assert index.alike("tag 1") == fresh.alike("tag_1")
    assert set(index) == set(fresh)
