"""Learning rate schedules: a factor for each step, and what applies it.

The formulas are those of transformers' and diffusers' ``get_scheduler``, but for rex: the factor of step 0 is the
first step's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.registry import Registry
from lib_lora.training.optimizers import OptimizerSet

LR_END = 1e-7  # where polynomial ends, as in diffusers


@dataclass(frozen=True)
class ScheduleShape:
    """What a schedule needs to know of the run.

    Args:
        total_steps: optimizer steps of the whole run.
        warmup_steps: steps of linear rise from 0; see ``steps_of``.
        cycles: of cosine_with_restarts and cosine_with_min_lr.
        power: of polynomial.
        lr_end: of polynomial, where it ends, as a share of the base rate.
        decay_steps: of warmup_stable_decay, the last ones, in which it falls.
        min_ratio: where those end that do not end at 0, as a share of the base rate.
        timescale: of inverse_sqrt; None: the warm-up, or 10,000 without one.
        rules: of piecewise_constant, (up to which step, factor); the last one's step is never reached.
    """

    total_steps: int
    warmup_steps: int = 0
    cycles: int = 1
    power: float = 1.0
    lr_end: float = 0.0
    decay_steps: int = 0
    min_ratio: float = 0.0
    timescale: int | None = None
    rules: tuple[tuple[float, float], ...] = ()

    def progress(self, step: int) -> float:
        """How much of the run after the warm-up is over at ``step``; 1 is the end."""
        return (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)


@dataclass(frozen=True)
class ScheduleEntry:
    """One schedule, as the registry, forms and docs want it.

    Args:
        name: what people choose it by.
        decay: the factor at a step behind the warm-up, from the step and the shape.
        help: one line.
        warms_up: whether it may have a warm-up.
        optimizer: the optimizer it belongs to, when it belongs to one.
        options: those of a run that it looks at, beside the warm-up's.
    """

    name: str
    decay: Callable[[int, ScheduleShape], float]
    help: str
    warms_up: bool = True
    optimizer: str = ""
    options: tuple[str, ...] = ()


SCHEDULES: Registry[ScheduleEntry] = Registry("lr_scheduler")


def _one(step: int, shape: ScheduleShape) -> float:
    return 1.0


def _linear(step: int, shape: ScheduleShape) -> float:
    return max(0.0, 1.0 - shape.progress(step))


def _half_cosine(progress: float) -> float:
    """1 at 0, 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _cosine(step: int, shape: ScheduleShape) -> float:
    return _half_cosine(shape.progress(step))


def _cosine_with_restarts(step: int, shape: ScheduleShape) -> float:
    progress = shape.progress(step)
    return 0.0 if progress >= 1.0 else _half_cosine((shape.cycles * progress) % 1.0)


def _cosine_with_min_lr(step: int, shape: ScheduleShape) -> float:
    return _from(shape.min_ratio, _half_cosine(shape.cycles * shape.progress(step)))


def _polynomial(step: int, shape: ScheduleShape) -> float:
    return _from(shape.lr_end, max(0.0, 1.0 - shape.progress(step)) ** shape.power)


def _rex(step: int, shape: ScheduleShape) -> float:
    """(1 - p) / (1 / 2 + (1 - p) / 2), arXiv 2107.04197, equation 1."""
    left = max(0.0, 1.0 - shape.progress(step))
    return left / (0.5 + 0.5 * left)


def _inverse_sqrt(step: int, shape: ScheduleShape) -> float:
    scale = shape.timescale or shape.warmup_steps or 10_000
    return math.sqrt(scale / (step + scale - shape.warmup_steps))


def _warmup_stable_decay(step: int, shape: ScheduleShape) -> float:
    begin = shape.total_steps - shape.decay_steps
    if step < begin:
        return 1.0
    if step >= shape.total_steps:
        return shape.min_ratio
    return _from(shape.min_ratio, _half_cosine((step - begin) / shape.decay_steps))


def _piecewise_constant(step: int, shape: ScheduleShape) -> float:
    return next(value for end, value in shape.rules if step < end)


def _from(low: float, share: float) -> float:
    """``share`` of the way from ``low`` to 1."""
    return low + (1.0 - low) * share


for _entry in (
    ScheduleEntry("constant", _one, "the learning rate stays; for adaptive optimizers", warms_up=False),
    ScheduleEntry("constant_with_warmup", _one, "rises from 0 during the warm-up, then stays"),
    ScheduleEntry("linear", _linear, "falls in a straight line to 0"),
    ScheduleEntry("cosine", _cosine, "falls along half a cosine to 0"),
    ScheduleEntry(
        "cosine_with_restarts",
        _cosine_with_restarts,
        "falls along a cosine and starts anew each cycle",
        options=("lr_scheduler_num_cycles",),
    ),
    ScheduleEntry(
        "cosine_with_min_lr",
        _cosine_with_min_lr,
        "falls along a cosine to a share of the rate",
        options=("lr_scheduler_num_cycles", "lr_scheduler_min_lr_ratio"),
    ),
    ScheduleEntry("polynomial", _polynomial, "falls along a power of what remains", options=("lr_scheduler_power",)),
    ScheduleEntry("rex", _rex, "falls slowly at first and fast at the end, to 0"),
    ScheduleEntry(
        "inverse_sqrt",
        _inverse_sqrt,
        "falls as 1 / sqrt(step), whatever the run's length",
        options=("lr_scheduler_timescale",),
    ),
    ScheduleEntry(
        "warmup_stable_decay",
        _warmup_stable_decay,
        "stays, and falls along half a cosine in the last steps",
        options=("lr_decay_steps", "lr_scheduler_min_lr_ratio"),
    ),
    ScheduleEntry(
        "piecewise_constant",
        _piecewise_constant,
        "steps that are given one by one",
        warms_up=False,
        options=("lr_step_rules",),
    ),
    ScheduleEntry(
        "adafactor", _one, "AdaFactor with relative_step=True makes its own rate", warms_up=False, optimizer="AdaFactor"
    ),
):
    SCHEDULES.register(_entry.name)(_entry)


