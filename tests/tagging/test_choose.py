from __future__ import annotations

import dataclasses
import itertools
import time

import numpy as np
import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.dataset.tags import split_caption
from lib_lora.tagging.choose import Voice, choose, find, is_left_alone, new_caption, spell
from lib_lora.tagging.labels import CATEGORIES
from lib_lora.tagging.options import POLICIES, TagConfig, rules_of
from lib_lora.tagging.scores import Said
from lib_lora.tagging.table import MCUT_CHARACTER_FLOOR, Own, kinds_of, make_table

OWN = Own(0.35, 0.85)
SAID = {
    Label("1girl"): 0.99,
    Label("long_hair"): 0.6,
    Label("smile"): 0.34,
    Label("hat"): 0.2,
    Label("^_^"): 0.5,
    Label("fate_(series)", "copyright"): 0.9,
    Label("saber_(fate)", "character"): 0.9,
    Label("rin_(fate)", "character"): 0.6,
    Label("general", "rating"): 0.3,
    Label("sensitive", "rating"): 0.8,
}


def config(**options) -> TagConfig:
    return dataclasses.replace(TagConfig(), **options)


def test_a_taggers_own_thresholds_count_and_a_tie_is_in():
    assert choose(SAID, config(), OWN) == ["1girl", "saber (fate)", "long hair", "^_^"]
    assert choose({Label("smile"): 0.35}, config(), OWN) == ["smile"]
    assert choose({Label("smile"): 0.5}, config(general_threshold=0.51), OWN) == []


def test_thresholds_of_general_and_of_characters_move_apart():
    assert "hat" in choose(SAID, config(general_threshold=0.1), OWN)
    assert choose(SAID, config(general_threshold=0.95, character_threshold=0.5), OWN) == [
        "1girl",
        "saber (fate)",
        "rin (fate)",
    ]


def test_only_the_wanted_categories_are_written():
    assert choose(SAID, config(categories=("copyright",)), OWN) == ["fate (series)"]
    assert choose(SAID, config(categories=()), OWN) == []


def test_of_ratings_the_likeliest_alone():
    found = choose(SAID, config(rating=True), OWN)
    assert "sensitive" in found and "general" not in found
    low = {Label("general", "rating"): 0.05, Label("explicit", "rating"): 0.04}
    assert choose(low, config(rating=True), OWN) == ["general"]


def test_of_qualities_the_likeliest_alone_where_they_are_wanted():
    said = {Label("best quality", "quality"): 0.4, Label("bad quality", "quality"): 0.3}
    assert choose(said, config(), OWN) == []
    assert choose(said, config(categories=("quality",)), OWN) == ["best quality"]


# MCut against the rule in plain Python: sort, take the largest difference of neighbours, cut in its middle.


def plain_mcut(scores: list[float]) -> float:
    ordered = [*sorted(scores, reverse=True), 0.0]
    gaps = [above - below for above, below in itertools.pairwise(ordered)]
    place = gaps.index(max(gaps))
    return (ordered[place] + ordered[place + 1]) / 2


@pytest.mark.parametrize("seed", range(20))
def test_mcut_cuts_in_the_largest_gap(seed):
    rng = np.random.default_rng(seed)
    general = rng.random(rng.integers(1, 30)).astype(np.float32).astype(float).tolist()
    hero = (rng.random(rng.integers(1, 10)) ** 3).astype(np.float32).astype(float).tolist()
    said = {Label(f"g{number}"): score for number, score in enumerate(general)}
    said |= {Label(f"c{number}", "character"): score for number, score in enumerate(hero)}
    found = choose(said, config(general_mcut=True, character_mcut=True), OWN)
    cut, hero_cut = plain_mcut(general), max(plain_mcut(hero), MCUT_CHARACTER_FLOOR)
    expected = {f"g{number}" for number, score in enumerate(general) if score >= cut}
    expected |= {f"c{number}" for number, score in enumerate(hero) if score >= hero_cut}
    assert set(found) == expected


def test_mcut_of_characters_does_not_touch_general_tags():
    said = {Label("a"): 0.9, Label("b"): 0.4, Label("c", "character"): 0.12}
    assert choose(said, config(character_mcut=True), OWN) == ["a", "b"]


# Spelling


def texts(*names: str, **options) -> list[str | None]:
    chosen = config(**options)
    return spell([Label(name) for name in names], chosen, rules_of(chosen))


