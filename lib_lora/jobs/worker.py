"""The queue's thread: takes the next job, does it, and says how it ended."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Paused, Resumed
from lib_lora.base.protocols import Host
from lib_lora.base.signals import Control
from lib_lora.jobs.failure import as_studio_error, free_memory_of
from lib_lora.jobs.job import Job
from lib_lora.jobs.spec import JOB_KINDS
from lib_lora.jobs.state import DONE, FAILED, INTERRUPTED, PAUSED, PAUSING, RUNNING, STOPPED

_ABORT_SECONDS = 10.0
_RETRY_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Worker:
    """Does one job at a time in a thread of its own.

    Args:
        lock: held where a status changes: what a person asks of a job must not come between.
        take: the next job, its status set to running; None where there is none.
        ended: called in the thread after each job, with whether it came to its end by itself.
    """

    def __init__(
        self, host: Host, lock: threading.RLock, take: Callable[[], Job | None], ended: Callable[[bool], None]
    ) -> None:
        self._host = host
        self._lock = lock
        self._take = take
        self._ended = ended
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="lora-studio-jobs", daemon=True)
        self._job: Job | None = None
        self.control = Control()

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def begin(self, job: Job) -> None:
        """The job at hand; called where it is taken, with a control of its own: no wish for one reaches another."""
        self._job, self.control = job, Control()

    def close(self, wait_s: float) -> bool:
        """Ask the job at hand to keep its state and end, to be gone on with; whether the thread has ended in time."""
        with self._lock:
            self._closing = True
            at_hand = self._job
            self.control.pause()
            if at_hand and (at_hand.status == PAUSED or not JOB_KINDS.get(at_hand.spec.kind).pausable):
                self.control.abort()
        self._wake.set()
        if not self._thread.is_alive():
            return True
        self._thread.join(wait_s)
        self.control.abort()  # it is before its first step, say: there is no state to wait for
        self._thread.join(_ABORT_SECONDS)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                job = self._take()
                if job is None:
                    self._wake.wait()
                else:
                    self._ended(self._do(job))
            except StudioError as error:  # the disk is full, say: how things stand is known in memory alone
                _log.warning("the queue: %s", error)
                self._wake.wait(_RETRY_SECONDS)

    def _do(self, job: Job) -> bool:
        """The job from its start to its end; whether nobody ended it."""
        control = self.control
        try:
            with contextlib.closing(JOB_KINDS.get(job.spec.kind).run(job, self._host, control)) as events:
                for event in events:
                    job.take(event)
                    self._follow(job, event, control)
        except Exception as error:
            failure = as_studio_error(error)
            job.write_log("".join(traceback.format_exception(error)))
            free_memory_of(error)
            self._end(job, FAILED, error=failure.to_json())
            return True
        if job.state.completed:
            self._end(job, DONE)
            return True
        if self._closing:
            self._end(job, INTERRUPTED, why="the program was closed")
        else:
            self._end(job, STOPPED)
        return False

    def _follow(self, job: Job, event: Event, control: Control) -> None:
        """A pause in the job's status; where this process wants to end, a paused job has all that it needs."""
        with self._lock:
            if control.stopping:
                return
            if isinstance(event, Paused):
                job.change(status=PAUSED)
                if self._closing:
                    control.abort()
            elif isinstance(event, Resumed):
                job.change(status=PAUSING if control.pausing else RUNNING, why=None)

    def _end(self, job: Job, status: str, why: str | None = None, **more: object) -> None:
        job.log.close()
        with self._lock:
            self._job = None
            job.change(status=status, ended=time.time(), why=why, progress=None, **more)
