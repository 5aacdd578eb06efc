"""One piece of long work at a time in a worker thread, and what is known of it: the page reads, the work tells."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue

from lib_lora.base.errors import StudioError
from lib_lora.base.events import (
    Event,
    Note,
    Progress,
    SampleReady,
    Saved,
    StepDone,
    TrainingEnded,
    TrainingStarted,
)
from lib_lora.base.signals import Control
from lib_lora.training.log import AVERAGE_STEPS

Work = Callable[[Control, Callable[[Event], None]], None]


@dataclass(frozen=True)
class Finished(Event):
    """The worker is done. ``error`` is empty when all went well."""

    error: str = ""


@dataclass
class RunState:
    """What is known of one piece of work. ``pictures`` are (file, caption)."""

    running: bool = False
    stopping: bool = False
    stopped: bool = False
    progress: Progress | None = None
    total_steps: int = 0
    step: StepDone | None = None
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: list[tuple[Path, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    error: str = ""

    def take(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(f"Warning: {event.text}" if event.level == "warning" else event.text)
        elif isinstance(event, Progress):
            self.progress = event
        elif isinstance(event, TrainingStarted):
            self.total_steps = event.total_steps
        elif isinstance(event, StepDone):
            self.step = event
            self.losses.append(event.loss)
            self.seconds.append(event.seconds)
        elif isinstance(event, SampleReady):
            self.pictures.append((event.path, f"step {event.step}: {event.prompt}" if event.step else event.prompt))
            self.written.append(event.path)
        elif isinstance(event, Saved):
            self.written.append(event.path)
        elif isinstance(event, TrainingEnded):
            self.stopped = event.stopped
            self.written = list(event.written)
        elif isinstance(event, Finished):
            self.running, self.stopped = False, self.stopped or self.stopping
            self.error = event.error

    @property
    def loss(self) -> float:
        recent = self.losses[-AVERAGE_STEPS:]
        return sum(recent) / len(recent)

    @property
    def seconds_per_step(self) -> float:
        recent = self.seconds[-AVERAGE_STEPS:]
        return sum(recent) / len(recent)

    @property
    def seconds_left(self) -> float:
        return self.seconds_per_step * (self.total_steps - self.step.step)


class RunMonitor:
    """Starts work, stops it and tells its state. May be used from any thread, by any number of open pages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, RunState] = {}
        self._current = ""
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._control = Control()
        self._thread: threading.Thread | None = None

    def start(self, name: str, work: Work) -> None:
        """Begin ``work(control, tell)`` in a thread. ``name`` says what it is ("training").

        Raises:
            StudioError: something runs already.
        """
        with self._lock:
            self._drain()
            if self._current and self._states[self._current].running:
                raise StudioError(f"{self._current} is running", allowed="stop it, or wait until it ends")
            self._current, self._states[name] = name, RunState(running=True)
            self._control, self._events = Control(), SimpleQueue()
            self._thread = threading.Thread(
                target=_run, args=(work, self._control, self._events), name=name, daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ask what runs to end soon and to keep what it has."""
        self._control.stop()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until what runs has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def read(self, name: str) -> RunState:
        """What is known of the last work of this name; a copy that no longer changes."""
        with self._lock:
            self._drain()
            state = self._states.get(name, RunState())
            lists = {key: list(value) for key, value in vars(state).items() if isinstance(value, list)}
            return replace(state, **lists)

    def _drain(self) -> None:
        state = self._states.get(self._current)
        if state is None or not state.running:
            return
        state.stopping = self._control.stopping
        while True:
            try:
                state.take(self._events.get_nowait())
            except Empty:
                return


def _run(work: Work, control: Control, events: SimpleQueue[Event]) -> None:
    """The thread. Whatever goes wrong is shown on the page; what is not a person's mistake is printed in full, too."""
    error = ""
    try:
        work(control, events.put)
    except StudioError as mistake:
        error = str(mistake)
    except Exception as fault:
        traceback.print_exc()
        error = f"{type(fault).__name__}: {fault}"
    events.put(Finished(error))
