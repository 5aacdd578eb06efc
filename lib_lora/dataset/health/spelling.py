"""Tags that are likely another one's slip of the pen. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from lib_lora.dataset.tag_groups import known_words

_SHORTEST_WORD = 5  # letters; shorter words are too often one letter from another word: hat, cat
_RARE = 2  # a slip is made once or twice
_TIMES = 5  # and the right word stands at least so many times as often


def misspelt(counts: Mapping[str, int]) -> dict[str, str]:
    """Tag -> the tag that it is likely to mean.

    A tag counts as misspelt that is on one or two pictures and differs from one that is on five times as many in one
    word, by one letter too many, too few, wrong, or two changed about. Not where that word is known (``known_words``)
    or used in other tags, too, nor where the words are singular and plural.

    Args:
        counts: tags in plain form, and the number of pictures of each.
    """
    used = Counter(word for tag in counts for word in set(tag.split()))
    near: dict[tuple, list[str]] = defaultdict(list)
    for tag, count in counts.items():
        if count >= _TIMES:
            for key in _keys(tag):
                near[key].append(tag)
    found = {}
    for tag, count in counts.items():
        if count <= _RARE:
            right = [
                other
                for key in _keys(tag)
                for other in near.get(key, ())
                if counts[other] >= _TIMES * count and _is_slip(tag, other, used)
            ]
            if right:
                found[tag] = max(right, key=lambda other: (counts[other], other))
    return found


def _keys(tag: str) -> Iterator[tuple]:
    """Two words that are one slip apart have one of these in common (the deletions of Garbe's SymSpell)."""
    words = tag.split()
    for place, word in enumerate(words):
        if len(word) >= _SHORTEST_WORD - 1:
            rest = tuple(words[:place]), tuple(words[place + 1 :])
            for form in {word, *_shortened(word)}:
                yield (*rest, form)


def _shortened(word: str) -> Iterable[str]:
    return (word[:place] + word[place + 1 :] for place in range(len(word)))


def _is_slip(tag: str, other: str, used: Mapping[str, int]) -> bool:
    differing = [(a, b) for a, b in zip(tag.split(), other.split()) if a != b]
    if len(differing) != 1:
        return False
    (wrong, right) = differing[0]
    if min(len(wrong), len(right)) < _SHORTEST_WORD - 1 or max(len(wrong), len(right)) < _SHORTEST_WORD:
        return False
    if any(letter.isdigit() for letter in wrong + right) or wrong + "s" == right or right + "s" == wrong:
        return False
    return used[wrong] == 1 and wrong not in known_words() and _one_apart(wrong, right)


def _one_apart(a: str, b: str) -> bool:
    """Whether the optimal string alignment distance is 1."""
    if len(a) == len(b):
        places = [place for place in range(len(a)) if a[place] != b[place]]
        if len(places) == 2:
            first, second = places
            return second == first + 1 and a[first] == b[second] and a[second] == b[first]
        return len(places) == 1
    short, long = sorted((a, b), key=len)
    return len(long) - len(short) == 1 and short in _shortened(long)
