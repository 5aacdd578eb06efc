"""``sample``: pictures with a progress bar."""

from __future__ import annotations

from lib_lora.base.signals import Control
from lib_lora.cli.progress import Printer, stop_on_ctrl_c
from lib_lora.hosts.standalone.sampling import SampleConfig, sample


def run_sampling(config: SampleConfig) -> int:
    """Write the pictures; 0 when all were written, 130 when stopped."""
    control, printer = Control(), Printer()
    with stop_on_ctrl_c(control):
        try:
            sample(config, control, printer.show)
        finally:
            printer.close()
    return 130 if control.stopping else 0
