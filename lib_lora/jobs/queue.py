"""The queue: jobs on disk, done one after the other; survives a crash or a restart of its process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Host
from lib_lora.jobs import evaluate_job, tag_job, tool_job, train_job  # noqa: F401 - register their kinds
from lib_lora.jobs.job import Job
from lib_lora.jobs.power import Shutdown
from lib_lora.jobs.spec import JOB_KINDS, JobSpec, is_id, new_id, no_such_job
from lib_lora.jobs.state import ACTIVE, DONE, INTERRUPTED, PAUSED, PAUSING, QUEUED, RUNNING, STOPPING, JobState
from lib_lora.jobs.store import JobStore
from lib_lora.jobs.worker import Worker

NOTHING, SOUND, SHUTDOWN = "nothing", "sound", "shutdown"
_CLOSE_SECONDS = 20.0


class JobQueue:
    """The jobs of ``host.data_dir``, which one process holds at a time. May be used from any thread.

    A job that was under way when its process ended, however it ended, is "interrupted" from then on: it can be
    resumed. Queued ones are done once ``start`` was called.

    Attributes:
        version: grows with every change of the queue or of a job.
        shutdown: planned where ``when_done`` is "shutdown" and nothing is left to do.

    Raises:
        StudioError: another process holds the jobs.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.version = 0
        self._versions = itertools.count(1)  # two threads never make the same one of two changes
        self.shutdown = Shutdown()
        self._lock = threading.RLock()
        self._store = JobStore(host.data_dir / "jobs", self._changed)
        # A machine that comes up again must not go down by itself.
        self._when_done = SOUND if self._store.settings.get("when_done") == SOUND else NOTHING
        for job in self._store.all():
            if job.status in ACTIVE and job.state.completed:
                job.change(status=DONE, ended=time.time())  # all was done but to say so
            elif job.status in ACTIVE:
                job.change(status=INTERRUPTED, why="the program ended meanwhile", ended=time.time(), progress=None)
        self._worker = Worker(host, self._lock, self._take, self._after)

    def start(self) -> None:
        """Begin to do the queued jobs."""
        self._worker.start()

    def close(self, wait_s: float = _CLOSE_SECONDS) -> None:
        """Interrupt what is under way, its state saved where there is time, and let another process have the jobs."""
        self.shutdown.cancel()
        if self._worker.close(wait_s):
            self._store.close()

    # Looking

    def jobs(self) -> list[Job]:
        """All jobs, in the queue's order."""
        with self._lock:
            return self._store.all()

    def job(self, id: str) -> Job:
        """Raises StudioError where there is none."""
        with self._lock:
            job = self._store.find(id) if is_id(id) else None
        if job is None:
            raise no_such_job(id)
        return job

    def events(self, id: str, after: int = 0, most: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """A job's events from number ``after`` on as JSON, each with its ``time``, and the next one's number."""
        return self.job(id).log.read(after, most)

    # Changing

    def add(self, kind: str, values: Mapping[str, Any], name: str | None = None) -> Job:
        """Put a new job at the end of the queue.

        Raises:
            StudioError: naming the option at fault; also where another job is about to write the same file.
        """
        now = time.time()
        id = new_id(now)
        prepared = JOB_KINDS.get(kind).check(values, self.host, self._store.place(id))
        result = None if prepared.result is None else str(prepared.result)
        spec = JobSpec(id, kind, name or prepared.name, dict(values), prepared.plan, now, result)
        with self._lock:
            self._refuse_same_result(spec, prepared.result_option)
            self.shutdown.cancel()
            job = self._store.add(spec, JobState(way=prepared.way, way_why=prepared.way_why))
        self._worker.wake()
        return job

    def pause(self, id: str) -> Job:
        """Let go of the host's model after the step at hand."""
        with self._lock:
            job = self._allowed(id, "pause")
            job.change(status=PAUSING)
            self._worker.control.pause()
        return job

    def resume(self, id: str) -> Job:
        """Go on with a paused job, or let one that ended before its time go on from its last state."""
        with self._lock:
            job = self._allowed(id, "resume")
            if job.status in (PAUSING, PAUSED):
                self._worker.control.resume()
                if job.status == PAUSING:
                    job.change(status=RUNNING)
                return job
            self._queue_first(job, goes_on=True)
        self._worker.wake()
        return job

    def stop(self, id: str) -> Job:
        """End the job at hand; its LoRA so far and its state are kept."""
        with self._lock:
            job = self._allowed(id, "stop")
            job.change(status=STOPPING)
            self._worker.control.save_state()
            self._worker.control.stop()
        return job

    def abort(self, id: str) -> Job:
        """End the job at hand and write nothing more; what it has written stays."""
        with self._lock:
            job = self._allowed(id, "abort")
            job.change(status=STOPPING)
            self._worker.control.abort()
        return job

    def save(self, id: str) -> Job:
        """Let the job at hand write its LoRA so far and its state."""
        with self._lock:
            job = self._allowed(id, "save")
            self._worker.control.save_state()
            self._worker.control.save_lora()
        return job

    def retry(self, id: str) -> Job:
        """Do a job again from its beginning; the LoRAs that it has written stay."""
        with self._lock:
            job = self._allowed(id, "retry")
            job.forget()
            self._queue_first(job, goes_on=False)
        self._worker.wake()
        return job

    def remove(self, id: str) -> Job:
        """Delete a job, its log and states; the LoRAs that it has written stay."""
        with self._lock:
            job = self._allowed(id, "remove")
            self._store.remove(job)
        return job

    def duplicate(self, id: str, changes: Mapping[str, Any] | None = None) -> Job:
        """A new job at the end of the queue with this one's values and ``changes``."""
        job = self.job(id)
        return self.add(job.spec.kind, {**job.spec.values, **(changes or {})})

    def move(self, id: str, before: str | None = None) -> Job:
        """Put a queued job before another one, or at the end."""
        with self._lock:
            job = self._allowed(id, "move")
            if before is not None:
                self.job(before)
            if before != id:
                self._store.move(id, before)
        return job

    @property
    def when_done(self) -> str:
        """What happens when nothing is left to do: "nothing", "sound" or "shutdown"."""
        return self._when_done

    @when_done.setter
    def when_done(self, value: str) -> None:
        choices = (NOTHING, SOUND) if self.host.exposed() else (NOTHING, SOUND, SHUTDOWN)
        if value not in choices:
            raise StudioError("not allowed", field="when_done", came=value, allowed=choices)
        with self._lock:
            self._when_done = value
            self.shutdown.cancel()
            self._store.settings["when_done"] = value
            self._store.write_order()

    # Within

    def _changed(self) -> None:
        self.version = next(self._versions)

    def _allowed(self, id: str, action: str) -> Job:
        job = self.job(id)
        if action not in job.can():
            raise StudioError(
                f"a job that is {job.status} cannot do that", field="action", came=action, allowed=job.can()
            )
        return job

    def _refuse_same_result(self, spec: JobSpec, option: str) -> None:
        others = [job for job in self._store.all() if job.status == QUEUED or job.status in ACTIVE]
        if spec.result is not None and any(job.spec.result == spec.result for job in others):
            raise StudioError(
                "another job in the queue writes the file of this name",
                field=option,
                file=spec.result,
                allowed="another name, or remove that job first",
            )

    def _queue_first(self, job: Job, *, goes_on: bool) -> None:
        """Whoever asks for an old job wants it before those that wait."""
        waiting = [each.id for each in self._store.all() if each.status == QUEUED]
        self.shutdown.cancel()
        job.change(status=QUEUED, goes_on=goes_on, completed=False, why=None, error=None, ended=None)
        self._store.move(job.id, waiting[0] if waiting else None)

    def _take(self) -> Job | None:
        """The first queued job, for the worker."""
        with self._lock:
            job = next((job for job in self._store.all() if job.status == QUEUED), None)
            if job is not None:
                self._worker.begin(job)
                try:
                    job.change(status=RUNNING, started=time.time(), why=None)
                except StudioError as error:
                    job.state.status = QUEUED
                    job.say_why(str(error))
                    raise
            return job

    def _after(self, by_itself: bool) -> None:
        """A job has ended; somebody who has ended it by hand is there, and needs no shutdown."""
        with self._lock:
            waiting = any(job.status == QUEUED for job in self._store.all())
            if by_itself and not waiting and self._when_done == SHUTDOWN:
                self._when_done = NOTHING
                self.shutdown.plan()
                self._changed()
