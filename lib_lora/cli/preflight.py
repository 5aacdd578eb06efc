"""``preflight``: a few real steps, and what they say of the whole run."""

from __future__ import annotations

from collections.abc import Callable

from lib_lora.base.events import Event, PreflightDone
from lib_lora.base.signals import Control
from lib_lora.cli.progress import Printer, stop_on_ctrl_c
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import make_plan


def run_preflight(config: TrainConfig, control: Control, tell: Callable[[Event], None]) -> int:
    """Try and print. 0 when it was tried, 130 when stopped.

    Args:
        tell: called with every event.
    """
    make_plan(config)  # its errors must not wait for torch
    from lib_lora.training.preflight import preflight

    printer, done = Printer(), False
    with stop_on_ctrl_c(control):
        try:
            for event in preflight(config, control):
                tell(event)
                printer.show(event)
                done |= isinstance(event, PreflightDone)
        finally:
            printer.close()
    return 0 if done else 130
