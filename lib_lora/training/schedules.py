"""Learning rate schedules: a factor for each step, and what applies it.

The formulas are those of transformers' and diffusers' ``get_scheduler``: the factor of step 0 is the first step's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.registry import Registry
from lib_lora.training.optimizers import OptimizerSet


@dataclass(frozen=True)
class ScheduleShape:
    """What a schedule needs to know of the run.

    Args:
        total_steps: optimizer steps of the whole run.
        warmup_steps: steps of linear rise from 0; see ``warmup_steps``.
        cycles: of cosine_with_restarts.
        power: of polynomial.
        lr_end: of polynomial, where it ends, as a share of the base rate.
    """

    total_steps: int
    warmup_steps: int = 0
    cycles: int = 1
    power: float = 1.0
    lr_end: float = 0.0

    def progress(self, step: int) -> float:
        """How much of the run after the warm-up is over at ``step``; 1 is the end."""
        return (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)


@dataclass(frozen=True)
class ScheduleEntry:
    """One schedule, as the registry, forms and docs want it.

    Args:
        name: what people choose it by.
        decay: the factor from the progress after the warm-up (0 to 1 and beyond) and the shape.
        help: one line.
        warms_up: whether it may have a warm-up.
        optimizer: the optimizer it belongs to, when it belongs to one.
    """

    name: str
    decay: Callable[[float, ScheduleShape], float]
    help: str
    warms_up: bool = True
    optimizer: str = ""


SCHEDULES: Registry[ScheduleEntry] = Registry("lr_scheduler")


def _one(progress: float, shape: ScheduleShape) -> float:
    return 1.0


def _linear(progress: float, shape: ScheduleShape) -> float:
    return max(0.0, 1.0 - progress)


def _cosine(progress: float, shape: ScheduleShape) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _cosine_with_restarts(progress: float, shape: ScheduleShape) -> float:
    if progress >= 1.0:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * ((shape.cycles * progress) % 1.0)))


def _polynomial(progress: float, shape: ScheduleShape) -> float:
    if progress >= 1.0:
        return shape.lr_end
    return (1.0 - shape.lr_end) * (1.0 - progress) ** shape.power + shape.lr_end


for _entry in (
    ScheduleEntry("constant", _one, "the learning rate stays; for adaptive optimizers", warms_up=False),
    ScheduleEntry("constant_with_warmup", _one, "rises from 0 during the warm-up, then stays"),
    ScheduleEntry("linear", _linear, "falls in a straight line to 0"),
    ScheduleEntry("cosine", _cosine, "falls along half a cosine to 0"),
    ScheduleEntry("cosine_with_restarts", _cosine_with_restarts, "falls along a cosine and starts anew each cycle"),
    ScheduleEntry("polynomial", _polynomial, "falls along a power of what remains"),
    ScheduleEntry(
        "adafactor", _one, "AdaFactor with relative_step=True makes its own rate", warms_up=False, optimizer="AdaFactor"
    ),
):
    SCHEDULES.register(_entry.name)(_entry)


def warmup_steps(value: float, total_steps: int) -> int:
    """``lr_warmup_steps`` as steps: below 1 a share of ``total_steps`` (rounded down), else a number of steps.

    Raises:
        StudioError: it is negative, no whole number of steps, or longer than the run.
    """
    steps = int(value * total_steps) if 0 <= value < 1 else value
    if not (0 <= steps <= total_steps and steps == int(steps)):
        raise StudioError(
            "not allowed",
            field="lr_warmup_steps",
            came=value,
            allowed=f"a whole number of steps from 0 to {total_steps}, or a share below 1",
        )
    return int(steps)


def factor(name: str, step: int, shape: ScheduleShape) -> float:
    """What the base rate is multiplied by at ``step``, counted from 0.

    Raises:
        StudioError: there is no schedule of this name.
    """
    if step < shape.warmup_steps:
        return step / shape.warmup_steps
    return SCHEDULES.get(name).decay(shape.progress(step), shape)


def check_schedule(name: str, shape: ScheduleShape, base_lrs: list[float | None]) -> None:
    """That the schedule suits its shape and the optimizers' rates (None: an optimizer that makes its own).

    Raises:
        StudioError: a warm-up where there is none, AdaFactor's own rate under a schedule that would change it,
            or "adafactor" for an optimizer that is given its rate.
    """
    entry = SCHEDULES.get(name)
    if shape.warmup_steps and not entry.warms_up:
        raise StudioError(f"{name} has no warm-up", field="lr_warmup_steps", came=shape.warmup_steps, allowed="0")
    if None in base_lrs and name.lower() not in ("adafactor", "constant"):
        raise StudioError(
            "AdaFactor with relative_step=True makes its own rate, which no schedule changes",
            field=SCHEDULES.field,
            came=name,
            allowed="adafactor",
        )
    if entry.optimizer and any(rate is not None for rate in base_lrs):
        raise StudioError(
            "belongs to AdaFactor with relative_step=True",
            field=SCHEDULES.field,
            came=name,
            allowed=[other for other in SCHEDULES if not SCHEDULES.get(other).optimizer],
        )


class Schedule:
    """Keeps an ``OptimizerSet``'s rates at factor x base rate. Its whole state is the number of the step.

    Args:
        optimizers: whose rates it sets, at once and after each ``step``.
        name: an entry of ``SCHEDULES``.
        shape: the run.
        lr_end: where polynomial ends, as a rate; each group's share of its base rate follows from it.

    Raises:
        StudioError: see ``check_schedule``; or a polynomial that would end above a base rate.
    """

    def __init__(self, optimizers: OptimizerSet, name: str, shape: ScheduleShape, *, lr_end: float = 1e-7) -> None:
        check_schedule(name, shape, optimizers.base_lrs)
        self.name = name
        self._optimizers = optimizers
        self._shapes = [_shape_for(name, shape, base, lr_end) for base in optimizers.base_lrs]
        self.step_number = 0
        self._apply()

    def step(self) -> None:
        """After each step of the optimizers."""
        self.step_number += 1
        self._apply()

    def _apply(self) -> None:
        self._optimizers.set_factors([factor(self.name, self.step_number, shape) for shape in self._shapes])

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step_number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_number = int(state["step"])
        self._apply()


def _shape_for(name: str, shape: ScheduleShape, base: float | None, lr_end: float) -> ScheduleShape:
    if base is None or name.lower() != "polynomial":
        return shape
    if base <= lr_end:
        raise StudioError(
            "polynomial would end above it", field="learning_rate", came=base, allowed=f"a number above {lr_end:g}"
        )
    return replace(shape, lr_end=lr_end / base)


def plot_values(name: str, shape: ScheduleShape, base_lr: float = 1.0, points: int = 200) -> list[tuple[int, float]]:
    """At most ``points`` pairs (step, rate), evenly spread from the first step to the last, for a picture."""
    last = max(0, shape.total_steps - 1)
    count = max(1, min(points, shape.total_steps))
    steps = sorted({round(last * i / max(1, count - 1)) for i in range(count)})
    return [(step, base_lr * factor(name, step, shape)) for step in steps]
