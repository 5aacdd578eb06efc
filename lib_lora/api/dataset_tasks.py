"""What takes a while with an open dataset: one such task at a time for each, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from lib_lora.api.call import Call
from lib_lora.api.dataset import find
from lib_lora.api.open_datasets import OpenDataset
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control

_FIRST_WAIT_SECONDS = 0.3  # a small one is done by then, and the page need not ask again

_log = logging.getLogger(__name__)

# Called with (what is done, done, total).
Tell = Callable[[str, int, int], None]
# Gives what JSON can hold.
Work = Callable[[Tell, Control], Any]


class Task:
    """Attributes:
    number: of the tasks of one dataset, from 1 on.
    progress: (what is done, done, total).
    """

    def __init__(self, number: int, work: Work) -> None:
        self.number = number
        self.progress = ("", 0, 0)
        self._began = (time.monotonic(), 0)  # what is being done now, and how much of it was done then
        self.control = Control()
        self.result: Any = None
        self.error: StudioError | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, args=(work,), name="dataset task", daemon=True).start()

    @property
    def running(self) -> bool:
        return not self._done.is_set()

    def wait(self, seconds: float) -> None:
        self._done.wait(seconds)

    def view(self) -> dict[str, Any]:
        return {
            "task": self.number,
            "running": self.running,
            "progress": self._progress(),
            "error": self.error.to_json() if self.error else None,
            "stopped": self.control.stopping,
            "result": None if self.running else self.result,
        }

    def _run(self, work: Work) -> None:
        try:
            self.result = work(self._tell, self.control)
        except StudioError as error:
            self.error = error
        except Exception as error:
            _log.exception("a task with a dataset")
            self.error = StudioError(f"{type(error).__name__}: {error}")
        finally:
            self._done.set()

    def _tell(self, what: str, done: int, total: int) -> None:
        if what != self.progress[0]:
            self._began = (time.monotonic(), done)
        self.progress = (what, done, total)

    def _progress(self) -> dict[str, Any]:
        (what, done, total), (began, first) = self.progress, self._began
        rate = (done - first) / max(1e-3, time.monotonic() - began)  # a second
        left = (total - done) / rate if rate else None
        return {"what": what, "done": done, "total": total, "rate": rate, "seconds_left": left}


class Tasks:
    """Those of one open dataset: the one that runs, or the last one."""

    def __init__(self) -> None:
        self.last: Task | None = None
        self._lock = threading.Lock()

    def start(self, work: Work) -> dict[str, Any]:
        """Raises StudioError where another one runs."""
        with self._lock:
            if self.last is not None and self.last.running:
                what = self.last.progress[0] or "another task"
                raise StudioError(f"the dataset is busy ({what}); wait for it, or stop it")
            self.last = Task(1 if self.last is None else self.last.number + 1, work)
        self.last.wait(_FIRST_WAIT_SECONDS)
        return self.last.view()


def tasks_of(found: OpenDataset) -> Tasks:
    return found.keep("tasks", Tasks)


def task(studio: Studio, call: Call) -> Any:
    """The task that runs, or the last one; nothing where there was none."""
    last = tasks_of(find(studio, call)).last
    return last.view() if last else {"task": None, "running": False}


def stop(studio: Studio, call: Call) -> Any:
    last = tasks_of(find(studio, call)).last
    if last is not None:
        last.control.stop()
    return task(studio, call)
