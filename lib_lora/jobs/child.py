"""Work in a process of its own: the command line in this interpreter, with the host's model put away meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Paused, Resumed, event_from_json
from lib_lora.base.options import to_mapping
from lib_lora.base.protocols import Host, Waiting
from lib_lora.base.signals import Control
from lib_lora.files.atomic import lock_file, write_text
from lib_lora.files.toml_file import toml_text
from lib_lora.jobs.display import Display
from lib_lora.jobs.event_log import tail
from lib_lora.jobs.job import Job
from lib_lora.jobs.options import TrainJobOptions
from lib_lora.jobs.pauses import Pauses
from lib_lora.jobs.wire import ABORT, PAUSE, RESUME, SAVE_LORA, SAVE_STATE, STOP, LineReader, lock_of
from lib_lora.training.config import TrainConfig

_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.1
# An aborted process that is in the midst of a long step is not waited for any longer.
_ABORT_SECONDS = 20.0
_TERMINATE_SECONDS = 5.0
STOPPED_CODE = 130  # of a process that was asked to end early
_LOG_LINES = 20


@dataclass
class ChildWork:
    """Work of ``python -m lib_lora <command>``.

    Attributes:
        command: "train" or "preflight".
    """

    job: Job
    host: Host
    control: Control
    config: TrainConfig
    options: TrainJobOptions
    command: str = "train"

    def __post_init__(self) -> None:
        self.pauses = Pauses(self.control, self.options)

    def events(self) -> Iterator[Event]:
        """The work's events. A pause ends the process, its state saved; another goes on from there.

        Raises:
            StudioError: what the process has told of its error, or how it ended and its last words.
        """
        config = self.config
        while (pause := (yield from self._one_process(config))) is not None:
            paused, waiting = pause
            self.job.say_why(self.pauses.why)
            yield paused
            self.pauses.wait(waiting)
            if self.control.aborting or (self.control.stopping and paused.state is None):
                return
            config = dataclasses.replace(config, resume=paused.state)
            yield Resumed(paused.step)

    def _one_process(self, config: TrainConfig) -> Generator[Event, None, tuple[Paused, Waiting] | None]:
        """A process from its start to its end; where it was paused and whom for, or None."""
        process = _Process(self, config)
        if not process.wait_for_earlier():
            return None
        self.job.say_why("waits for the host's model")
        with self.host.model_unloaded() as waiting, Display(self.host, self.job.spec.name) as shown:
            self.job.say_why(None)
            if self.control.aborting or (self.control.stopping and config.resume is None):
                return None
            with contextlib.closing(process.events()) as events:
                for event in events:
                    shown.show(event)
                    yield event
                    self.pauses.look(event, waiting)
                    if shown.interrupted():
                        self.control.save_state()
                        self.control.stop()
        return (process.paused, waiting) if process.paused else None


class _Process:
    """One child process: told what to do by lines on its standard input, tells its events by lines of a file."""

    def __init__(self, work: ChildWork, config: TrainConfig) -> None:
        self.paused: Paused | None = None
        self._work = work
        self._control, self._pauses = work.control, work.pauses
        self._error: StudioError | None = None
        self._told: set[str] = set()
        folder = work.job.folder
        self._log, self._told_events = folder / "log.txt", folder / "child-events.jsonl"
        self._settings = folder / "child.toml"
        write_text(self._settings, toml_text(to_mapping(config)))

    def wait_for_earlier(self) -> bool:
        """Until no earlier process of the job is left: one whose parent was killed saves its state first.

        False when the job is aborted before that.
        """
        while not self._control.aborting:
            try:
                lock_file(lock_of(self._told_events)).close()
                return True
            except StudioError:
                self._work.job.say_why("an earlier process of this job saves its state")
                time.sleep(_POLL_SECONDS)
        return False

    def events(self) -> Iterator[Event]:
        self._told_events.unlink(missing_ok=True)
        lines = LineReader(self._told_events)
        process = self._start()
        try:
            ended = False
            while not ended:
                ended = process.poll() is not None  # before the last look: nothing is written after its end
                for line in lines.read():
                    yield from self._take(json.loads(line), process)
                self._pass_on(process)
                if not ended:
                    time.sleep(_POLL_SECONDS)
        finally:
            self._end(process)
        self._check(process.returncode)

    def _start(self) -> subprocess.Popen:
        work = self._work
        command = [sys.executable, "-m", "lib_lora", work.command, "--config_file", str(self._settings)]
        command += ["--events", str(self._told_events), "--control", "-"]
        if work.options.num_processes > 1:
            command += ["--num_processes", str(work.options.num_processes)]
        with open(self._log, "ab") as log:
            # A session of its own, lest a terminal's Ctrl-C reaches it too: that its parent is gone it learns from
            # the end of its standard input, and saves its state.
            return subprocess.Popen(
                command,
                cwd=_ROOT,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _take(self, told: dict[str, Any], process: subprocess.Popen) -> Iterator[Event]:
        if "error" in told:
            self._error = StudioError.from_json(told["error"])
            return
        event = event_from_json(told)
        if isinstance(event, Paused):
            if self._pauses.wanted:  # its state is saved, and that is all that is needed to go on
                self.paused = event
                self._tell(process, ABORT)
            return
        if not self.paused:
            yield event

    def _pass_on(self, process: subprocess.Popen) -> None:
        """Tell the process what is wished of it."""
        control = self._control
        if control.aborting:
            if ABORT not in self._told:
                self._tell(process, ABORT)
                self._end(process)
        elif control.stopping:
            if STOP not in self._told:
                self._tell(process, SAVE_STATE, STOP)
        elif self._pauses.wanted:
            if PAUSE not in self._told:
                self._tell(process, *([SAVE_LORA] if self._work.options.lora_while_paused else []), PAUSE)
        elif PAUSE in self._told and not self.paused:
            self._tell(process, RESUME)
            self._told -= {PAUSE}
        if control.take_state_wish():
            self._tell(process, SAVE_STATE)
        if control.take_lora_wish():
            self._tell(process, SAVE_LORA)

    def _tell(self, process: subprocess.Popen, *words: str) -> None:
        self._told |= set(words)
        with contextlib.suppress(OSError):  # it has ended meanwhile
            process.stdin.write("".join(f"{word}\n" for word in words).encode())
            process.stdin.flush()

    def _end(self, process: subprocess.Popen) -> None:
        """See to it that the process ends; one that nobody listens to any more writes nothing more."""
        if process.poll() is None:
            self._tell(process, ABORT)
            for end, seconds in ((lambda: None, _ABORT_SECONDS), (process.terminate, _TERMINATE_SECONDS)):
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                    break
            else:
                process.kill()
                process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _check(self, code: int) -> None:
        """Raises StudioError where the process has failed."""
        if code in (0, STOPPED_CODE) or self.paused or self._control.aborting:
            return
        if self._error is not None:
            raise self._error
        said = tail(self._log, _LOG_LINES)
        raise StudioError(f"the process {_ending(code)}; its last lines:\n{said}", file=self._log)


def _environment() -> dict[str, str]:
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), path] if path else [str(_ROOT)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
