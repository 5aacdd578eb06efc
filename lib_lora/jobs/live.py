"""Work on the model that the host has loaded: borrowed while it runs, given back in every pause and at its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Paused
from lib_lora.base.protocols import Host, Lease
from lib_lora.base.signals import Control
from lib_lora.jobs.display import Display
from lib_lora.jobs.failure import free_memory, free_memory_of
from lib_lora.jobs.job import Job
from lib_lora.jobs.options import TrainJobOptions, is_loaded
from lib_lora.jobs.pauses import Pauses
from lib_lora.training.config import TrainConfig


class _RunControl(Control):
    """What the run sees of the job's control: every wish at once, but a pause only as it is passed on.

    So a run waits only while the model is given back, and goes on only when it has been borrowed again.
    """

    def __init__(self, job: Control) -> None:
        super().__init__()
        self._job = job

    @property
    def stopping(self) -> bool:
        return self._job.stopping

    @property
    def aborting(self) -> bool:
        return self._job.aborting

    @property
    def pausing(self) -> bool:
        return self._pausing and not self.stopping

    def take_state_wish(self) -> bool:
        return self._job.take_state_wish()

    def take_lora_wish(self) -> bool:
        return self._job.take_lora_wish()


@dataclass
class LiveWork:
    """Work on the host's own model.

    Attributes:
        start: begins the work on the lent model and tells its events.
    """

    job: Job
    host: Host
    control: Control
    config: TrainConfig
    options: TrainJobOptions
    start: Callable[[Lease, Control], Iterator[Event]]

    def events(self) -> Iterator[Event]:
        """The work's events; the model is given back whatever happens, before the error is told.

        Raises:
            StudioError: the model cannot be lent, or the work has failed.
        """
        self.job.say_why("waits for the host's model")
        if not is_loaded(self.config.pretrained_model_name_or_path, self.host):
            self.host.switch_to(self.config.pretrained_model_name_or_path)
        lease = self.host.lend(self.config)
        try:
            self.job.say_why(None)
            if self.control.stopping:
                return
            self._check(lease)
            for note in lease.notes:
                yield Note(note)
            yield from self._work(lease)
        except Exception as error:
            free_memory_of(error)  # the host may need it to take its model back
            raise
        finally:
            lease.give_back()
            free_memory()

    def _check(self, lease: Lease) -> None:
        """Somebody may have switched while the job waited for the model."""
        wanted, lent = self.config.pretrained_model_name_or_path, lease.model.path
        if lent is not None and os.path.realpath(lent) != os.path.realpath(wanted):
            raise StudioError(
                "another checkpoint is loaded now",
                field="pretrained_model_name_or_path",
                came=lent.name,
                allowed=f"{wanted.name}: load it, or take model_source switch",
            )

    def _work(self, lease: Lease) -> Iterator[Event]:
        control, pauses = _RunControl(self.control), Pauses(self.control, self.options)
        with contextlib.closing(self.start(lease, control)) as events, Display(self.host, self.job.spec.name) as shown:
            for event in events:
                if isinstance(event, Paused):
                    shown.hide()
                    yield from self._pause(event, lease, pauses)
                    control.resume()
                    continue
                shown.show(event)
                yield event
                if shown.interrupted():
                    self.control.save_state()
                    self.control.stop()
                pauses.look(event, lease)
                if pauses.wanted and not control.pausing:
                    if self.options.lora_while_paused:
                        self.control.save_lora()
                    control.pause()

    def _pause(self, event: Paused, lease: Lease, pauses: Pauses) -> Iterator[Event]:
        """Until the pause is over and the model is borrowed again, or the job is to end."""
        lease.give_back()
        free_memory()
        self.job.say_why(pauses.why)
        yield event
        while True:
            pauses.wait(lease)
            if self.control.stopping:
                return
            self.job.say_why("waits for the host's model")
            try:
                lease.take_again(put_back=self.options.on_switch == "put_back")
            except StudioError as error:
                self.control.pause()
                self.job.say_why(str(error))
            else:
                return
