"""Texts by name: ours, and on top of them a person's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Named(Mapping[str, str]):
    """Texts by name; a person's own may take a name of ours.

    Args:
        given: ours.
        own: a person's.
        notes: what is wrong with their file, a sentence each.
    """

    def __init__(self, given: Mapping[str, str], own: Mapping[str, str] | None = None, notes: tuple[str, ...] = ()):
        self._values = {**given, **(own or {})}
        self.own = frozenset(own or ())
        self.notes = notes

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