def steps_of(value: float, total_steps: int, field: str) -> int:
    """A number of steps: below 1 a share of ``total_steps`` (rounded down), else as it is.

    Raises:
        StudioError: it is negative, no whole number of steps, or longer than the run; ``field`` is the option.
    """
    steps = int(value * total_steps) if 0 <= value < 1 else value
    if not (0 <= steps <= total_steps and steps == int(steps)):
        raise StudioError(
            "not allowed",
            field=field,
            came=value,
            allowed=f"a whole number of steps from 0 to {total_steps}, or a share below 1",
        )
    return int(steps)


def parse_step_rules(texts: Sequence[str], total_steps: int) -> tuple[tuple[float, float], ...]:
    """``("1:100", "0.1:0.5", "0.01")``: the whole rate for 100 steps, a tenth up to half the run, then a hundredth.

    diffusers' ``step_rules``, whose steps may also be shares of the run.

    Raises:
        StudioError: a text is no factor:step, the steps do not rise, or the last one has a step.
    """
    try:
        pairs = [text.split(":") for text in texts]
        ends = [steps_of(float(end), total_steps, "lr_step_rules") for _, end in pairs[:-1]]
        factors = [float(pair[0]) for pair in pairs]
        good = [len(pair) for pair in pairs] == [2] * len(ends) + [1]
    except (ValueError, IndexError):
        good = False
    if not good or sorted(set(ends)) != ends or not all(0 <= each < math.inf for each in factors):
        raise StudioError(
            "no list of factors and steps",
            field="lr_step_rules",
            came=",".join(texts),
            allowed="factor:step, with rising steps or shares below 1, and a last factor, as 1:100,0.1:0.5,0.01",
        )
    return tuple(zip([*ends, math.inf], factors))


def factor(name: str, step: int, shape: ScheduleShape) -> float:
    """What the base rate is multiplied by at ``step``, counted from 0.

    Raises:
        StudioError: there is no schedule of this name.
    """
    if step < shape.warmup_steps:
        return step / shape.warmup_steps
    return SCHEDULES.get(name).decay(step, shape)


def check_schedule(name: str, shape: ScheduleShape, base_lrs: list[float | None]) -> None:
    """That the schedule suits its shape and the optimizers' rates (None: an optimizer that makes its own).

    Raises:
        StudioError: a warm-up where there is none or that goes on into the decay, AdaFactor's own rate under a
            schedule that would change it, or "adafactor" for an optimizer that is given its rate.
    """
    entry = SCHEDULES.get(name)
    if shape.warmup_steps and not entry.warms_up:
        raise StudioError(f"{name} has no warm-up", field="lr_warmup_steps", came=shape.warmup_steps, allowed="0")
    left = shape.total_steps - shape.warmup_steps
    if "lr_decay_steps" in entry.options and shape.decay_steps > left:
        raise StudioError(
            f"begins before the warm-up of {shape.warmup_steps} steps is over",
            field="lr_decay_steps",
            came=shape.decay_steps,
            allowed=f"at most {left} steps of the run's {shape.total_steps}",
        )
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
    """Keeps an ``OptimizerSet``'s rates at factor x base rate. Its whole state is the number of the step and a scale.

    Args:
        optimizers: whose rates it sets, at once and after each ``step``.
        name: an entry of ``SCHEDULES``.
        shape: the run.
        lr_end: where polynomial ends, as a rate; each group's share of its base rate follows from it.

    Raises:
        StudioError: see ``check_schedule``; or a polynomial that would end above a base rate.
    """

    def __init__(self, optimizers: OptimizerSet, name: str, shape: ScheduleShape, *, lr_end: float = LR_END) -> None:
        check_schedule(name, shape, optimizers.base_lrs)
        if optimizers.averages and name.lower() not in ("constant", "constant_with_warmup"):
            raise StudioError(
                "a schedule-free optimizer averages its weights in place of a falling rate",
                field=SCHEDULES.field,
                came=name,
                allowed="constant, constant_with_warmup",
            )
        self.name = name
        self._optimizers = optimizers
        self._shapes = [shape_for(name, shape, base, lr_end) for base in optimizers.base_lrs]
        self.step_number = 0
        self.scale = 1.0
        self._apply()

    def set_scale(self, scale: float) -> None:
        """Multiply all rates by ``scale`` from now on, in place of the scale before."""
        self.scale = scale
        self._apply()

    def step(self) -> None:
        """After each step of the optimizers."""
        self.step_number += 1
        self._apply()

    def _apply(self) -> None:
        factors = [self.scale * factor(self.name, self.step_number, shape) for shape in self._shapes]
        self._optimizers.set_factors(factors)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step_number, "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_number, self.scale = int(state["step"]), float(state.get("scale", 1.0))
        self._apply()


def shape_for(name: str, shape: ScheduleShape, base: float | None, lr_end: float = LR_END) -> ScheduleShape:
    """The shape for one group's base rate: polynomial ends at the rate ``lr_end`` whatever the rate is.

    Raises:
        StudioError: that is above the base rate.
    """
    if base is None or name.lower() != "polynomial":
        return shape
    if base <= lr_end:
        raise StudioError(
            "polynomial would end above it", field="learning_rate", came=base, allowed=f"a number above {lr_end:g}"
        )
    return replace(shape, lr_end=lr_end / base)
