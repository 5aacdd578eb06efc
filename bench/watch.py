"""A command on a pseudo-terminal, watched from outside: when its progress bar moves, and how much memory it takes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

POLL_S = 0.02


@dataclass
class Watched:
    """What was seen of one run.

    Attributes:
        step_ends_s: since the process's start, the end of each step.
        step_ends_cpu_s: the processor's time that was spent until then, over all threads; unlike the time by the
            clock, others at work on the machine hardly change it.
        peak_anon_mb: the most memory of its own (RssAnon) it had at a time; a file's mapped pages are not in it.
        peak_rss_mb: the most resident memory, mapped pages included.
        output: all it printed.
    """

    step_ends_s: dict[int, float] = field(default_factory=dict)
    step_ends_cpu_s: dict[int, float] = field(default_factory=dict)
    peak_anon_mb: float = 0.0
    peak_rss_mb: float = 0.0
    output: str = ""

    def first_step(self, cpu: bool = False) -> float:
        """Seconds from the process's start to the end of its first step."""
        return self._ends(cpu)[1]

    def step(self, cpu: bool = False, warm_up: int = 2) -> float:
        """Seconds of the median step, without the first ``warm_up``."""
        ends = self._ends(cpu)
        numbers = [step for step in sorted(ends) if step >= warm_up]
        return statistics.median((ends[b] - ends[a]) / (b - a) for a, b in pairwise(numbers))

    def _ends(self, cpu: bool) -> dict[int, float]:
        return self.step_ends_cpu_s if cpu else self.step_ends_s


def watch(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    meanwhile: Callable[[], None] = lambda: None,
) -> Watched:
    """Run a command whose tqdm bar called "steps" counts its steps.

    Args:
        meanwhile: called every few hundredths of a second.

    Raises:
        RuntimeError: it failed, or its bar was not seen; with what it printed last.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # bars of no width are not drawn
    pattern = re.compile(r"steps:.*?\| *(\d+)/\d+ ")
    seen = Watched()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    try:
        while True:
            text = _read(ours)
            now = time.perf_counter() - started
            if text is None:
                break
            seen.output += text
            for number in map(int, pattern.findall(seen.output[-len(text) - 300 :]) if text else ()):
                if number not in seen.step_ends_s:
                    seen.step_ends_s[number], seen.step_ends_cpu_s[number] = now, _cpu_s(process.pid)
            _look_at_memory(process.pid, seen)
            meanwhile()
    finally:
        os.close(ours)
    if process.wait() or len(seen.step_ends_s) < 2:
        raise RuntimeError(f"{' '.join(command)}\nended with {process.returncode}:\n{seen.output[-4000:]}")
    return seen


def _read(terminal: int) -> str | None:
    """What was printed since, "" for nothing, None at the end."""
    ready, _, _ = select.select([terminal], [], [], POLL_S)
    if not ready:
        return ""
    try:
        return os.read(terminal, 65536).decode("utf-8", "replace") or None
    except OSError:  # how Linux ends a pseudo-terminal
        return None


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _look_at_memory(pid: int, seen: Watched) -> None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return
    found = {name: int(size) / 1024 for name, size in re.findall(r"^(RssAnon|VmHWM):\s+(\d+) kB", status, re.M)}
    seen.peak_anon_mb = max(seen.peak_anon_mb, found.get("RssAnon", 0.0))
    seen.peak_rss_mb = max(seen.peak_rss_mb, found.get("VmHWM", 0.0))


@dataclass(frozen=True)
class Measured:
    """A whole process: seconds by the clock and of the processors, and its memory as in ``Watched``."""

    seconds: float
    cpu_s: float
    peak_anon_mb: float
    peak_rss_mb: float
    output: str


def measure(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Measured:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with what it printed last.
    """
    seen = Watched()
    with tempfile.TemporaryFile() as printed:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=printed, stderr=printed
        )
        while True:
            _look_at_memory(process.pid, seen)
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(POLL_S)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        output = printed.read().decode("utf-8", "replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\nended with {process.returncode}:\n{output[-4000:]}")
    return Measured(seconds, used.ru_utime + used.ru_stime, seen.peak_anon_mb, seen.peak_rss_mb, output)
