from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import random
import sys

import came_pytorch
import dadaptation
import numpy as np
import prodigyopt
import pytest
import schedulefree
import torch
from transformers.optimization import Adafactor

from lib_lora.base.errors import StudioError
from lib_lora.training import optimizers as subject
from lib_lora.training.optimizer_args import allowed_args, parse_args
from lib_lora.training.optimizer_table import ARGUMENTS, OPTIMIZERS, find_optimizer
from lib_lora.training.optimizers import ParamGroup, build_optimizers

ON_CPU = [name for name in OPTIMIZERS if not OPTIMIZERS.get(name).needs_cuda]
ON_CUDA = [name for name in OPTIMIZERS if OPTIMIZERS.get(name).needs_cuda]
CURVATURE = torch.tensor([[1.0, 0.5, 2.0], [1.5, 1.0, 0.25]])
GOAL = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.5, -1.0]])


class ScheduleFree(torch.optim.SGD):
    """An optimizer with the two modes that schedule-free ones have."""

    mode = "unset"

    def train(self):
        self.mode = "train"

    def eval(self):
        self.mode = "eval"


def parameter(value: float = 0.1) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full((2, 3), value))


def quadratic(weights: torch.Tensor) -> torch.Tensor:
    """(p - goal)^2 / 2, each entry with a curvature of its own."""
    return 0.5 * (CURVATURE.to(weights) * (weights - GOAL.to(weights)) ** 2).sum()


def descend(
    optimizers: subject.OptimizerSet, weights: list[torch.nn.Parameter], steps: int, decay: bool = False
) -> list[float]:
    values = []
    for step in range(steps):
        if decay:
            optimizers.set_factors([1 - step / steps] * len(optimizers.optimizers))
        optimizers.zero_grad()
        loss = sum(quadratic(each) for each in weights)
        loss.backward()
        optimizers.step()
        values.append(loss.item())
    return values


# Rate, arguments and steps with which each optimizer comes down to 1 % of the first loss.
CONVERGING = {
    "AdamW": (0.1, (), 200),
    "AdaFactor": (None, ("warmup_init=False",), 1500),
    "Lion": (0.01, (), 800),
    "Prodigy": (1.0, (), 400),
    "DAdaptAdam": (1.0, (), 300),
    "DAdaptLion": (1.0, (), 300),
    "DAdaptAdan": (1.0, (), 300),
    "DAdaptAdaGrad": (1.0, (), 600),
    "DAdaptSGD": (1.0, (), 300),
    "CAME": (0.02, (), 200),
    "AdamWScheduleFree": (0.1, (), 200),
    "RAdamScheduleFree": (0.1, (), 300),
    "SGDNesterov": (0.02, (), 300),
}


@pytest.mark.parametrize("name", ON_CPU)
def test_every_optimizer_comes_down_a_quadratic(name):
    rate, args, steps = CONVERGING[name]
    weights = parameter()
    decay = "ScheduleFree" not in name
    values = descend(build_optimizers(name, [ParamGroup("unet", [weights], rate)], args), [weights], steps, decay)
    assert values[-1] < 0.01 * values[0]


@pytest.mark.parametrize("name", ON_CPU)
def test_every_optimizer_moves_with_its_defaults(name):
    weights = parameter()
    values = descend(build_optimizers(name, [ParamGroup("unet", [weights])]), [weights], 40)
    assert values[-1] < values[0] and np.isfinite(values).all()


