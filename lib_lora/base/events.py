"""What long work tells the outside. Command line, page, logs and tests all read these."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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

    ``skipped``: half precision overflowed, and the weights were left as they were. ``memory_mb``: on a CUDA card
    the most that was allocated so far, elsewhere what the process holds.
    """

    step: int
    epoch: int
    loss: float
    lr: dict[str, float]
    seconds: float
    skipped: bool = False
    memory_mb: float | None = None


@dataclass(frozen=True)
class EpochDone(Event):
    """Every sample of the epoch was seen, or the run's last step was made within it."""

    epoch: int
    step: int


@dataclass(frozen=True)
class WentBack(Event):
    """Numbers were no longer finite at ``failed_step``: the run goes on after ``step`` at ``scale`` times its rate."""

    step: int
    failed_step: int
    why: str
    scale: float


@dataclass(frozen=True)
class Validated(Event):
    """The loss of the pictures that are held out. ``best``: it is the lowest so far."""

    step: int
    epoch: int
    loss: float
    best: bool


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
class Removed(Event):
    """A file that was written earlier in the run was deleted, as it was asked to."""

    path: Path


@dataclass(frozen=True)
class Checked(Event):
    """A saved LoRA was loaded by the host's own loader. ``change``: |with - without| / |without| of a prediction."""

    path: Path
    keys: int
    matched: int
    unmatched: list[str] = field(default_factory=list)
    change: float | None = None


@dataclass(frozen=True)
class PreflightDone(Event):
    """What a few real steps have shown. Memory in MB; ``card_mb``: all that the card has, None without one.

    Times and ``memory_mb`` are None where the run does not fit; the advice says what does.
    """

    seconds_per_step: float | None
    steps: int
    seconds_total: float | None
    memory_mb: float | None
    card_mb: float | None
    advice: list[str] = field(default_factory=list)


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


@dataclass(frozen=True)
class GridLaidOut(Event):
    """A grid's labels are known: ``{"columns": {"name", "labels"}, "rows": {"name", "labels"}}``."""

    axes: dict[str, Any]


@dataclass(frozen=True)
class CellReady(Event):
    """A picture of a grid was written. ``places`` are [row, column]; a picture may stand in several.

    ``change``: mean absolute difference from the picture without the LoRA, 0 to 1, None where there is none.
    """

    path: Path
    places: list[list[int]]
    label: str
    values: dict[str, Any]
    change: float | None = None


@dataclass(frozen=True)
class BlockMeasured(Event):
    """What one block of a LoRA does to pictures.

    ``alone``, ``off``: ``{"mean", "changed"}``, each 0 to 1, or None where it was not measured. ``pictures``: names of
    files, ``{"alone": [..], "off": [..], "heat_alone": name, "heat_off": name}``, less what was not made.
    """

    block: str
    alone: dict[str, float] | None
    off: dict[str, float] | None
    pictures: dict[str, Any]


@dataclass(frozen=True)
class ToolDone(Event):
    """The last event of a tool that makes a file of others or looks at one.

    ``report`` is made of what JSON can hold; ``path`` is None where nothing was written.
    """

    tool: str
    path: Path | None
    report: dict[str, Any]
    seconds: float


def event_to_json(event: Event) -> dict[str, Any]:
    """``{"event": class name, ...fields}``, of what JSON can hold."""
    return {"event": type(event).__name__, **{name: _plain(value) for name, value in vars(event).items()}}


def event_from_json(values: Mapping[str, Any]) -> Event:
    """What ``event_to_json`` was given.

    Raises:
        KeyError: there is no such event.
    """
    kind = _KINDS[values["event"]]
    hints = typing.get_type_hints(kind)
    known = {each.name: values[each.name] for each in dataclasses.fields(kind) if each.name in values}
    return kind(**{name: _typed(hints[name], value) for name, value in known.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _typed(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if hint == list[Path]:
        return [Path(item) for item in value]
    return Path(value) if hint in (Path, Path | None) else value


_KINDS = {kind.__name__: kind for kind in Event.__subclasses__()}
