"""What a job is: its kind, its name, and what it was asked to do."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event
from lib_lora.base.protocols import Host
from lib_lora.base.registry import Registry
from lib_lora.base.signals import Control

if TYPE_CHECKING:
    from lib_lora.jobs.job import Job

_ID = re.compile(r"\d{8}-\d{6}-\d{3}-[0-9a-f]{6}")


@dataclass(frozen=True)
class JobSpec:
    """What stays the same of a job from its beginning to its end.

    Attributes:
        id: its folder's name; in the order in which jobs were made.
        kind: a name of ``JOB_KINDS``.
        values: as a page or script submitted them.
        plan: what its kind made of them, which is what is done: later changes of the host's settings are none of its.
        created: epoch seconds.
        result: the file that it is to write, where there must be none yet.
    """

    id: str
    kind: str
    name: str
    values: dict[str, Any]
    plan: dict[str, Any]
    created: float
    result: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> JobSpec:
        return cls(**{name: values[name] for name in ("id", "kind", "name", "values", "plan", "created", "result")})


@dataclass(frozen=True)
class Prepared:
    """What a kind makes of submitted values.

    Attributes:
        name: what the job is called where nobody gives it a name.
        plan: all that ``run`` needs to know, as JSON can hold it.
        way: "live" or "child"; ``way_why`` says why.
        result: the file that the job is to write and that must not be there yet; ``result_option`` is what names it.
    """

    name: str
    plan: dict[str, Any] = field(default_factory=dict)
    way: str = ""
    way_why: str = ""
    result: Path | None = None
    result_option: str = "output_name"


class JobKind(Protocol):
    """A kind of work. ``pausable`` also says that it has a state and a LoRA so far."""

    pausable: bool

    def check(self, values: Mapping[str, Any], host: Host, folder: Path) -> Prepared:
        """Find out beforehand all that can be wrong.

        Args:
            folder: the job's own, which may not be there yet.

        Raises:
            StudioError: naming the option at fault.
        """

    def run(self, job: Job, host: Host, control: Control) -> Iterator[Event]:
        """Do it. After ``Paused`` nothing of the host's is held; ``Resumed`` says that it goes on."""


JOB_KINDS: Registry[JobKind] = Registry("kind")


def new_id(now: float) -> str:
    """An id for a job made at ``now`` (epoch seconds): its time to the millisecond (UTC), and what nobody guesses."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    return f"{stamp}-{int(now * 1000) % 1000:03d}-{secrets.token_hex(3)}"


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id: then it names a folder and nothing else."""
    return _ID.fullmatch(text) is not None


def no_such_job(id: object) -> StudioError:
    return StudioError("no such job", field="id", came=id, allowed="the id of a job in the queue")
