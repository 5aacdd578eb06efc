"""All jobs on disk, and their order: ``<data_dir>/jobs``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import lock_file, remove_leftovers, write_text
from lib_lora.jobs.job import Job
from lib_lora.jobs.spec import JobSpec, is_id
from lib_lora.jobs.state import JobState

_log = logging.getLogger(__name__)


class JobStore:
    """The jobs in the queue's order, held by one process at a time.

    Args:
        changed: called after every change of any job.

    Raises:
        StudioError: another process holds them, or the folder cannot be written.
    """

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self.folder = folder
        self._changed = changed
        self._held = lock_file(folder / "lock")
        remove_leftovers(folder, r".*")
        self.settings, order = self._read_order()
        found = {job.id: job for job in self._read_jobs()}
        # A crash between two writes may leave a job out of the order: by its id it comes last.
        ids = [id for id in order if id in found] + sorted(set(found) - set(order))
        self._jobs = {id: found[id] for id in ids}

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def find(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def place(self, id: str) -> Path:
        """The folder of a job."""
        return self.folder / id

    def add(self, spec: JobSpec, state: JobState) -> Job:
        """A new job, the last in the order."""
        job = Job.create(self.place(spec.id), spec, state, self._changed)
        self._jobs[job.id] = job
        self.write_order()
        return job

    def remove(self, job: Job) -> None:
        """Delete a job with all that is in its folder."""
        job.delete()
        del self._jobs[job.id]
        self.write_order()

    def move(self, id: str, before: str | None) -> None:
        """Put a job before another, or at the end."""
        ids = [each for each in self._jobs if each != id]
        ids.insert(len(ids) if before is None else ids.index(before), id)
        self._jobs = {each: self._jobs[each] for each in ids}
        self.write_order()

    def write_order(self) -> None:
        values = {**self.settings, "order": list(self._jobs)}
        write_text(self.folder / "order.json", json.dumps(values, indent=1))
        self._changed()

    def close(self) -> None:
        """Let another process have the jobs."""
        for job in self._jobs.values():
            job.log.close()
        self._held.close()

    def _read_order(self) -> tuple[dict[str, Any], list[str]]:
        try:
            values = json.loads((self.folder / "order.json").read_text(encoding="utf-8"))
            return values, values.pop("order")
        except FileNotFoundError:
            return {}, []
        except (OSError, ValueError, KeyError, AttributeError) as error:
            _log.warning("%s cannot be read (%s): jobs come by their age", self.folder / "order.json", error)
            return {}, []

    def _read_jobs(self) -> list[Job]:
        jobs = []
        for folder in self.folder.iterdir():
            if not (folder.is_dir() and is_id(folder.name)):
                continue
            try:
                jobs.append(Job.read(folder, self._changed))
            except (OSError, ValueError, KeyError, TypeError, StudioError) as error:
                _log.warning("the job in %s is damaged and left out (%s: %s)", folder, type(error).__name__, error)
        return jobs
