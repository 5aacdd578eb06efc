"""What is known of a job while it goes through the queue, told by its events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

QUEUED, RUNNING, PAUSING, PAUSED, STOPPING = "queued", "running", "pausing", "paused", "stopping"
DONE, STOPPED, FAILED, INTERRUPTED = "done", "stopped", "failed", "interrupted"

ACTIVE = (RUNNING, PAUSING, PAUSED, STOPPING)
"""The queue's thread is busy with it."""
RESUMABLE = (STOPPED, FAILED, INTERRUPTED)
"""Ended before its time."""

_RECENT_STEPS = 20


@dataclass
class JobState:
    """What changes of a job. Plain values, so that it can be kept as JSON.

    Attributes:
        way: "live" or "child"; ``way_why`` says why.
        why: why it waits or is paused, for a person.
        error: a ``StudioError`` as JSON.
        goes_on: when it is started, it goes on from its last state.
        completed: the work came to its end, as against having been stopped.
        recent: (step, loss, seconds) of the last steps.
        result: the file of the finished LoRA.
        pictures: name, path, prompt and step of each preview.
        preflight: what a preflight found out.
        checked: what the host's loader made of the result.
    """

    status: str = QUEUED
    way: str = ""
    way_why: str = ""
    started: float | None = None
    ended: float | None = None
    why: str | None = None
    error: dict[str, Any] | None = None
    goes_on: bool = False
    completed: bool = False
    step: int = 0
    total_steps: int | None = None
    steps_per_epoch: int | None = None
    epoch: int = 0
    epochs: int | None = None
    recent: list[list[float]] = field(default_factory=list)
    lr: dict[str, float] = field(default_factory=dict)
    memory_mb: float | None = None
    progress: dict[str, Any] | None = None
    note: str | None = None
    state: str | None = None
    result: str | None = None
    written: list[str] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    preflight: dict[str, Any] | None = None
    checked: dict[str, Any] | None = None
    tool: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> JobState:
        """Fields that this version does not know are another's, and left out."""
        names = {each.name for each in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def take(self, event: Mapping[str, Any]) -> None:
        """Learn from an event as ``base.events.event_to_json`` gives it."""
        learn = _LESSONS.get(event["event"])
        if learn is not None:
            learn(self, event)

    @property
    def loss(self) -> float | None:
        """The mean of the last steps."""
        return _mean([loss for _, loss, _ in self.recent])

    @property
    def seconds_per_step(self) -> float | None:
        return _mean([seconds for *_, seconds in self.recent])

    @property
    def seconds_left(self) -> float | None:
        pace = self.seconds_per_step
        if pace is None or self.total_steps is None or self.status not in ACTIVE:
            return None
        return pace * (self.total_steps - self.step)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _on_progress(state: JobState, event: Mapping[str, Any]) -> None:
    """``rate`` in parts a second and ``seconds_left`` are of this work alone, None where it has just begun."""
    what, done, total = event["what"], event["done"], event["total"]
    if done >= total:
        state.progress = None
        return
    now, before = event.get("time", 0.0), state.progress or {}
    same = before if before.get("what") == what else {}
    first, since = same.get("first", done), same.get("since", now)
    rate = (done - first) / (now - since) if done > first and now > since else None
    state.progress = {
        **{"what": what, "done": done, "total": total, "first": first, "since": since},
        **{"rate": rate, "seconds_left": rate and (total - done) / rate},
    }


def _on_start(state: JobState, event: Mapping[str, Any]) -> None:
    """Steps beyond the one that a run goes on from were lost and are made again."""
    for name in ("total_steps", "steps_per_epoch", "epochs", "step"):
        setattr(state, name, event[name])
    state.recent = [each for each in state.recent if each[0] <= state.step]
    state.progress = None


def _on_step(state: JobState, event: Mapping[str, Any]) -> None:
    state.step, state.epoch, state.lr = event["step"], event["epoch"], event["lr"]
    state.memory_mb, state.progress = event["memory_mb"], None
    state.recent = [*state.recent[1 - _RECENT_STEPS :], [event["step"], event["loss"], event["seconds"]]]


def _on_going_back(state: JobState, event: Mapping[str, Any]) -> None:
    state.step = event["step"]
    state.recent = [each for each in state.recent if each[0] <= state.step]


def _on_removal(state: JobState, event: Mapping[str, Any]) -> None:
    state.written = [path for path in state.written if path != event["path"]]


def _on_save(state: JobState, event: Mapping[str, Any]) -> None:
    if event["path"] not in state.written:
        state.written.append(event["path"])
    if event["final"]:
        state.result = event["path"]


def _on_sample(state: JobState, event: Mapping[str, Any]) -> None:
    name = event["path"].replace("\\", "/").rpartition("/")[2]
    picture = {"name": name, "path": event["path"], "prompt": event["prompt"], "step": event["step"]}
    state.pictures = [each for each in state.pictures if each["name"] != name] + [picture]


def _on_state(state: JobState, event: Mapping[str, Any]) -> None:
    state.state = event["path"]


def _on_note(state: JobState, event: Mapping[str, Any]) -> None:
    state.note = event["text"]


def _on_check(state: JobState, event: Mapping[str, Any]) -> None:
    state.checked = {name: event[name] for name in ("keys", "matched", "unmatched", "change")}


def _on_preflight(state: JobState, event: Mapping[str, Any]) -> None:
    state.preflight = {name: value for name, value in event.items() if name not in ("event", "time")}
    state.completed = True


def _on_tool(state: JobState, event: Mapping[str, Any]) -> None:
    path = event["path"]
    state.completed, state.progress = True, None
    state.tool = {
        "output": state.result,
        "seconds": event["seconds"],
        "picture": path is not None and path.endswith(".png"),
    }


def _on_end(state: JobState, event: Mapping[str, Any]) -> None:
    state.completed, state.step, state.progress = not event["stopped"], event["step"], None
    state.state = event["state"] or state.state


_LESSONS: dict[str, Callable[[JobState, Mapping[str, Any]], None]] = {
    "Progress": _on_progress,
    "TrainingStarted": _on_start,
    "StepDone": _on_step,
    "WentBack": _on_going_back,
    "Removed": _on_removal,
    "Saved": _on_save,
    "SampleReady": _on_sample,
    "StateSaved": _on_state,
    "Note": _on_note,
    "Checked": _on_check,
    "PreflightDone": _on_preflight,
    "ToolDone": _on_tool,
    "TrainingEnded": _on_end,
}
