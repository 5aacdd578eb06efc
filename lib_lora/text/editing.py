"""Prompts that change while a picture is made, and prompts made of several: the WebUI's prompt editing.

[from:to:when]   ``from`` up to step ``when``, then ``to``; ``[to:when]``, ``[from::when]``
                 (``when`` with a point is a part of all steps, without one a step)
[a|b|c]          one after the other, step by step
a AND b :0.8     both at once, each with its weight
# ...            a comment up to the end of the line
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COMMENT_LINE = re.compile("(^|\n)#[^\n]*(\n|$)")
_COMMENT = re.compile("#[^\n]*(\n|$)")
_AND = re.compile(r"\bAND\b")
_WEIGHTED = re.compile(r"^(?P<text>.*?)(?:\s*:\s*(?P<weight>[-+]?(?:\d+\.?|\d*\.\d+)))?\s*$", re.DOTALL)
_PLAIN = re.compile(r"(?:[^\\\[\]():|]|\\.)+")
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\]")


def strip_comments(prompt: str) -> str:
    """The prompt without its ``#`` comments, as A1111 v1.10.1 removes them by default."""
    return _COMMENT.sub("\n", _COMMENT_LINE.sub("\n", prompt))


def split_composition(prompt: str) -> list[tuple[str, float]]:
    """The parts between ``AND`` with their weights (``text :weight``, 1 without one)."""
    parts = []
    for part in _AND.split(prompt):
        match = _WEIGHTED.match(part)
        parts.append((match["text"], 1.0 if match["weight"] is None else float(match["weight"])))
    return parts


def editing_schedule(prompt: str, steps: int) -> list[tuple[int, str]]:
    """(last step, text) pairs in order: the text that holds up to and including that step, the last one at ``steps``.

    The meaning is A1111 v1.10.1's (``prompt_parser.get_learned_conditioning_prompt_schedules``). Brackets that
    fit none of the forms, and prompts with a ``|`` outside brackets, are text.
    """
    try:
        nodes = _Parser(prompt).parse()
    except _NoPromptEditing:
        return [(steps, prompt)]
    ends = sorted({steps} | {end for node in nodes for end in _ends(node, steps)})
    return [(end, _text_at(nodes, end, steps)) for end in ends]


@dataclass(frozen=True)
class _Change:
    before: list
    after: list
    when: str

    def last_step(self, steps: int) -> int:
        value = float(self.when)
        return min(steps, int(value * steps if "." in self.when else value))


@dataclass(frozen=True)
class _Alternation:
    options: list[list]


def _ends(node: str | _Change | _Alternation, steps: int) -> set[int]:
    """The steps after which this part of the prompt changes."""
    if isinstance(node, str):
        return set()
    if isinstance(node, _Alternation):
        return set(range(1, steps + 1))
    inner = {end for child in node.before + node.after for end in _ends(child, steps)}
    return inner | {end for end in [node.last_step(steps)] if end >= 1}


def _text_at(nodes: list, step: int, steps: int) -> str:
    texts = []
    for node in nodes:
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, _Alternation):
            texts.append(_text_at(node.options[(step - 1) % len(node.options)], step, steps))
        else:
            texts.append(_text_at(node.before if step <= node.last_step(steps) else node.after, step, steps))
    return "".join(texts)


class _NoPromptEditing(Exception):
    """The text from here on has none of the forms."""


class _Parser:
    """Reads a prompt into strings, ``_Change`` and ``_Alternation``.

    A bracket that opens none of the forms is text on the outermost level; within another form it makes that one
    text as well, since only whole forms may be nested.
    """

    def __init__(self, prompt: str) -> None:
        self.prompt, self.position = prompt, 0

    def parse(self) -> list:
        nodes = []
        while self.position < len(self.prompt):
            nodes += self._sequence()
            if self.position < len(self.prompt):
                stray = self.prompt[self.position]
                if stray not in "[]():":
                    raise _NoPromptEditing
                nodes.append(stray)
                self.position += 1
        return nodes

    def _sequence(self) -> list:
        """Whole forms and plain text, up to what is neither."""
        nodes = []
        while True:
            start = self.position
            plain = _PLAIN.match(self.prompt, start)
            if plain:
                nodes.append(plain.group())
                self.position = plain.end()
                continue
            try:
                nodes += self._form()
            except _NoPromptEditing:
                self.position = start
                return nodes

    def _form(self) -> list:
        opening = self._next("([")
        first = self._sequence()
        if opening == "(":
            return self._round(first)
        separator = self._next("]:|")
        if separator == "]":
            return ["[", *first, "]"]
        return [self._alternation(first) if separator == "|" else self._change(first)]

    def _round(self, first: list) -> list:
        if self._next("):") == ")":
            return ["(", *first, ")"]
        second = self._sequence()
        self._next(")")
        return ["(", *first, ":", *second, ")"]

    def _alternation(self, first: list) -> _Alternation:
        options = [first, self._sequence()]
        while self._next("|]") == "|":
            options.append(self._sequence())
        return _Alternation(options)

    def _change(self, first: list) -> _Change:
        """After ``[first:``, where ``first`` may be the text after the change already."""
        start = self.position
        when = _WHEN.match(self.prompt, start)
        if when:
            self.position = when.end()
            return _Change([], first, when[1])
        after = self._sequence()
        self._next(":")
        when = _WHEN.match(self.prompt, self.position)
        if not when:
            raise _NoPromptEditing
        self.position = when.end()
        return _Change(first, after, when[1])

    def _next(self, allowed: str) -> str:
        found = self.prompt[self.position : self.position + 1]
        if not found or found not in allowed:
            raise _NoPromptEditing
        self.position += 1
        return found
