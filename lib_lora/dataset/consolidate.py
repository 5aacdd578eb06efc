"""Several tags for one thing made into one: "boots, red footwear, red boots" -> "red boots". Pure functions.

The guide's rule: of a group of tags for one element, keep the one that says most.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from lib_lora.dataset.tag_groups import in_group, plain, wider_words, words


def subsumed(tags: Sequence[str]) -> dict[str, str]:
    """Tag -> the tag that says the same and more, for those of ``tags`` that one of the others makes needless.

    - The last words of a longer tag are its thing: "red boots" says "boots". Not behind a word that binds otherwise
      ("no shoes", "hand on hip", "looking back").
    - A wider word goes beside a narrower one of the same colour or of no colour: "red footwear" beside "red boots".

    Numbers of people and faces such as ^_^ are left alone. Where several say more, the longest is named.
    """
    present = {plain(tag): tag for tag in reversed(tags)}
    said_by: dict[str, str] = {}
    for longer in sorted(present, key=lambda text: (len(text.split()), text)):
        for said in _said_by(longer):
            if said in present and said != longer:
                said_by[present[said]] = present[longer]
    return {tag: said_by[tag] for tag in dict.fromkeys(tags) if tag in said_by}


def subsume(tags: Sequence[str]) -> list[str]:
    """``tags`` without those that another one makes needless, in their order."""
    needless = subsumed(tags)
    return [tag for tag in tags if tag not in needless]


@functools.lru_cache(maxsize=1 << 18)
def _said_by(tag: str) -> frozenset[str]:
    """Everything, in plain form, that needs no saying beside ``tag``."""
    said = set(_endings(tag))
    # "red boots" and its endings, each with the wider word in place of its last words: red footwear, footwear
    for text in (tag, *said):
        said |= set(_widened(text))
    return frozenset(text for text in said if not in_group(text, "counts"))


def _endings(tag: str) -> Iterable[str]:
    if in_group(tag, "kaomoji"):
        return
    parts = tag.split()
    for start in range(1, len(parts)):
        if parts[start - 1] in words("binding"):
            return
        yield " ".join(parts[start:])


def _widened(tag: str) -> Iterable[str]:
    for narrow, wide in wider_words().items():
        if tag == narrow or tag.endswith(" " + narrow):
            before = tag[: -len(narrow)].split()
            if not set(before) & words("binding"):
                colours = [word for word in before if word in words("colours")]
                yield " ".join([*colours, wide])
                yield wide
