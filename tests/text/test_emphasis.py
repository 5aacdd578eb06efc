"""Weights as A1111's wiki and doctests (prompt_parser.py) document them."""

from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.text.emphasis import parse_emphasis

DOCUMENTED = [
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            ("a ", 1.0),
            ("house", 1.573),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641),
            (".", 1.1),
        ],
    ),
]
WORKED_OUT = [
    ("", [("", 1.0)]),
    ("((a))", [("a", 1.21)]),
    ("[a]", [("a", 1 / 1.1)]),
    ("[[a]", [("a", 1 / 1.21)]),
    ("(a:1.3)", [("a", 1.3)]),
    ("(a: 0.5 )b", [("a", 0.5), ("b", 1.0)]),
    ("([a]:2)", [("a", 2 / 1.1)]),
    ("[a:1.3]", [("a:1.3", 1 / 1.1)]),
    ("a:1.3) b", [("a:1.3) b", 1.0)]),
    ("a) b]", [("a) b]", 1.0)]),
    (r"\\ \x (a\))", [("\\ x ", 1.0), ("a)", 1.1)]),
    ("a BREAK b", [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]),
    ("BREAKING b", [("BREAKING b", 1.0)]),
    ("(a:-1)", [("a", -1.0)]),
]


@pytest.mark.parametrize(("prompt", "expected"), DOCUMENTED + WORKED_OUT)
def test_weights(prompt, expected):
    parsed = parse_emphasis(prompt)
    assert [text for text, _ in parsed] == [text for text, _ in expected]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in expected])


def test_a_weight_that_is_no_number_is_named():
    with pytest.raises(StudioError, match=r"prompt.*1\.2\.3"):
        parse_emphasis("(a:1.2.3)")
