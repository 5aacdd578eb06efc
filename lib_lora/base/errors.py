"""The one error type that a person may see."""

from __future__ import annotations

from collections.abc import Iterable


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
