from __future__ import annotations

import math

import diffusers.optimization
import pytest
import torch
import transformers

from lib_lora.base.errors import StudioError
from lib_lora.training import schedules as subject
from lib_lora.training.optimizers import ParamGroup, build_optimizers
from lib_lora.training.schedules import SCHEDULES, Schedule, ScheduleShape, check_schedule, factor

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
    assert subject.steps_of(value, 200, "lr_warmup_steps") == steps


@pytest.mark.parametrize("value", [-1, -0.1, 1.5, 201, float("nan"), float("inf")])
def test_an_impossible_warm_up_is_refused(value):
    with pytest.raises(StudioError, match="lr_warmup_steps"):
        subject.steps_of(value, 200, "lr_warmup_steps")


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
    assert first.state_dict() == {"step": 8, "scale": 1.0}
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


def in_steps(name: str, shape: ScheduleShape, steps: int = 40) -> list[float]:
    return [factor(name, step, shape) for step in range(steps)]


def lambdas(get_schedule, steps: int, **kwargs) -> list[float]:
    """The factors of a schedule of transformers' or diffusers'."""
    scheduler = get_schedule(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), **kwargs)
    return [scheduler.lr_lambdas[0](step) for step in range(steps)]


def test_a_stable_rate_and_its_decay_equal_transformers():
    if not hasattr(transformers, "get_wsd_schedule"):
        pytest.skip("this transformers has no warmup_stable_decay")
    shape = ScheduleShape(36, 6, decay_steps=10, min_ratio=0.1)
    kwargs = {"num_warmup_steps": 6, "num_decay_steps": 10, "min_lr_ratio": 0.1}
    try:
        expected = lambdas(transformers.get_wsd_schedule, 40, num_stable_steps=20, **kwargs)
    except TypeError:  # without the number of stable steps in between
        expected = lambdas(transformers.get_wsd_schedule, 40, num_training_steps=36, **kwargs)
    # Ours warms up from 0, as all schedules do, and not from ``min_lr_ratio``.
    assert in_steps("warmup_stable_decay", shape)[6:] == pytest.approx(expected[6:], rel=1e-12, abs=1e-12)


def test_a_stable_rate_and_its_decay_by_hand():
    shape = ScheduleShape(20, 2, decay_steps=8, min_ratio=0.2)
    got = [factor("warmup_stable_decay", step, shape) for step in (0, 1, 2, 11, 12, 16, 20, 25)]
    assert got == pytest.approx([0, 0.5, 1, 1, 1, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("cycles", [1, 2])
def test_a_cosine_with_an_end_equals_transformers(cycles):
    shape = ScheduleShape(30, 5, cycles=cycles, min_ratio=0.25)
    by_hand = [0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * cycles * (step - 5) / 25)) for step in range(5, 30)]
    assert in_steps("cosine_with_min_lr", shape, 30)[5:] == pytest.approx(by_hand, rel=1e-12)
    if hasattr(transformers.optimization, "get_cosine_with_min_lr_schedule_with_warmup"):
        get_schedule = transformers.optimization.get_cosine_with_min_lr_schedule_with_warmup
        kwargs = {"num_warmup_steps": 5, "num_training_steps": 30, "num_cycles": cycles / 2, "min_lr_rate": 0.25}
        assert in_steps("cosine_with_min_lr", shape) == pytest.approx(lambdas(get_schedule, 40, **kwargs), rel=1e-12)


@pytest.mark.parametrize(("warmup", "timescale"), [(0, None), (5, None), (5, 20)])
def test_the_inverse_root_equals_transformers(warmup, timescale):
    get_schedule = transformers.get_inverse_sqrt_schedule
    expected = lambdas(get_schedule, 40, num_warmup_steps=warmup, timescale=timescale or (None if warmup else 10_000))
    got = in_steps("inverse_sqrt", ScheduleShape(30, warmup, timescale=timescale))
    assert got == pytest.approx(expected, rel=1e-12)


def test_constant_pieces_equal_diffusers():
    expected = lambdas(
        diffusers.optimization.get_piecewise_constant_schedule, 40, step_rules="1:10,0.1:20,0.01:30,0.005"
    )
    rules = subject.parse_step_rules(("1:10", "0.1:20", "0.01:30", "0.005"), 35)
    assert in_steps("piecewise_constant", ScheduleShape(35, rules=rules)) == expected


def test_steps_of_pieces_may_be_shares_of_the_run():
    assert subject.parse_step_rules(("1:0.5", "0.1:150", "0"), 200) == ((100, 1.0), (150, 0.1), (math.inf, 0.0))


@pytest.mark.parametrize("texts", [(), ("1:10",), ("1", "0.5"), ("1:20", "2:10", "3"), ("a:1", "2"), ("1:900", "1")])
def test_what_is_no_list_of_pieces_is_refused(texts):
    with pytest.raises(StudioError, match="lr_step_rules"):
        subject.parse_step_rules(texts, 100)


def test_rex_by_the_paper():
    shape = ScheduleShape(40, 0)
    expected = [(1 - step / 40) / (0.5 + 0.5 * (1 - step / 40)) for step in range(40)]
    assert in_steps("rex", shape) == pytest.approx(expected, rel=1e-12) and factor("rex", 41, shape) == 0
    assert factor("rex", 10, ScheduleShape(40, 20)) == 0.5


def test_a_schedule_free_optimizer_keeps_its_rate():
    for name in ("constant", "constant_with_warmup"):
        Schedule(optimizers("AdamWScheduleFree", 1e-3), name, ScheduleShape(10))
    with pytest.raises(StudioError, match="lr_scheduler.*schedule-free"):
        Schedule(optimizers("AdamWScheduleFree", 1e-3), "cosine", ScheduleShape(10))


def test_every_entry_can_be_shown():
    assert set(GENERAL) < set(SCHEDULES)
    for name in SCHEDULES:
        assert SCHEDULES.get(name).help and not SCHEDULES.get(name).help.endswith(".")


def test_a_decay_that_would_begin_within_the_warm_up_is_refused():
    with pytest.raises(StudioError, match="lr_decay_steps.*at most 60 steps"):
        check_schedule("warmup_stable_decay", ScheduleShape(100, 40, decay_steps=61), [1.0])
    check_schedule("warmup_stable_decay", ScheduleShape(100, 40, decay_steps=60), [1.0])
