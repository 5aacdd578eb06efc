"""``train`` and ``plan``."""

from __future__ import annotations

from lib_lora.base.events import TrainingEnded
from lib_lora.cli.progress import Printer, stop_on_ctrl_c
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import make_plan


def show_plan(config: TrainConfig) -> int:
    print(make_plan(config).describe())
    return 0


def run_training(config: TrainConfig) -> int:
    """Train and print. 0 when the run came to its end, 130 when it was stopped."""
    plan = make_plan(config)  # its errors must not wait for torch
    from lib_lora.training.run import Run

    run = Run(config, plan=plan)
    printer = Printer()
    stopped = False
    with stop_on_ctrl_c(run.control):
        try:
            for event in run.events():
                printer.show(event)
                if isinstance(event, TrainingEnded):
                    stopped = event.stopped
        finally:
            printer.close()
    return 130 if stopped else 0
