"""``train --num_processes N``: the same command N times on this machine, as ``accelerate launch`` would start it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_POLL_SECONDS = 0.2
# When one has failed, the others are told and end by themselves; after this they are ended.
_GRACE_SECONDS = 20.0


def start_processes(count: int, arguments: Sequence[str]) -> int:
    """Run ``python -m lib_lora`` with ``arguments`` in ``count`` processes; the first exit code that is not 0.

    Ctrl-C is passed on to all of them, once each.
    """
    processes: list[subprocess.Popen] = []

    def pass_on(number: int, frame: object) -> None:
        if os.name != "nt":  # on Windows the console tells them all
            for process in processes:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        command, environment = [sys.executable, "-m", "lib_lora", *arguments], _environment(count)
        for rank in range(count):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own, lest a terminal's Ctrl-C reaches it twice.
            # The first listens for words on standard input; two readers would each get some of them.
            source = None if rank == 0 else subprocess.DEVNULL
            processes.append(subprocess.Popen(command, env=own, stdin=source, start_new_session=True))
        return _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(count: int) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, path] if path else [root]),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    failed = 0
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if not failed and any(codes):
            failed, deadline = next(filter(None, codes)), time.monotonic() + _GRACE_SECONDS
        time.sleep(_POLL_SECONDS)
    return failed or next((process.returncode for process in processes if process.returncode), 0)
