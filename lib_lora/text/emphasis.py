r"""The WebUI's ``(more)`` and ``[less]``: how much attention each part of a prompt gets.

    (a)      1.1 times           (a:1.3)    1.3 times           [a]    1 / 1.1 times
    \( \) \[ \] \\               the characters themselves
    BREAK                        begins a new chunk of 75 tokens

Brackets may be nested; their factors are multiplied. One that is never closed counts up to the end.
"""

from __future__ import annotations

import re

from lib_lora.base.errors import StudioError

MORE = 1.1
LESS = 1 / 1.1
BREAK = ("BREAK", -1.0)

_PART = re.compile(
    r"""
    \\ (?P<escaped> [()\[\]\\]? )
    | (?P<open> [(\[] )
    | : \s* (?P<factor> [+-]?[.\d]+ ) \s* \)
    | (?P<close> [)\]] )
    | (?P<text> [^\\()\[\]:]+ | : )
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse_emphasis(prompt: str) -> list[tuple[str, float]]:
    """The prompt as (text, weight) pairs; ``BREAK`` stands for itself.

    Weights follow A1111 v1.10.1 (``prompt_parser.parse_prompt_attention``): factors are multiplied from the
    innermost bracket outwards, ``[a:1.3]`` is no weight, and neighbours of equal weight are joined. An empty
    prompt gives one empty text.

    Raises:
        StudioError: a weight such as ``(a:1.2.3)``.
    """
    parts: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for match in _PART.finditer(prompt):
        kind, found = match.lastgroup, match.group()
        if kind == "escaped":
            parts.append([match["escaped"], 1.0])
        elif kind == "open":
            opened[found].append(len(parts))
        elif kind == "factor" and opened["("]:
            multiply(opened["("].pop(), _number(match["factor"]))
        elif found == ")" and opened["("]:
            multiply(opened["("].pop(), MORE)
        elif found == "]" and opened["["]:
            multiply(opened["["].pop(), LESS)
        else:
            _add_text(parts, found)
    for bracket, factor in (("(", MORE), ("[", LESS)):
        for start in opened[bracket]:
            multiply(start, factor)
    return _join_equal_weights(parts) or [("", 1.0)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise StudioError("this weight is no number", field="prompt", came=text, allowed="e.g. (word:1.2)") from None


def _add_text(parts: list[list], text: str) -> None:
    for index, piece in enumerate(_BREAK.split(text)):
        if index > 0:
            parts.append(list(BREAK))
        parts.append([piece, 1.0])


def _join_equal_weights(parts: list[list]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in parts:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined
