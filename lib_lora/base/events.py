"""What long work tells the outside. Command line, page, logs and tests all read these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """Anything that long work reports."""


@dataclass(frozen=True)
class Note(Event):
    """Something a person should read. ``level`` is "info" or "warning"."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class Progress(Event):
    """``done`` of ``total`` parts of the work called ``what`` (loading, caching latents, sampling)."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class TrainingStarted(Event):
    """Everything is loaded; the next step comes next. ``step`` counts those of a run that is gone on with."""

    total_steps: int
    steps_per_epoch: int
    epochs: int
    step: int = 0


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer step. ``loss`` is the mean over the step's samples; ``lr`` has one rate per group.

    ``skipped``: half precision overflowed, and the weights were left as they were.
    """

    step: int
    epoch: int
    loss: float
    lr: dict[str, float]
    seconds: float
    skipped: bool = False


@dataclass(frozen=True)
class EpochDone(Event):
    """Every sample of the epoch was seen, or the run's last step was made within it."""

    epoch: int
    step: int


@dataclass(frozen=True)
class SampleReady(Event):
    """A preview picture was written."""

    path: Path
    prompt: str
    step: int


@dataclass(frozen=True)
class Saved(Event):
    """A file was written. ``final`` marks the run's result."""

    path: Path
    step: int
    final: bool = False


@dataclass(frozen=True)
class StateSaved(Event):
    """The run can be resumed from the folder ``path``, bit for bit."""

    path: Path
    step: int


@dataclass(frozen=True)
class Paused(Event):
    """The run waits, and the model may be used. ``state`` is where its state was saved, None before the first step.

    The next event comes after ``Control.resume`` or ``Control.stop``.
    """

    step: int
    state: Path | None = None


@dataclass(frozen=True)
class Resumed(Event):
    """A paused run goes on."""

    step: int


@dataclass(frozen=True)
class TrainingEnded(Event):
    """The last event of a run. ``stopped`` says that it was asked to end early, ``state`` where to resume it from."""

    step: int
    stopped: bool
    seconds: float
    written: list[Path] = field(default_factory=list)
    state: Path | None = None
