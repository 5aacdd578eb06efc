"""A caption's parts: tags between commas, and sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lib_lora.text.captions import JOINED_BY

# A part with this many words is a sentence; one that ends as a sentence does needs fewer.
_LONG_WORDS, _CLOSED_WORDS = 8, 4
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")
_WORD_END = re.compile(r"\w{2}[.!?][\"')\]]*$")
# Within a part: the end of a sentence with words before it ("holding a sword. 1girl"), not "mr. popo".
_SENTENCE_BREAK = re.compile(r"(?<=\w{3}[.!?])\s+")


@dataclass(frozen=True)
class CaptionParts:
    """A caption taken apart.

    Attributes:
        before: the tags before the sentences; all tags where there are no sentences.
        prose: the sentences as they stand, with their commas; empty for none.
        after: the tags behind them.
    """

    before: tuple[str, ...]
    prose: str = ""
    after: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        return self.before + self.after

    def with_tags(self, tags: Iterable[str]) -> str:
        """The caption with other tags; the sentences stay as they are, before or behind or among them."""
        tags = list(tags)
        if not self.prose:
            return JOINED_BY.join(tags)
        cut = self._place_of_prose(tags)
        front = JOINED_BY.join([*tags[:cut], self.prose])
        if cut == len(tags):
            return front
        glue = " " if _SENTENCE_END.search(self.prose) else JOINED_BY
        return front + glue + JOINED_BY.join(tags[cut:])

    def _place_of_prose(self, tags: list[str]) -> int:
        """How many of ``tags`` stand before the sentences."""
        if not self.after:
            return len(tags)
        if not self.before:
            return next((place for place, tag in enumerate(tags) if tag in self.after), 0)
        behind = 0
        while behind < min(len(self.after), len(tags)) and tags[-1 - behind] == self.after[-1 - behind]:
            behind += 1
        return len(tags) - behind


def split_caption(caption: str) -> CaptionParts:
    """Tags and sentences of a caption. Sentences reach from the first long part, or the capital letter that begins
    its sentence, to the last part that is long or ends a sentence."""
    parts = tuple(filter(None, map(str.strip, caption.split(","))))
    if not [part for part in parts if part.count(" ") >= _CLOSED_WORDS - 1 and _is_sentence(part)]:
        return CaptionParts(parts)
    pieces = _pieces(caption)
    sentences = [place for place, (text, _, _) in enumerate(pieces) if _is_sentence(text)]
    if not sentences:
        return CaptionParts(parts)
    first = _begin(pieces, sentences[0])
    last = max(place for place, (text, _, _) in enumerate(pieces) if place in sentences or _ends(text, place > first))
    prose = caption[pieces[first][1] : pieces[last][2]]
    texts = [text for text, _, _ in pieces]
    return CaptionParts(tuple(texts[:first]), prose, tuple(texts[last + 1 :]))


def _pieces(caption: str) -> list[tuple[str, int, int]]:
    """(text, begin, end) of what stands between commas and between sentences."""
    pieces, start = [], 0
    for part in caption.split(","):
        begin = start
        for found in [*_SENTENCE_BREAK.finditer(part), None]:
            end = start + (found.start() if found else len(part))
            text = caption[begin:end]
            if text.strip():
                offset = len(text) - len(text.lstrip())
                pieces.append((text.strip(), begin + offset, begin + len(text.rstrip())))
            begin = start + found.end() if found else begin
        start += len(part) + 1
    return pieces


def _ends(part: str, behind: bool) -> bool:
    """Whether a part behind the beginning of the sentences is the end of one, however short: "smiling."."""
    return behind and _WORD_END.search(part) is not None


def _is_sentence(part: str) -> bool:
    words = part.count(" ") + 1
    return words >= _LONG_WORDS or (
        words >= _CLOSED_WORDS and (_SENTENCE_END.search(part) is not None or _SENTENCE_BREAK.search(part) is not None)
    )


def _begin(pieces: list[tuple[str, int, int]], long: int) -> int:
    """The piece with which the sentence begins that the piece ``long`` belongs to."""
    if not pieces[long][0][0].islower():
        return long
    for place in range(long - 1, -1, -1):
        text = pieces[place][0]
        if _SENTENCE_END.search(text):
            break
        if text[0].isupper() and " " in text:
            return place
    return long
