"""When a job lets go of the host's model for a while, and for how long."""

from __future__ import annotations

import time

from lib_lora.base.events import Event, StepDone
from lib_lora.base.protocols import Waiting
from lib_lora.base.signals import Control
from lib_lora.jobs.options import TrainJobOptions

_POLL_SECONDS = 0.1
# After a picture people often want the next one: the model is not taken back between the two.
_QUIET_SECONDS = 1.5


class Pauses:
    """The pauses that a person asks for, and those that a job makes by itself when somebody wants the model.

    Attributes:
        by_itself: a pause that nobody has asked for.
    """

    def __init__(self, control: Control, options: TrainJobOptions) -> None:
        self.by_itself = False
        self._control = control
        self._options = options

    @property
    def wanted(self) -> bool:
        """Whether a pause is to begin or to last; a stop outdoes it."""
        return (self._control.pausing or self.by_itself) and not self._control.stopping

    def look(self, event: Event, waiting: Waiting) -> None:
        """After a step: whether somebody waits for whom the job should pause."""
        if self._options.pause_on_generate and isinstance(event, StepDone) and waiting.somebody_waits():
            self.by_itself = True

    @property
    def why(self) -> str | None:
        """Why there is a pause that nobody has asked for."""
        return None if self._control.pausing else "somebody else uses the host's model"

    def wait(self, waiting: Waiting) -> None:
        """Until the pause is over: a person says so, or nobody wants the model any more; or the job is to end."""
        quiet_since = time.monotonic()
        while self.wanted:
            if self._control.pausing:
                self.by_itself = False
            elif waiting.somebody_waits():
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= _QUIET_SECONDS:
                self.by_itself = False
            time.sleep(_POLL_SECONDS)
