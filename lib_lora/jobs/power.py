"""Shutting the machine down when the queue is done, with a minute to think better of it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

DELAY_S = 60.0

_log = logging.getLogger(__name__)


def shutdown_command(platform: str = sys.platform) -> list[str]:
    """What shuts the machine down at once, as a user without special rights may."""
    if platform == "win32":
        return ["shutdown", "/s", "/t", "0"]
    if platform == "darwin":
        return ["osascript", "-e", 'tell application "System Events" to shut down']
    return ["systemctl", "poweroff"]


class Shutdown:
    """A shutdown that can be called off until it happens. ``at``: when, in epoch seconds; None: not planned."""

    def __init__(self, delay_s: float = DELAY_S) -> None:
        self.at: float | None = None
        self._delay_s = delay_s
        self._timer: threading.Timer | None = None

    def plan(self) -> None:
        self.cancel()
        self.at = time.time() + self._delay_s
        self._timer = threading.Timer(self._delay_s, self.run)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.at, self._timer = None, None

    def run(self) -> None:
        """Shut down now."""
        try:
            subprocess.run(shutdown_command(), check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            _log.warning("the machine could not be shut down: %s %s", error, getattr(error, "stderr", None) or "")
        self.at = None
