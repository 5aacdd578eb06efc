"""Which items have which tag, as bits: a filter over ten thousand pictures is a few operations on whole numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress

from lib_lora.dataset.tag_groups import plain

_TO_FLAGS, _TO_DIGITS = bytes.maketrans(b"01", b"\0\1"), bytes.maketrans(b"\0\1", b"01")


def bits_of(ids: Iterable[int]) -> int:
    """A number whose bit n is set for each id n."""
    ids = list(ids)
    if not ids:
        return 0
    marks = bytearray((max(ids) >> 3) + 1)
    for number in ids:
        marks[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(marks, "little")


def bits_of_flags(flags: bytes) -> int:
    """A number whose bit n is the n-th of ``flags``, which are 0 or 1."""
    return int(flags[::-1].translate(_TO_DIGITS), 2) if flags else 0


def ids_of(bits: int) -> list[int]:
    """The ids, in rising order, whose bits are set."""
    flags = bin(bits)[:1:-1].encode("ascii").translate(_TO_FLAGS)
    return list(compress(range(len(flags)), flags))


class TagIndex:
    """Tag -> the items that have it."""

    def __init__(self, tags_of: Mapping[int, Iterable[str]]) -> None:
        ids: dict[str, list[int]] = defaultdict(list)
        for number, tags in tags_of.items():
            for tag in tags:
                ids[tag].append(number)
        self._bits = {tag: bits_of(found) for tag, found in ids.items()}
        self._spellings: dict[str, set[str]] = defaultdict(set)
        for tag in ids:
            self._spellings[plain(tag)].add(tag)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def change(self, number: int, old: Iterable[str], new: Iterable[str]) -> None:
        """Item ``number`` had the tags ``old`` and has ``new`` now."""
        bit, old, new = 1 << number, set(old), set(new)
        for tag in old - new:
            self._set(tag, self._bits[tag] & ~bit)
        for tag in new - old:
            self._set(tag, self._bits.get(tag, 0) | bit)

    def exact(self, tag: str) -> int:
        """Bits of the items that have ``tag`` as it is written."""
        return self._bits.get(tag, 0)

    def alike(self, tag: str) -> int:
        """Bits of the items that have ``tag`` in any case, with underscores or spaces."""
        return self._any(self._spellings.get(plain(tag), ()))

    def matching(self, pattern: re.Pattern[str], *, whole: bool) -> int:
        """Bits of the items with a tag that ``pattern`` matches; ``whole``: all of its plain form, else anywhere."""
        if whole:
            spellings = (tags for form, tags in self._spellings.items() if pattern.fullmatch(form))
            return self._any(tag for tags in spellings for tag in tags)
        return self._any(tag for tag in self._bits if pattern.search(tag))

    def counts(self, within: int | None = None) -> list[tuple[str, int]]:
        """(tag, items), the most frequent first, then by name."""
        found = ((tag, (bits if within is None else bits & within).bit_count()) for tag, bits in self._bits.items())
        return sorted(((tag, count) for tag, count in found if count), key=lambda pair: (-pair[1], pair[0]))

    def _any(self, tags: Iterable[str]) -> int:
        bits = 0
        for tag in tags:
            bits |= self._bits[tag]
        return bits

    def _set(self, tag: str, bits: int) -> None:
        if bits:
            if tag not in self._bits:
                self._spellings[plain(tag)].add(tag)
            self._bits[tag] = bits
            return
        del self._bits[tag]
        spellings = self._spellings[plain(tag)]
        spellings.discard(tag)
        if not spellings:
            del self._spellings[plain(tag)]
