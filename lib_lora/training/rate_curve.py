"""The learning rate of each group over a run, before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lib_lora.adapters.spec import UNET
from lib_lora.training.config import TrainConfig
from lib_lora.training.optimizer_table import find_optimizer
from lib_lora.training.parts import schedule_name, schedule_shape
from lib_lora.training.schedules import check_schedule, factor, shape_for

POINTS = 200


@dataclass(frozen=True)
class RateCurves:
    """What a page draws.

    Attributes:
        steps: counted from 1, evenly spread from the first step of the run to the last.
        rates: by group, the UNet's first, one for each of ``steps``; without groups whose optimizer makes its own.
        note: what an adaptive optimizer makes of them; empty for others.
    """

    steps: tuple[int, ...]
    rates: Mapping[str, tuple[float, ...]]
    note: str = ""


def rate_curves(
    config: TrainConfig, total_steps: int, base_rates: Mapping[str, float | None], points: int = POINTS
) -> RateCurves:
    """The rates that ``Schedule`` will set.

    Args:
        base_rates: by group, from ``LearningRates.groups``; None is an optimizer's own.
        points: how many steps at most.

    Raises:
        StudioError: a schedule that does not fit its options, the rates or the run.
    """
    name, shape = schedule_name(config), schedule_shape(config, total_steps)
    check_schedule(name, shape, list(base_rates.values()))
    steps = _spread(total_steps, points)
    rates = {}
    for group, base in sorted(base_rates.items(), key=lambda each: not each[0].startswith(UNET)):
        if base is not None:
            own = shape_for(name, shape, base)
            rates[group] = tuple(base * factor(name, step, own) for step in steps)
    return RateCurves(tuple(step + 1 for step in steps), rates, _note(config, rates))


def _spread(total_steps: int, points: int) -> list[int]:
    last = max(0, total_steps - 1)
    count = max(1, min(points, total_steps))
    return sorted({round(last * index / max(1, count - 1)) for index in range(count)})


def _note(config: TrainConfig, rates: Mapping[str, object]) -> str:
    optimizer = find_optimizer(config.optimizer_type)
    if not rates:
        return f"{optimizer.name} makes its own rate"
    return f"{optimizer.name} multiplies it by the size of step that it finds" if optimizer.adaptive else ""
