"""Ctrl-C, and events as text and a progress bar."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from lib_lora.base.events import (
    Event,
    Note,
    Paused,
    PreflightDone,
    Progress,
    Removed,
    Resumed,
    SampleReady,
    Saved,
    StateSaved,
    StepDone,
    TrainingEnded,
    TrainingStarted,
    Validated,
    WentBack,
)
from lib_lora.base.signals import Control
from lib_lora.training.log import AVERAGE_STEPS
from lib_lora.training.planning import is_main_process, process_count


@contextlib.contextmanager
def stop_on_ctrl_c(control: Control) -> Iterator[None]:
    """The first Ctrl-C asks the work to stop and keep what it has; the second ends the program at once."""
    # A launcher of several processes passes on a Ctrl-C that the terminal has given to all of them.
    echo_s = 3.0 if process_count() > 1 else 0.0
    asked = 0.0

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if control.stopping:
            if time.monotonic() - asked < echo_s:
                return
            raise KeyboardInterrupt
        asked = time.monotonic()
        if is_main_process():
            print("\nstopping after this step and saving; Ctrl-C again ends at once", file=sys.stderr)
        control.save_state()
        control.stop()

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class Printer:
    """Shows events on a terminal: one bar at a time, everything else on lines above it."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._what = ""
        self._losses: list[float] = []

    def show(self, event: Event) -> None:
        if isinstance(event, Note):
            self._line(f"warning: {event.text}" if event.level == "warning" else event.text)
        elif isinstance(event, Progress):
            self._advance(event.what, event.done, event.total, "it")
        elif isinstance(event, TrainingStarted):
            self._advance("steps", event.step, event.total_steps, "step")
        elif isinstance(event, StepDone):
            self._losses = [*self._losses[1 - AVERAGE_STEPS :], event.loss]
            self._advance("steps", event.step, None, "step")
            self._bar.set_postfix(
                epoch=event.epoch,
                loss=f"{sum(self._losses) / len(self._losses):.4f}",
                lr="/".join(f"{rate:.1e}" for rate in event.lr.values()),
                refresh=False,
            )
        elif isinstance(event, WentBack):
            self._advance("steps", event.step, None, "step")
        elif isinstance(event, Validated):
            best = ", the lowest so far" if event.best else ""
            self._line(f"held-out loss {event.loss:.5g} after step {event.step}{best}")
        elif isinstance(event, Removed):
            self._line(f"removed {event.path}")
        elif isinstance(event, (Saved, StateSaved)):
            self._line(f"saved {event.path}")
        elif isinstance(event, Paused):
            self._line(f"paused after step {event.step}")
        elif isinstance(event, Resumed):
            self._line("going on")
        elif isinstance(event, SampleReady):
            self._line(f"sample {event.path}")
        elif isinstance(event, PreflightDone):
            self.close()
            self._line("\n".join(_found_out(event)))
        elif isinstance(event, TrainingEnded):
            self.close()
            self._line(self._summary(event))

    def _summary(self, event: TrainingEnded) -> str:
        words = f"{'stopped' if event.stopped else 'done'} after {event.step} steps and {event.seconds:.0f} s"
        lines = [f"{words}; wrote:", *(f"  {path}" for path in event.written)] if event.written else [words]
        if event.stopped and event.state:
            lines.append(f"to go on, give the same options and: --resume {shlex.quote(str(event.state))}")
        return "\n".join(lines)

    def _advance(self, what: str, done: int, total: int | None, unit: str) -> None:
        if self._what != what:
            self.close()
            # A terminal gets a live bar; a log file gets a line every few seconds.
            self._bar = tqdm(
                total=total,
                desc=what,
                unit=unit,
                file=sys.stderr,
                dynamic_ncols=True,
                mininterval=0.2 if sys.stderr.isatty() else 10,
            )
            self._what = what
        self._bar.update(done - self._bar.n)

    def _line(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.clear()
            tqdm.write(text, file=sys.stdout)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""


@contextlib.contextmanager
def watched() -> Iterator[tuple[Printer, Control]]:
    """What shows how far some work is, and what stops it at the first Ctrl-C."""
    control, printer = Control(), Printer()
    with stop_on_ctrl_c(control):
        try:
            yield printer, control
        finally:
            printer.close()


def _found_out(event: PreflightDone) -> list[str]:
    """A preflight's result, a sentence a line."""
    lines = []
    if event.seconds_per_step is not None:
        minutes = event.seconds_total / 60
        lines.append(f"{event.seconds_per_step:.2f} s a step: {event.steps} steps take about {minutes:.0f} minutes")
    if event.memory_mb is not None:
        of_card = f" of the card's {event.card_mb:.0f}" if event.card_mb is not None else ""
        lines.append(f"memory: {event.memory_mb:.0f} MB{of_card}")
    return lines + list(event.advice)
