from __future__ import annotations

import math

import diffusers.optimization
import pytest
import torch
import transformers

from lib_lora.base.errors import StudioError
from lib_lora.training import schedules as subject
from lib_lora.training.optimizers import ParamGroup, build_optimizers
from lib_lora.training.schedules import SCHEDULES, Schedule, ScheduleShape, factor

GENERAL = ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
BASE = 2e-3


def optimizers(name: str = "AdamW", *rates: float | None, args=()):
    groups = [
        ParamGroup(f"group{i}", [torch.nn.Parameter(torch.ones(2, 2))], rate) for i, rate in enumerate(rates or (BASE,))
    ]
    return build_optimizers(name, groups, args)


def rates_of(scheduler, optimizer, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(name: str, shape: ScheduleShape, steps: int) -> list[float]:
    built = optimizers()
    schedule = Schedule(built, name, shape)
    rates = []
    for _ in range(steps):
        rates.append(built.learning_rates()["group0"])
        built.step()
        schedule.step()
    return rates


def theirs(get_scheduler, name: str, shape: ScheduleShape, steps: int, **kwargs) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2, 2))], lr=BASE)
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=shape.warmup_steps, num_training_steps=shape.total_steps, **kwargs
    )
    return rates_of(scheduler, optimizer, steps)


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize(("warmup", "cycles", "power"), [(0, 1, 1.0), (7, 3, 2.0), (1, 2, 0.5)])
def test_rates_equal_diffusers_step_by_step_and_beyond_the_end(name, warmup, cycles, power):
    shape = ScheduleShape(40, 0 if name == "constant" else warmup, cycles, power)
    expected = theirs(diffusers.optimization.get_scheduler, name, shape, 45, num_cycles=cycles, power=power)
    assert ours(name, shape, 45) == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("warmup", [0, 6])
def test_rates_equal_transformers_step_by_step_and_beyond_the_end(name, warmup):
    shape = ScheduleShape(30, 0 if name == "constant" else warmup)
    expected = theirs(transformers.get_scheduler, name, shape, 34)
    assert ours(name, shape, 34) == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_factors_by_hand():
    shape = ScheduleShape(total_steps=12, warmup_steps=2, cycles=2, power=2.0)
    assert [factor("cosine", step, shape) for step in (0, 1, 2)] == [0.0, 0.5, 1.0]
    assert factor("cosine", 7, shape) == pytest.approx(0.5)
    assert factor("linear", 7, shape) == pytest.approx(0.5)
    assert factor("polynomial", 7, shape) == pytest.approx(0.25)
    assert factor("cosine_with_restarts", 7, shape) == pytest.approx(1.0)
    assert factor("cosine_with_restarts", 6, shape) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.8)))
    assert [factor("adafactor", step, ScheduleShape(12)) for step in (0, 11)] == [1.0, 1.0]


def test_a_warm_up_as_long_as_the_run_divides_by_nothing():
    for name in GENERAL[1:]:
        assert math.isfinite(factor(name, 5, ScheduleShape(5, 5)))


@pytest.mark.parametrize(
    ("value", "steps"), [(0, 0), (0.1, 20), (0.5, 100), (0.999, 199), (1, 1), (25.0, 25), (200, 200)]
)
def test_a_warm_up_is_a_share_below_one_and_steps_above(value, steps):
    assert subject.warmup_steps(value, 200) == steps


@pytest.mark.parametrize("value", [-1, -0.1, 1.5, 201, float("nan"), float("inf")])
def test_an_impossible_warm_up_is_refused(value):
    with pytest.raises(StudioError, match="lr_warmup_steps"):
        subject.warmup_steps(value, 200)


def test_each_group_keeps_its_own_base_rate():
    built = optimizers("AdamW", 1e-3, 1e-5)
    schedule = Schedule(built, "linear", ScheduleShape(10))
    for _ in range(4):
        schedule.step()
    assert built.learning_rates() == pytest.approx({"group0": 6e-4, "group1": 6e-6})


