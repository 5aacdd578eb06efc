"""What the routes act on."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.protocols import Host
from lib_lora.jobs.queue import JobQueue


@dataclass(frozen=True)
class Studio:
    """Where the program lives and what it has to do; one of each in a process."""

    host: Host
    queue: JobQueue
