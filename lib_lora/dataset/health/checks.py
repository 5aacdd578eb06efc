"""The table of checks. A check is a function of the view that yields findings; it is filed under what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lib_lora.base.registry import Registry
from lib_lora.dataset.health.report import Finding
from lib_lora.dataset.health.view import View

Check = Callable[[View], Iterable[Finding]]

CHECKS: Registry[Check] = Registry("kind")
_MAX_NAMES = 5


def many(count: int, one: str = "picture", several: str | None = None) -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
