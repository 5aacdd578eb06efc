"""Prompt editing as the doctests of A1111's prompt_parser.py document it."""

from __future__ import annotations

import pytest

from lib_lora.text.editing import editing_schedule, split_composition, strip_comments

DOCUMENTED = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|(b:1.1)]", [(step, "a" if step % 2 else "(b:1.1)") for step in range(1, 11)]),
    ("[fe|]male", [(step, "female" if step % 2 else "male") for step in range(1, 11)]),
    ("[fe|||]male", [(step, "female" if step % 4 == 1 else "male") for step in range(1, 11)]),
]
WORKED_OUT = [
    ("[a::4] b", [(4, "a b"), (10, " b")]),
    ("[a:b:0]", [(10, "b")]),
    ("[a:b:99]", [(10, "a")]),
    ("[a:b:c]", [(10, "[a:b:c]")]),
    ("a | b [c:3]", [(10, "a | b [c:3]")]),
    (r"\[a:3\]", [(10, r"\[a:3\]")]),
]


@pytest.mark.parametrize(("prompt", "expected"), DOCUMENTED + WORKED_OUT)
def test_what_holds_up_to_which_step(prompt, expected):
    assert editing_schedule(prompt, 10) == expected


def test_parts_joined_by_and():
    assert split_composition("a cat") == [("a cat", 1.0)]
    parts = split_composition("a cat :1.2 AND a dog AND a bird : -.5 ")
    assert parts == [("a cat", 1.2), (" a dog", 1.0), (" a bird", -0.5)]
    assert split_composition("SAND and HAND") == [("SAND and HAND", 1.0)]


def test_comments_are_removed():
    assert strip_comments("a # b\nc") == "a \nc"
    assert strip_comments("# only\nc") == "\nc"
    assert strip_comments("a, b") == "a, b"
