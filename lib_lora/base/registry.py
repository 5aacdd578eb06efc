"""Named things of one kind: optimizers, schedules, networks, samplers, taggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lib_lora.base.errors import StudioError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from a name to a thing. Names are compared without case; a name is given once only.

    Args:
        field: the option that chooses among these names; errors name it.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self._entries: dict[str, tuple[str, T]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that files what it decorates under ``name``.

        Raises:
            ValueError: the name is taken (a mistake in the code, not of a user).
        """

        def add(entry: T) -> T:
            if name.lower() in self._entries:
                raise ValueError(f"{self.field}: {name!r} is registered already")
            self._entries[name.lower()] = (name, entry)
            return entry

        return add

    def get(self, name: str) -> T:
        """The thing called ``name``.

        Raises:
            StudioError: there is none; the message lists the names.
        """
        try:
            return self._entries[name.lower()][1]
        except KeyError:
            raise StudioError("unknown name", field=self.field, came=name, allowed=self.names()) from None

    def names(self) -> list[str]:
        return [name for name, _ in self._entries.values()]

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
