"""Ctrl-C and the progress bar."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from lib_lora.base.signals import Control


@contextlib.contextmanager
def stop_on_ctrl_c(control: Control) -> Iterator[None]:
    """The first Ctrl-C asks the work to stop and keep what it has; the second ends the program at once."""

    def ask(number: int, frame: object) -> None:
        if control.stopping:
            raise KeyboardInterrupt
        print("\nstopping after this step; Ctrl-C again ends at once", file=sys.stderr)
        control.stop()

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