def adamw_in_numpy(weights, steps, rate, betas, eps, decay):
    """Decoupled weight decay (arXiv 1711.05101, algorithm 2), float64."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for t in range(1, steps + 1):
        gradient = CURVATURE.double().numpy() * (weights - GOAL.double().numpy())
        weights = weights * (1 - rate * decay)
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrected = first / (1 - betas[0] ** t)
        weights = weights - rate * corrected / (np.sqrt(second / (1 - betas[1] ** t)) + eps)
    return weights


def test_adamw_equals_the_paper_step_by_step():
    for steps in (1, 2, 10):
        weights = torch.nn.Parameter(torch.full((2, 3), 0.1, dtype=torch.float64))
        args = ("betas=0.8,0.95", "weight_decay=0.2", "eps=1e-6")
        descend(build_optimizers("AdamW", [ParamGroup("unet", [weights], 0.03)], args), [weights], steps)
        expected = adamw_in_numpy(np.full((2, 3), 0.1), steps, 0.03, (0.8, 0.95), 1e-6, 0.2)
        np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-9)


def test_lion_equals_the_paper_step_by_step():
    weights = torch.nn.Parameter(torch.full((2, 3), 0.1, dtype=torch.float64))
    args = ("betas=0.9,0.99", "weight_decay=0.1")
    descend(build_optimizers("Lion", [ParamGroup("unet", [weights], 0.25)], args), [weights], 12)
    expected, momentum = np.full((2, 3), 0.1), np.zeros((2, 3))
    for _ in range(12):  # arXiv 2302.06675, program 1; steps are long so that momentum and gradient disagree
        gradient = CURVATURE.double().numpy() * (expected - GOAL.double().numpy())
        direction = np.sign(0.9 * momentum + 0.1 * gradient)
        expected = expected * (1 - 0.25 * 0.1) - 0.25 * direction
        momentum = 0.99 * momentum + 0.01 * gradient
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-9)


def test_sgd_is_nesterov_with_momentum():
    weights = torch.nn.Parameter(torch.full((2, 3), 0.1, dtype=torch.float64))
    descend(build_optimizers("SGDNesterov", [ParamGroup("unet", [weights], 0.05)]), [weights], 8)
    expected, speed = np.full((2, 3), 0.1), np.zeros((2, 3))
    for _ in range(8):
        gradient = CURVATURE.double().numpy() * (expected - GOAL.double().numpy())
        speed = 0.9 * speed + gradient
        expected = expected - 0.05 * (gradient + 0.9 * speed)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        (
            "Prodigy",
            lambda p: prodigyopt.Prodigy(
                p, lr=1.0, decouple=True, weight_decay=0.01, d_coef=2, use_bias_correction=True, betas=(0.9, 0.99)
            ),
        ),
        (
            "DAdaptAdam",
            lambda p: dadaptation.DAdaptAdam(p, lr=1.0, decouple=True, weight_decay=0.01, betas=(0.9, 0.99)),
        ),
        ("DAdaptLion", lambda p: dadaptation.DAdaptLion(p, lr=1.0, weight_decay=0.01, betas=(0.9, 0.99))),
        ("DAdaptAdan", lambda p: dadaptation.DAdaptAdan(p, lr=1.0, weight_decay=0.01)),
        ("DAdaptAdaGrad", lambda p: dadaptation.DAdaptAdaGrad(p, lr=1.0, weight_decay=0.01)),
        ("DAdaptSGD", lambda p: dadaptation.DAdaptSGD(p, lr=1.0, weight_decay=0.01, momentum=0.9)),
        ("AdaFactor", lambda p: Adafactor(p, relative_step=True, scale_parameter=True, warmup_init=True)),
        ("CAME", lambda p: came_pytorch.CAME(p, lr=1e-4)),
        ("AdamWScheduleFree", lambda p: schedulefree.AdamWScheduleFree(p, lr=2e-4)),
        ("RAdamScheduleFree", lambda p: schedulefree.RAdamScheduleFree(p, lr=2e-4)),
    ],
)
def test_defaults_are_the_guides_arguments(name, direct):
    ours, theirs = parameter(), parameter()
    with contextlib.redirect_stdout(io.StringIO()):
        reference = subject.OptimizerSet(["unet"], [direct([theirs])])
    descend(build_optimizers(name, [ParamGroup("unet", [ours])]), [ours], 60)
    descend(reference, [theirs], 60)
    assert torch.equal(ours, theirs)


def test_prodigy_is_safeguarded_when_the_rate_warms_up_unless_told_otherwise():
    def safeguard(args=(), **kwargs):
        built = build_optimizers("Prodigy", [ParamGroup("unet", [parameter()])], args, **kwargs)
        return built.param_groups[0]["safeguard_warmup"]

    assert safeguard() is False
    assert safeguard(with_warmup=True) is True
    assert safeguard(("safeguard_warmup=False",), with_warmup=True) is False


def test_what_is_given_replaces_a_default_and_leaves_the_others():
    args = ("d_coef=0.5", "decouple=False")
    group = build_optimizers("Prodigy", [ParamGroup("unet", [parameter()])], args).param_groups[0]
    assert group["d_coef"] == 0.5 and group["decouple"] is False and group["weight_decay"] == 0.01


def test_adafactor_takes_a_rate_only_without_its_own():
    manual = ("relative_step=False",)
    group = build_optimizers("AdaFactor", [ParamGroup("unet", [parameter()], 1e-3)], manual).param_groups[0]
    assert (group["lr"], group["warmup_init"]) == (1e-3, False)
    with pytest.raises(StudioError, match="learning_rate.*relative_step=True makes its own rate.*0.001"):
        build_optimizers("AdaFactor", [ParamGroup("unet", [parameter()], 1e-3)])
    with pytest.raises(StudioError, match="learning_rate.*must be given"):
        build_optimizers("AdaFactor", [ParamGroup("unet", [parameter()])], manual)


@pytest.mark.parametrize("args", [(), ("warmup_init=False",), ("scale_parameter=False",)])
def test_adafactor_s_own_rate_is_reported(args):
    weights = parameter()
    built = build_optimizers("AdaFactor", [ParamGroup("unet", [weights])], args)
    assert built.learning_rates() == {"unet": 0.0}
    descend(built, [weights], 7)
    inner = built.optimizers[0]
    expected = float(inner._get_lr(inner.param_groups[0], inner.state[weights]))
    assert built.learning_rates()["unet"] == pytest.approx(expected, rel=1e-6) and expected > 0


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "DAdaptLion", "DAdaptAdan", "DAdaptAdaGrad", "DAdaptSGD"])
def test_groups_adapt_on_their_own_and_may_have_different_rates(name):
    large, small = parameter(), parameter()
    built = build_optimizers(name, [ParamGroup("unet", [large], 1.0), ParamGroup("text_encoder", [small], 0.5)])
    descend(built, [large, small], 30)
    alone = build_optimizers(name, [ParamGroup("text_encoder", [again := parameter()], 0.5)])
    descend(alone, [again], 30)
    assert torch.equal(small, again)
    for optimizer, rate, reported in zip(built.optimizers, (1.0, 0.5), built.learning_rates().values()):
        found = optimizer.param_groups[0]["d"]
        assert reported == pytest.approx(found * rate) and found > 1e-6


@pytest.mark.parametrize("name", ON_CPU)
def test_a_saved_state_goes_on_bit_for_bit(name):
    straight, resumed = parameter(), parameter()
    descend(build_optimizers(name, [ParamGroup("unet", [straight])]), [straight], 12)
    first = build_optimizers(name, [ParamGroup("unet", [resumed])])
    descend(first, [resumed], 5)
    stored = io.BytesIO()
    torch.save(first.state_dict(), stored)
    stored.seek(0)
    second = build_optimizers(name, [ParamGroup("unet", [resumed])])
    second.load_state_dict(torch.load(stored, weights_only=True))
    descend(second, [resumed], 7)
    assert torch.equal(straight, resumed)


def test_a_state_of_another_run_is_refused():
    state = build_optimizers("AdamW", [ParamGroup("unet", [parameter()])]).state_dict()
    with pytest.raises(StudioError, match="optimizer_type.*another"):
        build_optimizers("SGDNesterov", [ParamGroup("unet", [parameter()])]).load_state_dict(state)
    with pytest.raises(StudioError, match="optimizer_type.*another"):
        build_optimizers("AdamW", [ParamGroup("text_encoder", [parameter()])]).load_state_dict(state)
    with pytest.raises(StudioError, match="does not fit"):
        build_optimizers("AdamW", [ParamGroup("unet", [parameter(), parameter()])]).load_state_dict(state)


@pytest.mark.parametrize(
    "texts",
    [
        ("decouple=True", "weight_decay=0.01", "betas=0.9,0.99"),
        ("decouple=True", "weight_decay=0.01", "betas=0.9", "0.99"),  # a form divides lists at commas
        ("decouple=True weight_decay=0.01 betas=(0.9, 0.99)",),
        ('"decouple=True" "weight_decay=0.01" "betas=0.9,0.99"',),  # as the guides print them
        ("'decouple=True'", "'weight_decay=0.01'", "'betas=0.9,0.99'"),
        ("decouple = True", "weight_decay = 1e-2", "betas = [0.9, 0.99]"),
    ],
)
def test_arguments_are_read_as_people_write_them(texts):
    args = parse_args(texts)
    assert list(args) == ["decouple", "weight_decay", "betas"]
    assert args["decouple"] is True and args["weight_decay"] == 0.01 and tuple(args["betas"]) == (0.9, 0.99)


def test_no_arguments_and_other_literals():
    assert parse_args(()) == {} and parse_args(("",)) == {}
    assert parse_args(("beta3=None", "name='x'", "k=-3")) == {"beta3": None, "name": "x", "k": -3}


@pytest.mark.parametrize(
    "texts",
    [
        ("weight_decay",),
        ("0.9", "betas=1"),
        ("a=__import__('os')",),
        ("a=true",),
        ("a=",),
        ("a=1", "a=2"),
        ("a=(1,",),
        ("=3",),
    ],
)
def test_junk_is_refused_by_field(texts):
    with pytest.raises(StudioError) as caught:
        parse_args(texts)
    assert caught.value.field == "optimizer_args"


def test_an_unknown_argument_is_refused_with_those_that_exist():
    with pytest.raises(StudioError) as caught:
        build_optimizers("DAdaptAdam", [ParamGroup("unet", [parameter()])], ("d_coef=2",))
    assert (caught.value.field, caught.value.came) == ("optimizer_args", "d_coef")
    listed = caught.value.allowed.split(", ")
    assert {"betas", "decouple", "growth_rate", "d0"} <= set(listed)
    assert not {"self", "params", "lr", "log_every"} & set(listed)


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("DAdaptAdam", "log_every=1"),
        ("Prodigy", "fsdp_in_use=True"),
        ("Lion", "use_triton=True"),
        ("AdamW", "lr=1.0"),
        ("AdamW", "params=1"),
    ],
)
def test_arguments_that_are_not_for_people_are_refused(name, arg):
    with pytest.raises(StudioError) as caught:
        build_optimizers(name, [ParamGroup("unet", [parameter()])], (arg,))
    assert caught.value.field == "optimizer_args"


def test_a_value_that_the_class_refuses_is_the_person_s_error():
    with pytest.raises(StudioError, match="optimizer_args.*AdamW refuses.*[Bb]eta"):
        build_optimizers("AdamW", [ParamGroup("unet", [parameter()])], ("betas=0.9,1.5",))
    with pytest.raises(StudioError, match="optimizer_args.*AdamW refuses"):
        build_optimizers("AdamW", [ParamGroup("unet", [parameter()])], ("weight_decay='much'",))


@pytest.mark.parametrize("rate", [0.0, -1e-4, float("nan"), float("inf")])
def test_a_rate_that_is_not_above_zero_is_refused(rate):
    with pytest.raises(StudioError, match="learning_rate.*text_encoder"):
        build_optimizers("AdamW", [ParamGroup("text_encoder", [parameter()], rate)])


def test_a_group_without_parameters_is_refused():
    with pytest.raises(StudioError, match="unet has nothing to train"):
        build_optimizers("AdamW", [ParamGroup("unet", [])])


def test_names_are_compared_without_case_and_unknown_ones_listed():
    assert find_optimizer("adamw").name == "AdamW"
    with pytest.raises(StudioError, match="optimizer_type.*'Adam0'.*AdamW, AdaFactor"):
        find_optimizer("Adam0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")
@pytest.mark.parametrize("name", ON_CUDA)
def test_without_a_cuda_card_8_bit_names_are_refused_and_not_replaced(name):
    with pytest.raises(StudioError) as caught:
        build_optimizers(name, [ParamGroup("unet", [parameter()])])
    assert (caught.value.field, caught.value.came) == ("optimizer_type", name)
    assert "CUDA" in caught.value.problem and "AdamW, AdaFactor" in caught.value.allowed


def test_the_guides_8_bit_names_are_known():
    assert {"AdamW8bit", "PagedAdamW8bit", "Lion8bit", "SGDNesterov8bit"} <= set(ON_CUDA)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(StudioError, match="optimizer_type.*bitsandbytes.*not installed.*AdamW8bit") as caught:
        find_optimizer("AdamW8bit").load()
    assert f'"{sys.executable}" -m pip install "bitsandbytes' in caught.value.problem


def test_module_and_class_are_accepted_with_the_class_s_own_defaults():
    weights = parameter()
    built = build_optimizers("torch.optim.RAdam", [ParamGroup("unet", [weights])], ("weight_decay=0.1",))
    assert isinstance(built.optimizers[0], torch.optim.RAdam)
    assert built.base_lrs == [1e-3] and built.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    "name", ["torch.optim.NoSuch", "no_such_package.Adam", "torch.nn.Linear", "..Adam", "torch.no_such_module.Adam"]
)
def test_a_module_and_class_that_is_no_optimizer_is_refused(name):
    with pytest.raises(StudioError) as caught:
        build_optimizers(name, [ParamGroup("unet", [parameter()])])
    assert (caught.value.field, caught.value.came) == ("optimizer_type", name)


def test_factors_multiply_the_base_rates():
    built = build_optimizers("AdamW", [ParamGroup("unet", [parameter()], 1e-3), ParamGroup("te", [parameter()], 1e-4)])
    built.set_factors([0.5, 0.1])
    built.set_factors([0.5, 0.1])
    assert built.learning_rates() == pytest.approx({"unet": 5e-4, "te": 1e-5})


def test_schedule_free_optimizers_are_told_their_mode():
    built = subject.OptimizerSet(["unet"], [ScheduleFree([parameter()], lr=0.1)])
    modes = [built.optimizers[0].mode]
    built.eval()
    modes.append(built.optimizers[0].mode)
    built.train()
    assert [*modes, built.optimizers[0].mode] == ["train", "eval", "train"]


def test_weights_come_back_bit_for_bit_after_they_were_looked_at():
    class Averaging(torch.optim.SGD):
        """Shows other weights than it trains, and comes back with rounding, as schedule-free optimizers do."""

        def train(self):
            self.scale(3.0)

        def eval(self):
            self.scale(1 / 3)

        @torch.no_grad()
        def scale(self, factor):
            for p in self.param_groups[0]["params"]:
                p.mul_(factor)

    weights = parameter(0.1)
    built = subject.OptimizerSet(["unet"], [Averaging([weights], lr=0.1)])
    trained = weights.detach().clone()
    with built.evaluating():
        assert torch.equal(weights, trained * (1 / 3))
    assert torch.equal(weights, trained)


def test_saved_tensors_keep_their_dtype():
    built = [subject.OptimizerSet(["unet"], [torch.optim.SGD([parameter()], lr=0.1, momentum=0.9)]) for _ in range(2)]
    first = built[0].optimizers[0]
    counts = torch.tensor([1, 2**24 + 1])  # more than single precision can count to
    first.state[first.param_groups[0]["params"][0]] = {"counts": counts, "momentum": torch.ones(1)}
    built[1].load_state_dict(built[0].state_dict())
    (state,) = built[1].optimizers[0].state.values()
    assert state["counts"].dtype == torch.int64 and torch.equal(state["counts"], counts)


@pytest.mark.parametrize("name", ON_CPU)
def test_nothing_global_changes_and_nothing_is_printed(name, capfd):
    weights = parameter()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), torch.get_default_dtype()
    handlers, level = list(logging.root.handlers), logging.root.level
    descend(build_optimizers(name, [ParamGroup("unet", [weights])]), [weights], 3)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all() and before[3] == torch.get_default_dtype()
    assert (handlers, level) == (logging.root.handlers, logging.root.level)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("name", ON_CPU)
def test_every_argument_that_is_explained_is_one(name):
    entry = OPTIMIZERS.get(name)
    allowed = allowed_args(entry.load(), entry.hidden)
    assert set(entry.arguments) <= set(allowed) and set(entry.arguments) <= set(ARGUMENTS)


def test_every_entry_can_be_shown():
    for name in OPTIMIZERS:
        entry = OPTIMIZERS.get(name)
        assert entry.help and not entry.help.endswith(".")
        assert entry.default_lr is not None or entry.name == "AdaFactor"
