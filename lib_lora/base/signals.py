"""How the outside asks long work to stop."""

from __future__ import annotations

import threading


class Control:
    """Handed to long work by whoever started it; the work looks at it between its smallest parts.

    May be used from any thread and from a signal handler.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the work to end soon and to keep what it has."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()
