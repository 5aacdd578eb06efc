"""A job in the WebUI's own progress display (``shared.state``, which /sdapi/v1/progress shows)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What a generation changes of the state, besides the wishes to interrupt it.
_FIELDS = (
    "job",
    "job_no",
    "job_count",
    "processing_has_refined_job_count",
    "job_timestamp",
    "sampling_step",
    "sampling_steps",
    "time_start",
    "textinfo",
)
_CLOSING_SECONDS = 2.0


class WebuiTask:
    """One job. In its pauses the state is others'; it is taken again at the next step."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begin()

    def step(self, done: int, total: int, text: str = "") -> None:
        """How far it is."""
        self._take_state()
        state = _state()
        state.job_count, state.job_no = 1, 0
        state.sampling_step, state.sampling_steps = done, total
        state.textinfo = text or None

    def interrupted(self) -> bool:
        """Whether somebody pressed the host's own Interrupt since the last look."""
        self._take_state()
        state = _state()
        pressed = state.interrupted or state.stopping_generation
        state.interrupted = state.stopping_generation = state.skipped = False
        return pressed and not _reloads()

    def end(self) -> None:
        """It is over; a generation that has begun meanwhile is let alone."""
        if self._is_ours():
            _state().end()

    def _take_state(self) -> None:
        if not self._is_ours():
            self._begin()  # a generation was made in between: its interrupt was not meant for us

    def _is_ours(self) -> bool:
        return _state().job == self._title

    def _begin(self) -> None:
        _state().begin(job=self._title)


@contextmanager
def task(title: str) -> Iterator[WebuiTask]:
    """The job's progress, for as long as it lasts."""
    shown = WebuiTask(title)
    try:
        yield shown
    finally:
        shown.end()


@contextmanager
def state_put_back() -> Iterator[Any]:
    """The WebUI's state, to be used for a picture within a job; a wish to interrupt it stays, for the job to see."""
    state = _state()
    before = {name: getattr(state, name) for name in _FIELDS}
    try:
        yield state
    finally:
        for name, value in before.items():
            setattr(state, name, value)
        state.current_latent = state.current_image = None


def _reloads() -> bool:
    """Whether it was "Reload UI", which interrupts what is at work, then closes the page's server: a job goes on."""
    from modules import shared

    server = getattr(shared.demo, "server", None)
    until = time.monotonic() + _CLOSING_SECONDS
    while server is not None and not server.should_exit and time.monotonic() < until:
        time.sleep(0.05)
    return server is not None and server.should_exit


def _state() -> Any:
    from modules import shared

    return shared.state
