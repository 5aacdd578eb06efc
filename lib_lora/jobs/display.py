"""A job in the host's own progress display."""

from __future__ import annotations

import contextlib

from lib_lora.base.events import Event, Progress, StepDone, TrainingStarted
from lib_lora.base.protocols import Host, HostTask


class Display:
    """A context manager. It is hidden while the host shows work of its own, and at the end."""

    def __init__(self, host: Host, title: str) -> None:
        self._host = host
        self._title = title
        self._stack = contextlib.ExitStack()
        self._task: HostTask | None = None
        self._total_steps = 0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception: object) -> None:
        self.hide()

    def show(self, event: Event) -> None:
        if self._task is None:
            self._task = self._stack.enter_context(self._host.task(self._title))
        if isinstance(event, TrainingStarted):
            self._total_steps = event.total_steps
            self._task.step(event.step, event.total_steps, self._title)
        elif isinstance(event, StepDone):
            text = f"{self._title}: step {event.step} of {self._total_steps}, loss {event.loss:.4f}"
            self._task.step(event.step, self._total_steps, text)
        elif isinstance(event, Progress):
            self._task.step(event.done, event.total, f"{self._title}: {event.what}")

    def hide(self) -> None:
        self._task = None
        self._stack.close()

    def interrupted(self) -> bool:
        """Whether somebody pressed the host's own Interrupt since the last look."""
        return self._task is not None and self._task.interrupted()
