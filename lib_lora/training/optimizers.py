"""A run's optimizers, built and handled as one.

Each parameter group gets an optimizer of its own: prodigyopt and dadaptation refuse groups of different rates, and a
step size that is found for the UNet says nothing about the text encoder.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.optim import Optimizer

from lib_lora.base.errors import StudioError
from lib_lora.training.config import TrainConfig
from lib_lora.training.optimizer_args import check_names, parse_args
from lib_lora.training.optimizer_table import OPTIMIZERS, OptimizerEntry, find_optimizer


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate. ``lr`` None takes the optimizer's default."""

    name: str
    parameters: Sequence[torch.nn.Parameter]
    lr: float | None = None


class OptimizerSet:
    """One optimizer per parameter group, handled as one.

    Attributes:
        names: the groups' names.
        optimizers: one per group; a gradient scaler and accelerate want them one by one.
        base_lrs: each group's rate before any schedule; None for AdaFactor with ``relative_step``.
    """

    def __init__(self, names: Sequence[str], optimizers: Sequence[Optimizer]) -> None:
        self.names = list(names)
        self.optimizers = list(optimizers)
        self.base_lrs: list[float | None] = [_plain(each.param_groups[0]["lr"]) for each in self.optimizers]
        self.train()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def averages(self) -> bool:
        """Whether they are schedule-free: the weights that are trained are not those to be seen and saved."""
        return any(map(_averages, self.optimizers))

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def train(self) -> None:
        """Before steps; only schedule-free optimizers, which hold two sets of weights, take notice."""
        self._mode("train")

    def eval(self) -> None:
        """Before samples and before saving; see ``train``."""
        self._mode("eval")

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Weights as they are to be seen and saved; afterwards those to be trained are back, bit for bit."""
        if not self.averages:
            yield
            return
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        trained = [parameter.detach().clone() for parameter in parameters]
        self.eval()
        try:
            yield
        finally:
            self.train()
            with torch.no_grad():
                for parameter, value in zip(parameters, trained):
                    parameter.copy_(value)

    def _mode(self, name: str) -> None:
        for optimizer in self.optimizers:
            switch = getattr(optimizer, name, None)
            if callable(switch):
                switch()

    def set_factors(self, factors: Sequence[float]) -> None:
        """Each group's rate becomes its base rate times its factor; rates that are None stay so."""
        for optimizer, base, factor in zip(self.optimizers, self.base_lrs, factors, strict=True):
            if base is not None:
                for group in optimizer.param_groups:
                    group["lr"] = base * factor

    def learning_rates(self) -> dict[str, float]:
        """The rate at work in each group: ``lr``, times the ``d`` found so far for D-Adaptation and Prodigy.

        AdaFactor with ``relative_step`` has a rate per tensor; the first tensor's of the last step is given
        (0 before the first step).
        """
        return {name: _rate(optimizer) for name, optimizer in zip(self.names, self.optimizers)}

    def state_dict(self) -> list[dict[str, Any]]:
        """One state per group, with the names that ``load_state_dict`` checks."""
        return [
            {"name": name, "optimizer": type(optimizer).__name__, "state": optimizer.state_dict()}
            for name, optimizer in zip(self.names, self.optimizers)
        ]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take up a state of the same groups and the same optimizer.

        Raises:
            StudioError: it belongs to other groups or another optimizer.
        """
        mine = [(name, type(optimizer).__name__) for name, optimizer in zip(self.names, self.optimizers)]
        came = [(state["name"], state["optimizer"]) for state in states]
        if came != mine:
            raise StudioError("the saved state is another's", field=OPTIMIZERS.field, came=came, allowed=mine)
        for optimizer, state in zip(self.optimizers, states):
            kernels = [group.get("fused") for group in optimizer.param_groups]  # of this machine, not of the state's
            try:
                optimizer.load_state_dict(state["state"])
            except ValueError as error:
                raise StudioError(f"the saved state does not fit: {error}", field=OPTIMIZERS.field) from error
            _keep_dtypes(optimizer, state["state"])
            for group, fused in zip(optimizer.param_groups, kernels):
                if "fused" in group:
                    group["fused"] = fused


def _keep_dtypes(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take saved tensors as they are where torch's ``load_state_dict`` has cast them to the parameters' dtype."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, saved in state["state"].items():
        loaded = optimizer.state[parameters[index]]
        for key, value in saved.items():
            if isinstance(value, torch.Tensor) and loaded[key].dtype != value.dtype:
                loaded[key] = value.to(loaded[key].device, copy=True)


def _plain(rate: Any) -> float | None:
    return None if rate is None else float(rate)


def _rate(optimizer: Optimizer) -> float:
    group = optimizer.param_groups[0]
    if group["lr"] is None:
        return _relative_rate(optimizer)
    return float(group["lr"]) * float(group.get("d", 1.0))


def _relative_rate(optimizer: Optimizer) -> float:
    """AdaFactor's max(eps2, RMS(p)) min(rho, 1 / sqrt(t)), rho = 1e-6 t warming up and 1e-2 else (arXiv 1804.04235)."""
    group = optimizer.param_groups[0]
    state = next((optimizer.state[p] for p in group["params"] if optimizer.state.get(p)), None)
    if state is None:
        return 0.0
    steps = float(state["step"])
    limit = 1e-6 * steps if group["warmup_init"] else 1e-2
    scale = max(float(group["eps"][1]), float(state["RMS"])) if group["scale_parameter"] else 1.0
    return scale * min(limit, 1.0 / math.sqrt(steps))


