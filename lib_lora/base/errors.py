"""The one error type that a person may see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class StudioError(Exception):
    """Something that a person gave, or a file they chose, cannot be used.

    Args:
        problem: one sentence that says what is wrong.
        field: the option's name, when an option is at fault.
        file: the file or folder at fault.
        came: the value that came.
        allowed: what would have been accepted, as a sentence or as a list of choices.
    """

    def __init__(
        self,
        problem: str,
        *,
        field: str | None = None,
        file: object | None = None,
        came: object | None = None,
        allowed: str | Iterable[object] | None = None,
    ) -> None:
        self.problem = problem
        self.field = field
        self.file = None if file is None else str(file)
        self.came = came
        if allowed is not None and not isinstance(allowed, str):
            allowed = ", ".join(str(choice) for choice in allowed)
        self.allowed = allowed
        super().__init__(self._message())

    def to_json(self) -> dict[str, Any]:
        """What a page shows: ``message`` is all in one, for where the parts do not stand beside it."""
        came = self.came if isinstance(self.came, (str, int, float, bool, type(None))) else str(self.came)
        parts = {"field": self.field, "file": self.file, "came": came, "allowed": self.allowed}
        return {"message": str(self), "problem": self.problem, **parts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StudioError:
        """What ``to_json`` was given."""
        return cls(values["problem"], **{name: values[name] for name in ("field", "file", "came", "allowed")})

    def _message(self) -> str:
        subject = self.field or self.file
        parts = [f"{subject}: {self.problem}" if subject else self.problem]
        if self.field and self.file:
            parts.append(f"file: {self.file}")
        if self.came is not None:
            parts.append(f"got: {self.came!r}")
        if self.allowed is not None:
            parts.append(f"allowed: {self.allowed}")
        return "; ".join(parts)
