"""Whose turn it is to use the WebUI's model: its queue lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """The WebUI's queue lock, which generations and checkpoint switches take too; first come, first served.

    The lock itself does not let its holder in a second time; this does, for the thread that took it. It may be given
    back by another thread (modules/fifo_lock.py has no owner).
    """

    def __init__(self) -> None:
        self._owner: int | None = None

    @property
    def mine(self) -> bool:
        """Whether this thread has it."""
        return self._owner == threading.get_ident()

    def take(self) -> None:
        """Wait for it."""
        _queue_lock().acquire()
        self._owner = threading.get_ident()

    def give(self) -> None:
        self._owner = None
        _queue_lock().release()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """For a while; a thread that has it already goes on at once."""
        if self.mine:
            yield
            return
        self.take()
        try:
            yield
        finally:
            self.give()

    def somebody_waits(self) -> bool:
        """Whether another wants it: a person who has pressed Generate or chosen another checkpoint, say."""
        return bool(_queue_lock()._pending_threads)


def _queue_lock():
    from modules.call_queue import queue_lock

    return queue_lock