def build_optimizers(
    name: str, groups: Sequence[ParamGroup], args: Sequence[str] = (), *, with_warmup: bool = False
) -> OptimizerSet:
    """One optimizer called ``name`` for each group.

    Args:
        name: an entry of ``OPTIMIZERS`` or ``module.Class``.
        groups: at least one, each with parameters.
        args: ``optimizer_args``; they replace the entry's defaults one by one.
        with_warmup: whether the schedule warms up (Prodigy's ``safeguard_warmup`` hangs on it).

    Raises:
        StudioError: an unknown or unusable optimizer, an unknown or unreadable argument, a rate that is not above 0
            or that the optimizer does not take, or a group without parameters.
    """
    entry = find_optimizer(name)
    optimizer = entry.load()
    given = parse_args(args)
    check_names(entry, optimizer, given)
    arguments = {**entry.defaults(given, with_warmup), **given}
    relative = _makes_its_rate(optimizer, arguments)
    made = [_build_one(entry, optimizer, group, _rate_for(entry, group, relative), arguments) for group in groups]
    return OptimizerSet([group.name for group in groups], made)


def check_optimizer(config: TrainConfig, device: torch.device) -> None:
    """That the optimizer can be used on ``device``, and goes with what looks after the weights.

    Raises:
        StudioError: naming the option at fault.
    """
    entry = find_optimizer(config.optimizer_type)
    optimizer = entry.load(device)
    for name in ("ema_decay", "scale_weight_norms"):
        if getattr(config, name) and _averages(optimizer):
            raise StudioError(
                f"{entry.name} keeps averages of the weights of its own",
                field=name,
                came=getattr(config, name),
                allowed="none, or an optimizer that is not schedule-free",
            )
    given = parse_args(config.optimizer_args)
    arguments = {**entry.defaults(given, config.lr_warmup_steps > 0), **given}
    if config.nan_guard == "rollback" and _makes_its_rate(optimizer, arguments):
        raise StudioError(
            f"{entry.name} makes its own rate, which cannot be lowered",
            field="nan_guard",
            came="rollback",
            allowed="stop, off",
        )


def _averages(optimizer: Optimizer | type[Optimizer]) -> bool:
    """Whether it is schedule-free, which is what has two sets of weights to switch between."""
    return callable(getattr(optimizer, "eval", None))


def _makes_its_rate(optimizer: type[Optimizer], arguments: Mapping[str, Any]) -> bool:
    """Whether it is AdaFactor with ``relative_step``, which allows no rate beside its own."""
    parameter = inspect.signature(optimizer).parameters.get("relative_step")
    return parameter is not None and bool(arguments.get("relative_step", parameter.default))


def _rate_for(entry: OptimizerEntry, group: ParamGroup, relative: bool) -> dict[str, float | None]:
    """``{"lr": rate}``, or nothing where the class's own default is meant."""
    if relative:
        if group.lr is not None:
            raise StudioError(
                f"{entry.name} with relative_step=True makes its own rate",
                field="learning_rate",
                came=group.lr,
                allowed="none, or optimizer_args relative_step=False",
            )
        return {"lr": None}
    rate = entry.default_lr if group.lr is None else group.lr
    if rate is None:
        if entry.switch:
            raise StudioError(
                f"must be given for {entry.name} with {entry.switch}=False",
                field="learning_rate",
                allowed="a number above 0",
            )
        return {}
    if not (math.isfinite(rate) and rate > 0):
        raise StudioError(
            f"the rate of {group.name} must be above 0",
            field="learning_rate",
            came=rate,
            allowed="a number above 0; a part that shall not be trained is left out",
        )
    return {"lr": float(rate)}


@lru_cache
def _fuses_on_cpu() -> bool:
    """Whether this PyTorch (2.4 and newer) has AdamW as one kernel on the CPU; on cards its own choice is fast."""
    try:
        torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    except RuntimeError:
        return False
    return True


def _build_one(
    entry: OptimizerEntry,
    optimizer: type[Optimizer],
    group: ParamGroup,
    rate: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> Optimizer:
    parameters = list(group.parameters)
    if not parameters:
        raise StudioError(f"{group.name} has nothing to train", field="network_targets")
    early = {key: False if key in entry.late else value for key, value in arguments.items()}
    chosen = {"fused", "foreach"} & early.keys()
    if optimizer is torch.optim.AdamW and not chosen and parameters[0].device.type == "cpu" and _fuses_on_cpu():
        early["fused"] = True
    try:
        made = optimizer(parameters, **rate, **early)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise StudioError(
            f"{entry.name} refuses its arguments: {error or type(error).__name__}",
            field="optimizer_args",
            came=dict(arguments),
        ) from error
    for key in entry.late & arguments.keys():
        for param_group in made.param_groups:
            param_group[key] = arguments[key]
    return made
