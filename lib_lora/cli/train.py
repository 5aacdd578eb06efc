"""``train`` and ``plan``."""

from __future__ import annotations

from collections.abc import Callable

from lib_lora.base.events import Event, TrainingEnded
from lib_lora.base.signals import Control
from lib_lora.cli.allocator import keep_freed_memory
from lib_lora.cli.progress import Printer, stop_on_ctrl_c
from lib_lora.files.file_hashes import HashAhead
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import HASHES, cache_folder, is_main_process, make_plan


def show_plan(config: TrainConfig) -> int:
    print(make_plan(config).describe())
    return 0


def run_training(
    config: TrainConfig, control: Control | None = None, tell: Callable[[Event], None] = lambda event: None
) -> int:
    """Train and print, of several processes the first alone. 0 when the run came to its end, 130 when stopped.

    Args:
        tell: called with every event, in the first process.
    """
    plan = make_plan(config)  # its errors must not wait for torch
    ahead = None
    if is_main_process() and config.pretrained_model_name_or_path.is_file():
        # Some seconds for a checkpoint of gigabytes, in which the other processor cores have nothing else to do yet.
        ahead = HashAhead(config.pretrained_model_name_or_path, cache_folder(config) / HASHES)
    from lib_lora.models.device import choose_device
    from lib_lora.training.run import Run

    if choose_device(config.device).type == "cpu":
        keep_freed_memory()
    run = Run(config, control or Control(), plan=plan, hash_ahead=ahead)
    printer = Printer()
    stopped = False
    with stop_on_ctrl_c(run.control):
        try:
            for event in run.events():
                if is_main_process():
                    tell(event)
                    printer.show(event)
                if isinstance(event, TrainingEnded):
                    stopped = event.stopped
        finally:
            printer.close()
            run.processes.leave()
    return 130 if stopped else 0
