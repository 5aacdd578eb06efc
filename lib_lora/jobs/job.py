"""A job: its folder on disk, and what is known of it.

    job.json       what is to be done (``JobSpec``)
    state.json     how far it is (``JobState``), as of event number ``events``
    events.jsonl   what happened, with times
    pictures/      of a grid or an analysis
    log.txt        what a child process printed, notes, and errors in full

Everything but the log is written whole or not at all. ``state.json`` is written where the status changes; what came
after it is learnt anew from the events.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Saved, event_to_json
from lib_lora.files.atomic import atomic_folder, delete_folder, remove_leftovers, write_text
from lib_lora.jobs.event_log import EventLog
from lib_lora.jobs.options import CHILD
from lib_lora.jobs.spec import JOB_KINDS, JobSpec
from lib_lora.jobs.state import (
    DONE,
    FAILED,
    INTERRUPTED,
    PAUSED,
    PAUSING,
    QUEUED,
    RESUMABLE,
    RUNNING,
    STOPPED,
    STOPPING,
    JobState,
)


class Job:
    """May be looked at from any thread.

    Args:
        changed: called after every change.
    """

    def __init__(self, folder: Path, spec: JobSpec, state: JobState, changed: Callable[[], None]) -> None:
        self.folder = folder
        self.spec = spec
        self.state = state
        self.log = EventLog(folder / "events.jsonl")
        self._changed = changed
        self._lock = threading.RLock()

    @classmethod
    def create(cls, folder: Path, spec: JobSpec, state: JobState, changed: Callable[[], None]) -> Job:
        """A new job with its folder.

        Raises:
            StudioError: the folder cannot be written.
        """
        with atomic_folder(folder) as new:
            _write_json(new / "job.json", spec.to_json())
            _write_json(new / "state.json", {"events": 0, **state.to_json()})
        return cls(folder, spec, state, changed)

    @classmethod
    def read(cls, folder: Path, changed: Callable[[], None]) -> Job:
        """A job from its folder.

        Raises:
            OSError, ValueError, KeyError, TypeError: its files are damaged.
        """
        remove_leftovers(folder, r".*")
        spec = JobSpec.from_json(json.loads((folder / "job.json").read_text(encoding="utf-8")))
        values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        job = cls(folder, spec, JobState.from_json(values), changed)
        for event in job.log.read(values["events"])[0]:
            job.state.take(event)
        return job

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def status(self) -> str:
        return self.state.status

    def take(self, event: Event) -> None:
        """Write an event down and learn from it."""
        values = {**event_to_json(event), "time": time.time()}
        with self._lock:
            self.log.append(values)
            self.state.take(values)
        if self.state.way != CHILD:  # which prints them itself
            self._print(event)
        self._changed()

    def _print(self, event: Event) -> None:
        if isinstance(event, Note):
            self.write_log(f"warning: {event.text}" if event.level == "warning" else event.text)
        elif isinstance(event, Saved):
            self.write_log(f"saved {event.path}")

    def change(self, **values: Any) -> None:
        """Set fields of the state, and write it.

        Raises:
            StudioError: the disk is full; in memory they are set.
        """
        with self._lock:
            for name, value in values.items():
                setattr(self.state, name, value)
            self._changed()
            _write_json(self.folder / "state.json", {"events": len(self.log), **self.state.to_json()})

    def say_why(self, why: str | None) -> None:
        """Why it waits; None: it does not any more."""
        with self._lock:
            self.state.why = why
        self._changed()

    def write_log(self, text: str) -> None:
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")

    def log_text(self) -> str:
        path = self.folder / "log.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def picture(self, name: str) -> Path:
        """The file of a picture: a preview, or one of a grid.

        Raises:
            StudioError: this job has made none of that name.
        """
        for picture in self.state.pictures:
            if picture["name"] == name:
                return Path(picture["path"])
        if self.pictures_folder.is_dir() and name in os.listdir(self.pictures_folder):
            return self.pictures_folder / name
        raise StudioError("no such picture", field="name", came=name)

    def forget(self) -> None:
        """Begin anew: no events, no log, no state; LoRAs stay."""
        with self._lock:
            self.log.clear()
            for folder in (self.state_folder, self.log_folder):
                if folder.exists():
                    delete_folder(folder)
            (self.folder / "log.txt").unlink(missing_ok=True)
            kept = {name: getattr(self.state, name) for name in ("status", "way", "way_why")}
            self.change(**JobState(**kept).to_json())

    def delete(self) -> None:
        self.log.close()
        delete_folder(self.folder)

    @property
    def state_folder(self) -> Path:
        """Where the run keeps the states from which it can go on."""
        return self.folder / "state"

    @property
    def log_folder(self) -> Path:
        """Where the run writes its loss and its preview pictures."""
        return self.folder / "log"

    @property
    def pictures_folder(self) -> Path:
        """Where a grid's and an analysis' pictures are. They outlive a retry, which makes what is missing."""
        return self.folder / "pictures"

    def can(self) -> list[str]:
        """The names of the actions that this job allows now."""
        pausable = JOB_KINDS.get(self.spec.kind).pausable
        actions = list(_ACTIONS[self.status])
        if self.status in RESUMABLE and self.status != INTERRUPTED and self.state.state is None:
            actions.remove("resume")
        if not pausable:  # and to stop is at once
            refused = ("pause", "resume", "save", *(["abort"] if "stop" in actions else []))
            actions = [name for name in actions if name not in refused]
        return actions

    def view(self) -> dict[str, Any]:
        """The job as pages and scripts see it."""
        with self._lock:
            spec, state = self.spec, self.state
            return {
                **{name: getattr(spec, name) for name in ("id", "kind", "name", "created", "values")},
                **{name: getattr(state, name) for name in _SHOWN},
                "tool": state.tool and {**state.tool, "name": spec.plan.get("lora")},
                "progress": state.progress and {name: state.progress.get(name) for name in _PROGRESS},
                "pictures": [{name: each[name] for name in ("name", "prompt", "step")} for each in state.pictures],
                "written": list(state.written),
                "can": self.can(),
            }


_SHOWN = (
    *("status", "way", "way_why", "started", "ended", "why", "error", "note", "state", "result"),
    *("step", "total_steps", "steps_per_epoch", "epoch", "epochs", "loss", "seconds_per_step", "seconds_left"),
    *("lr", "memory_mb", "preflight", "checked"),
)
_PROGRESS = ("what", "done", "total", "rate", "seconds_left")
_ACTIONS = {
    QUEUED: ("remove", "duplicate", "move"),
    RUNNING: ("pause", "stop", "abort", "save", "duplicate"),
    PAUSING: ("resume", "stop", "abort", "duplicate"),
    PAUSED: ("resume", "stop", "abort", "duplicate"),
    STOPPING: ("abort", "duplicate"),
    DONE: ("remove", "duplicate"),
    STOPPED: ("resume", "retry", "remove", "duplicate"),
    FAILED: ("resume", "retry", "remove", "duplicate"),
    INTERRUPTED: ("resume", "retry", "remove", "duplicate"),
}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, ensure_ascii=False, indent=1, default=str))
