"""What an import gives: values of options, and what became of every setting that it came with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError


@dataclass
class Taken:
    """Values of options by name.

    Attributes:
        source: whose settings they are.
        keys: by option, the setting that it was read from.
        changed: settings that mean the same in other words here: ``(key, why)``.
        left_out: settings that could not be taken: ``(key, why)``.
    """

    source: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    changed: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "source": self.source,
            "values": {name: _plain(value) for name, value in self.values.items()},
            "understood": [
                {"key": self.keys.get(name, name), "option": name, "value": _plain(value)}
                for name, value in self.values.items()
            ],
            "changed": _pairs(self.changed),
            "left_out": _pairs(self.left_out),
        }


@dataclass
class Translation:
    """Another program's settings in sd-scripts' names, for the ``Reader``.

    Attributes:
        values: by sd-scripts' name.
        keys: by sd-scripts' name, what the setting is called there, where that differs.
        changed, left_out: as in ``Taken``.
    """

    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    changed: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def take(self, key: str, name: str, value: Any, why: str | None = None) -> None:
        """The setting ``key`` is sd-scripts' ``name``; ``why`` says what is another there than it was."""
        self.values[name] = value
        self.keys[name] = key
        if why:
            self.changed.append((key, why))

    def leave_out(self, key: str, why: str) -> None:
        self.left_out.append((key, why))


@contextmanager
def understood(source: str, **where: Any) -> Iterator[None]:
    """Raises StudioError, with ``where`` they came from, for settings that no program writes like this."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, RecursionError) as error:
        raise StudioError(f"is not as {source} writes it ({type(error).__name__}: {error})", **where) from error


def is_off(value: Any) -> bool:
    """Whether a setting says that something is not used."""
    return value is None or str(value).strip().lower() in ("", "none", "false", "0", "0.0", "[]", "{}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _pairs(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "why": why} for key, why in pairs]