def test_underscores_become_spaces_but_for_the_kaomoji():
    faces = ["0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@",
             "^_^", "o_o", "u_u", "x_x", "|_|", "||_||"]  # fmt: skip
    assert len(faces) == 19
    assert texts(*faces, "long_hair") == [*faces, "long hair"]
    assert texts("long_hair", underscores_to_spaces=False) == ["long_hair"]


def test_parentheses_are_escaped_where_it_is_asked_for():
    assert texts("saber_(fate)", "(o)_(o)") == ["saber (fate)", "(o)_(o)"]
    assert texts("saber_(fate)", "(o)_(o)", escape_parentheses=True) == [r"saber \(fate\)", "(o)_(o)"]
    assert texts("a", replace=(r"a => b \(c\)",), escape_parentheses=True) == [r"b \(c\)"]


def test_excluded_tags_by_regular_expressions_for_the_whole_tag_in_either_spelling():
    names = ("long_hair", "short_hair", "hairband", "Hat")
    assert texts(*names, exclude=(".* hair",)) == [None, None, "hairband", "Hat"]
    assert texts(*names, exclude=("long_hair", "hat")) == [None, "short hair", "hairband", None]


def test_replaced_tags():
    assert texts("gray_hair", "smile", replace=("gray hair => grey hair", "SMILE =>")) == ["grey hair", None]
    assert texts("=_=", replace=("=_= => sleepy",)) == ["sleepy"]


@pytest.mark.parametrize(
    "options, field",
    [
        ({"exclude": ("(",)}, "exclude"),
        ({"replace": ("a -> b",)}, "replace"),
        ({"replace": ("=> b",)}, "replace"),
        ({"categories": ("rating",)}, "categories"),
        ({"taggers": ()}, "taggers"),
    ],
)
def test_what_cannot_be_understood_is_refused_at_its_option(options, field):
    with pytest.raises(StudioError) as caught:
        rules_of(config(**options))
    assert caught.value.field == field


def test_tags_that_are_always_added_and_tags_that_come_first():
    found = choose(SAID, config(always_add=("zorb", "1girl"), first_tags=("long hair", "hat")), OWN)
    assert found == ["long hair", "zorb", "1girl", "saber (fate)", "^_^"]


def test_the_alphabet_for_an_order():
    assert choose(SAID, config(order="alphabet"), OWN) == ["1girl", "^_^", "long hair", "saber (fate)"]


def test_where_nothing_was_found_nothing_is_added():
    assert choose({Label("hat"): 0.1}, config(always_add=("zorb",)), OWN) == []


def test_a_sentence_comes_before_the_tags_as_it_was_said():
    said = {Label("hat"): 0.9, Label("a cat_dog, on a mat.", "sentence"): 1.0}
    assert choose(said, config(exclude=(".*cat.*",)), OWN) == ["a cat_dog, on a mat.", "hat"]


# Several taggers, many pictures


def _packed(said: dict[Label, float], numbers: dict[Label, int]) -> Said:
    labels = np.array([numbers[label] for label in said], np.uint32)
    return Said(labels, np.array(list(said.values()), np.float32))


def voice(said: list[dict[Label, float] | None], chosen: TagConfig, own: Own = OWN) -> Voice:
    labels = list(dict.fromkeys(label for each in said if each for label in each))
    numbers = {label: number for number, label in enumerate(labels)}
    rows = [None if each is None else _packed(each, numbers) for each in said]
    return Voice(make_table(labels, kinds_of(labels), rows), spell(labels, chosen, rules_of(chosen)), own)


def test_several_taggers_add_up_each_with_its_own_threshold():
    first = [{Label("long_hair"): 0.5, Label("hat"): 0.3}, None, {Label("hat"): 0.9}]
    second = [{Label("long hair"): 0.8, Label("cat"): 0.65}, {Label("cat"): 0.7}, None]
    found = find([voice(first, config()), voice(second, config(), Own(0.7, 0.7))], config())
    assert [found.parts(picture, config()) for picture in range(3)] == [["long hair"], ["cat"], ["hat"]]
    assert found.score[found.picture == 0].tolist() == pytest.approx([0.8])
    assert found.looked_at.tolist() == [True, True, True]