def test_polynomial_ends_at_the_same_rate_in_each_group():
    built = optimizers("AdamW", 1e-3, 1e-5)
    schedule = Schedule(built, "polynomial", ScheduleShape(3))
    for _ in range(3):
        schedule.step()
    assert list(built.learning_rates().values()) == pytest.approx([1e-7, 1e-7])
    with pytest.raises(StudioError, match="learning_rate"):
        Schedule(optimizers("AdamW", 1e-8), "polynomial", ScheduleShape(3))


def test_a_resumed_schedule_goes_on_where_it_stood():
    shape = ScheduleShape(20, 5)
    expected = ours("cosine", shape, 20)
    first = Schedule(optimizers(), "cosine", shape)
    for _ in range(8):
        first.step()
    assert first.state_dict() == {"step": 8}
    built = optimizers()
    second = Schedule(built, "cosine", shape)
    second.load_state_dict(first.state_dict())
    rates = []
    for _ in range(8, 20):
        rates.append(built.learning_rates()["group0"])
        second.step()
    assert rates == expected[8:]


def test_adaptive_optimizers_are_scheduled_too():
    built = optimizers("Prodigy", 1.0)
    schedule = Schedule(built, "linear", ScheduleShape(4))
    schedule.step()
    assert built.param_groups[0]["lr"] == 0.75


def test_prodigy_outlives_the_rate_of_zero_with_which_a_warm_up_starts():
    weights = torch.nn.Parameter(torch.zeros(2, 2))
    built = build_optimizers("Prodigy", [ParamGroup("unet", [weights])], with_warmup=True)
    schedule = Schedule(built, "constant_with_warmup", ScheduleShape(60, 5))
    for _ in range(60):
        built.zero_grad()
        ((weights - 1) ** 2).sum().backward()
        built.step()
        schedule.step()
    assert torch.isfinite(weights).all() and (weights != 0).all()


def test_adafactor_s_own_rate_goes_only_with_a_schedule_that_leaves_it():
    for name in ("adafactor", "constant"):
        built = optimizers("AdaFactor", None)
        Schedule(built, name, ScheduleShape(10)).step()
        assert built.param_groups[0]["lr"] is None
    with pytest.raises(StudioError, match="lr_scheduler.*makes its own rate.*'cosine'.*adafactor"):
        Schedule(optimizers("AdaFactor", None), "cosine", ScheduleShape(10))


def test_the_adafactor_schedule_belongs_to_adafactor():
    with pytest.raises(StudioError, match="lr_scheduler.*belongs to AdaFactor.*constant_with_warmup"):
        Schedule(optimizers(), "adafactor", ScheduleShape(10))
    with pytest.raises(StudioError, match="lr_scheduler.*belongs to AdaFactor"):
        Schedule(optimizers("AdaFactor", 1e-3, args=("relative_step=False",)), "adafactor", ScheduleShape(10))


@pytest.mark.parametrize(("name", "rate"), [("constant", BASE), ("adafactor", None)])
def test_a_warm_up_of_a_schedule_without_one_is_refused(name, rate):
    with pytest.raises(StudioError, match="lr_warmup_steps.*has no warm-up"):
        Schedule(optimizers("AdamW" if rate else "AdaFactor", rate), name, ScheduleShape(10, 2))


def test_an_unknown_schedule_is_refused_with_those_that_exist():
    with pytest.raises(StudioError, match="lr_scheduler.*'cosin'.*cosine_with_restarts"):
        Schedule(optimizers(), "cosin", ScheduleShape(10))


def test_a_picture_s_values_run_from_the_first_step_to_the_last():
    shape = ScheduleShape(1000, 100)
    values = subject.plot_values("cosine", shape, BASE, points=50)
    assert len(values) == 50 and values[0] == (0, 0.0) and values[-1][0] == 999
    assert all(rate == BASE * factor("cosine", step, shape) for step, rate in values)
    assert [step for step, _ in subject.plot_values("linear", ScheduleShape(3))] == [0, 1, 2]
    assert subject.plot_values("linear", ScheduleShape(1)) == [(0, 1.0)]


def test_every_entry_can_be_shown():
    assert list(SCHEDULES) == [*GENERAL, "adafactor"]
    for name in SCHEDULES:
        assert SCHEDULES.get(name).help and not SCHEDULES.get(name).help.endswith(".")
