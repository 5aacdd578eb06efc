"""``start=``, ``stop=`` and ``step=A-B``: in which sampling steps a LoRA acts.

A whole number is a step, counted from 1: ``start=10`` acts from the tenth step on, ``stop=10`` up to the ninth, as in
sd-webui-lora-block-weight (b403cb7, ``denoiser_callback``). A number with a point is a share of the steps:
``start=0.3`` of 20 steps acts from the seventh on. ``step=A-B`` is both. Each pass, such as hires fix's second one,
counts its own steps. The text encoders have read the prompt before the first step: theirs is always the whole strength.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from lib_lora.base.errors import StudioError

# A step from 1, or a share of all steps, exactly as it is written: 0.7 of 10 steps are 7.
Moment = int | Fraction
# Python refuses to read thousands of digits.
_STEP, _SHARE = re.compile(r"[0-9]{1,9}"), re.compile(r"[0-9]{0,9}\.[0-9]{1,20}|[0-9]{1,9}\.")
_ALLOWED = "a step such as 10, or a share of the steps such as 0.3"


@dataclass(frozen=True)
class Schedule:
    """From ``start`` on and up to ``stop``, which is the first moment without; None: from the first, to the last."""

    start: Moment | None = None
    stop: Moment | None = None

    def acts(self, step: int, steps: int) -> bool:
        """Whether the LoRA acts in a step.

        Args:
            step: counted from 0.
            steps: of the pass.
        """
        begins = self.start is None or step >= _place(self.start, steps)
        return begins and (self.stop is None or step < _place(self.stop, steps))

    @property
    def text(self) -> str:
        """``start=3:stop=0.5``."""
        moments = (("start", self.start), ("stop", self.stop))
        return ":".join(f"{word}={_moment_text(moment)}" for word, moment in moments if moment is not None)


def parse_schedule(start: str | None, stop: str | None, step: str | None) -> Schedule | None:
    """The schedule of a prompt's words; None where there are none.

    Raises:
        StudioError: ``field`` "start", "stop" or "step": something else than a step or a share, or an end that is not
            after the beginning.
    """
    if step is not None:
        if start is not None or stop is not None:
            raise StudioError("excludes start and stop", field="step", came=step, allowed="one way of the two")
        first, dash, last = step.partition("-")
        if not dash:
            raise StudioError("is no range", field="step", came=step, allowed="5-10, or 0.2-0.6")
        return _checked(Schedule(_moment(first, "step"), _moment(last, "step")), "step", step)
    if start is None and stop is None:
        return None
    begin = None if start is None else _moment(start, "start")
    end = None if stop is None else _moment(stop, "stop")
    return _checked(Schedule(begin, end), "stop", stop)


def _checked(schedule: Schedule, field: str, came: str | None) -> Schedule:
    start, stop = schedule.start, schedule.stop
    if start is not None and stop is not None and isinstance(start, int) == isinstance(stop, int) and stop <= start:
        raise StudioError("ends before it begins", field=field, came=came)
    return schedule


def _moment(text: str, field: str) -> Moment:
    text = text.strip()
    if _STEP.fullmatch(text):
        return int(text)
    if _SHARE.fullmatch(text) and Fraction(text) <= 1:
        return Fraction(text)
    raise StudioError("is no step", field=field, came=text, allowed=_ALLOWED)


def _place(moment: Moment, steps: int) -> Moment:
    """In steps from 0."""
    return moment - 1 if isinstance(moment, int) else moment * steps


def _moment_text(moment: Moment) -> str:
    if isinstance(moment, int):
        return str(moment)
    text = f"{float(moment):.10g}"
    return text if "." in text else f"{text}.0"