def test_tags_on_too_few_of_the_pictures_are_left_out():
    said = [{Label("a"): 0.9, Label("b"): 0.9}, {Label("a"): 0.9}, {Label("a"): 0.9}, None, {Label("c"): 0.9}]
    found = find([voice(said, config())], config(minimum_fraction=0.5))
    assert [found.parts(picture, config()) for picture in range(5)] == [["a"], ["a"], ["a"], [], []]
    assert find([voice(said, config())], config(minimum_fraction=0.25)).parts(0, config()) == ["a", "b"]


def test_many_pictures_at_once_are_as_one_after_the_other():
    rng = np.random.default_rng(3)
    labels = [Label(f"tag_{number}", CATEGORIES[number % len(CATEGORIES)]) for number in range(40)]
    said = []
    for _ in range(30):
        chosen = rng.choice(40, rng.integers(0, 40), replace=False)
        said.append({labels[number]: float(np.float32(rng.random())) for number in chosen})
    for options in (
        {},
        {"general_mcut": True, "character_mcut": True},
        {"rating": True, "categories": ("general", "meta", "quality"), "general_threshold": 0.7},
        {"replace": ("tag 0 => tag 8",), "exclude": ("tag_1.",), "order": "alphabet"},
    ):
        chosen = config(**options)
        found = find([voice(said, chosen)], chosen)
        assert [found.parts(picture, chosen) for picture in range(30)] == [choose(each, chosen, OWN) for each in said]


def test_a_moved_threshold_takes_milliseconds_for_ten_thousand_pictures():
    rng = np.random.default_rng(0)
    labels = [Label(f"tag_{number}", "character" if number > 8000 else "general") for number in range(10_000)]
    said = [
        Said(rng.integers(0, 10_000, 90).astype(np.uint32), rng.random(90).astype(np.float32) ** 3)
        for _ in range(10_000)
    ]
    spelt = spell(labels, config(), rules_of(config()))
    table = make_table(labels, kinds_of(labels), said)
    seconds = []
    for threshold in (0.2, 0.3, 0.4):
        began = time.process_time()
        found = find([Voice(table, spelt, OWN)], config(general_threshold=threshold))
        seconds.append(time.process_time() - began)
        assert len(found.text) > 100_000
    print(f"{min(seconds) * 1000:.0f} ms")
    assert min(seconds) < 0.05


# Captions


@dataclasses.dataclass
class Picture:
    """What of an ``Item`` counts here."""

    caption: str | None
    caption_name: str | None = "a.txt"

    @property
    def tags(self) -> tuple[str, ...]:
        return split_caption(self.caption).tags

    @property
    def prose(self) -> str:
        return split_caption(self.caption).prose


@pytest.mark.parametrize(
    "picture, left",
    [
        (Picture(None, None), set()),
        (Picture(""), {"skip"}),
        (Picture("dog"), {"skip", "if_empty"}),
        (Picture(None), set(POLICIES)),  # there is a file, and it cannot be read
    ],
)
def test_which_captions_are_left_alone(picture, left):
    assert {policy for policy in POLICIES if is_left_alone(picture, policy)} == left


@pytest.mark.parametrize(
    "caption, policy, expected",
    [
        (None, "append", "1girl, long hair"),
        ("", "prepend", "1girl, long hair"),
        ("zorb, dog", "overwrite", "1girl, long hair"),
        ("zorb, dog", "append", "zorb, dog, 1girl, long hair"),
        ("zorb, dog", "prepend", "1girl, long hair, zorb, dog"),
        ("zorb, Long_Hair , ", "append", "zorb, Long_Hair, 1girl"),
        ("long hair,1girl", "append", "long hair,1girl"),
        ("long hair,1girl", "prepend", "long hair,1girl"),
        (
            "A girl with long hair, a hat and 1girl.",
            "append",
            "A girl with long hair, a hat and 1girl., 1girl, long hair",
        ),
    ],
)
def test_what_becomes_of_a_caption(caption, policy, expected):
    assert new_caption(Picture(caption), ["1girl", "long hair"], policy) == expected


@pytest.mark.parametrize("policy", ["overwrite", "append", "prepend"])
@pytest.mark.parametrize(
    "sentence",
    ["A girl is standing in a wide green field.", "a dog, a cat", "a girl, standing in a very wide green field"],
)
def test_a_caption_that_was_written_once_is_not_changed_by_a_second_run(policy, sentence):
    parts = [sentence, "1girl"]
    once = new_caption(Picture("zorb, dog"), parts, policy)
    assert new_caption(Picture(once), parts, policy) == once
