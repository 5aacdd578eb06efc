"""What becomes of captions. The rules are those of sd-scripts' ``process_caption``; results are worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from lib_lora.base.seeds import Owner
from lib_lora.text.captions import CaptionRules, caption_texts, vary_caption

CAPTION = "zorb, red dog, green hat, smile, night"
TAGS = CAPTION.split(", ")


def varied(rules: CaptionRules, samples=range(200), epoch=1, seed=3, caption=CAPTION) -> list[str]:
    return [vary_caption(caption, rules, Owner(seed, epoch, sample)) for sample in samples]


def test_without_rules_a_caption_stays_as_it_is_written():
    assert vary_caption("a ,b,, c ", CaptionRules(), Owner(0, 1, 0)) == "a ,b,, c "


def test_shuffling_gives_all_orders_equally_often_and_loses_nothing():
    texts = varied(CaptionRules(shuffle_caption=True), range(3000), caption="a, b, c")
    counts = Counter(texts)
    assert sorted(counts) == ["a, b, c", "a, c, b", "b, a, c", "b, c, a", "c, a, b", "c, b, a"]
    assert all(abs(count - 500) < 100 for count in counts.values())  # 5 standard deviations of 20.4


def test_kept_tags_stay_first_and_in_their_order():
    for text in varied(CaptionRules(shuffle_caption=True, keep_tokens=2)):
        tags = text.split(", ")
        assert tags[:2] == TAGS[:2] and sorted(tags) == sorted(TAGS)


def test_more_kept_tags_than_there_are_keep_all():
    assert set(varied(CaptionRules(shuffle_caption=True, keep_tokens=9))) == {CAPTION}


@pytest.mark.parametrize(
    ("caption", "first", "middle", "last"),
    [
        ("a, b ||| c, d, e", ["a", "b"], {"c", "d", "e"}, []),
        ("a ||| b, c ||| d, e", ["a"], {"b", "c"}, ["d", "e"]),
        ("||| b, c", [], {"b", "c"}, []),
    ],
)
def test_the_separator_says_what_stays_in_place_of_keep_tokens(caption, first, middle, last):
    rules = CaptionRules(shuffle_caption=True, keep_tokens=2, keep_tokens_separator="|||")
    for text in varied(rules, caption=caption):
        tags = text.split(", ")
        end = len(tags) - len(last)
        assert (tags[: len(first)], set(tags[len(first) : end]), tags[end:]) == (first, middle, last)


def test_the_separator_never_reaches_the_text_encoder():
    rules = CaptionRules(keep_tokens_separator="|||")
    assert vary_caption("a, b ||| c", rules, Owner(0, 1, 0)) == "a, b, c"
    assert vary_caption("a;b", rules, Owner(0, 1, 0)) == "a;b"


def test_another_separator_divides_tags_which_are_joined_by_commas():
    texts = varied(CaptionRules(shuffle_caption=True, caption_separator=";"), caption="a, b; c")
    assert set(texts) == {"a, b, c", "c, a, b"}


def test_tags_are_dropped_as_often_as_asked_but_not_the_kept_ones():
    texts = varied(CaptionRules(caption_tag_dropout_rate=0.25, keep_tokens=1), range(2000))
    counts = Counter(tag for text in texts for tag in text.split(", "))
    assert counts["zorb"] == 2000
    assert all(abs(counts[tag] - 1500) < 100 for tag in TAGS[1:])  # 5 standard deviations of 19.4
    assert all([tag for tag in TAGS if tag in text.split(", ")] == text.split(", ") for text in texts)


def test_captions_are_dropped_as_often_as_asked():
    texts = varied(CaptionRules(caption_dropout_rate=0.1), range(3000))
    assert set(texts) == {CAPTION, ""}
    assert abs(texts.count("") - 300) < 83  # 5 standard deviations of 16.4


def test_every_third_epoch_is_without_captions():
    rules = CaptionRules(caption_dropout_every_n_epochs=3)
    assert [bool(varied(rules, [0], epoch)[0]) for epoch in range(1, 8)] == [True, True, False, True, True, False, True]


def test_prefix_and_suffix_stand_around_the_caption_and_not_around_nothing():
    rules = CaptionRules(caption_prefix="photo of", caption_suffix="in oil", caption_dropout_every_n_epochs=2)
    assert varied(rules, [0], 1, caption="a dog") == ["photo of a dog in oil"]
    assert varied(rules, [0], 2, caption="a dog") == [""]


def test_a_draw_belongs_to_seed_epoch_and_sample_alone():
    rules = CaptionRules(shuffle_caption=True)
    there = varied(rules, range(50))
    assert there == list(reversed(varied(rules, reversed(range(50)))))
    assert there != varied(rules, range(50), epoch=2) and there != varied(rules, range(50), seed=4)


def test_one_option_leaves_the_draws_of_the_others_as_they_were():
    shuffled = varied(CaptionRules(shuffle_caption=True))
    both = varied(CaptionRules(shuffle_caption=True, caption_tag_dropout_rate=0.3))
    for whole, part in zip(shuffled, both):
        tags = part.split(", ") if part else []
        assert [tag for tag in whole.split(", ") if tag in tags] == tags
    dropped = varied(CaptionRules(shuffle_caption=True, caption_dropout_rate=0.2))
    assert all(text in ("", whole) for text, whole in zip(dropped, shuffled)) and "" in dropped


def test_all_texts_are_told_where_tags_do_not_change():
    rules = CaptionRules(caption_dropout_rate=0.5, caption_prefix="x")
    assert sorted(caption_texts("a", rules)) == ["", "x a"]
    assert set(varied(rules, caption="a")) == {"", "x a"}
    with pytest.raises(ValueError):
        caption_texts("a", CaptionRules(shuffle_caption=True))


def test_a_second_separator_joins_tags_until_the_end():
    rules = CaptionRules(shuffle_caption=True, secondary_separator=";;;")
    texts = varied(rules, caption="a, b;;;c, d")
    assert {text.replace(" ", "").replace("b,c", "bc") for text in texts} == {
        "a,bc,d", "a,d,bc", "bc,a,d", "bc,d,a", "d,a,bc", "d,bc,a"
    }  # fmt: skip
    assert vary_caption("a, b;;;c", CaptionRules(secondary_separator=";;;"), Owner(0, 1, 0)) == "a, b,c"


def test_wildcards_draw_each_word_equally_often():
    counts = Counter(varied(CaptionRules(enable_wildcard=True), range(3000), caption="{red|blue|} {{x}} hat"))
    assert set(counts) == {"red {x} hat", "blue {x} hat", " {x} hat"}
    assert all(abs(count - 1000) < 130 for count in counts.values())  # 5 standard deviations of 25.8


def test_wildcards_are_drawn_one_by_one():
    assert len(set(varied(CaptionRules(enable_wildcard=True), caption="{a|b} {a|b}"))) == 4


def test_one_of_several_lines_is_drawn_and_the_prefix_stands_before_each():
    rules = CaptionRules(enable_wildcard=True, caption_prefix="zorb")
    assert set(varied(rules, caption="red dog\nblue cat")) == {"zorb red dog", "zorb blue cat"}


def test_braces_are_text_where_wildcards_are_not_asked_for():
    assert vary_caption("{a|b}", CaptionRules(), Owner(0, 1, 0)) == "{a|b}"


@pytest.mark.parametrize(
    ("step", "shown"),
    # floor(step (5 - 1) / 8) + 1 of five tags behind the one that stays
    [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (7, 4), (8, 5), (99, 5)],
)
def test_tags_come_one_after_the_other(step, shown):
    rules = CaptionRules(keep_tokens=1, token_warmup_step=8)
    text = vary_caption("zorb, a, b, c, d, e", rules, Owner(0, 1, 0), step, 100)
    assert text == ", ".join(["zorb", *"abcde"[:shown]])


def test_a_tag_warm_up_may_be_a_share_of_the_run_and_begin_with_nothing():
    rules = CaptionRules(token_warmup_step=0.5, token_warmup_min=0)
    shown = [vary_caption("a, b", rules, Owner(0, 1, 0), step, 8) for step in range(5)]
    assert shown == ["", "", "a", "a", "a, b"]


def test_all_texts_cannot_be_told_where_words_are_drawn():
    for rules in (CaptionRules(enable_wildcard=True), CaptionRules(token_warmup_step=3)):
        with pytest.raises(ValueError):
            caption_texts("a", rules)
