"""Optimizers by name, with the arguments that the guides give as defaults.

Each parameter group gets an optimizer of its own: prodigyopt and dadaptation refuse groups of different rates, and a
step size that is found for the UNet says nothing about the text encoder.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.optim import Optimizer

from lib_lora.base.errors import StudioError
from lib_lora.base.packages import how_to_get
from lib_lora.base.registry import Registry


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate. ``lr`` None takes the optimizer's default."""

    name: str
    parameters: Sequence[torch.nn.Parameter]
    lr: float | None = None


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer, as the registry, forms and docs want it.

    Args:
        name: what people choose it by.
        module, attribute: where the class lives; imported on first use.
        help: one line.
        default_lr: the learning rate that suits a LoRA; None: the class's own.
        schedule: the ``lr_scheduler`` that goes with it.
        default_args: the guides' arguments; what a person gives replaces them one by one.
        warmup_args: defaults on top of those when the learning rate is warmed up.
        adaptive: it finds its step size itself.
        switch: an argument that, given as False, turns ``default_args`` off.
        hidden: arguments that nobody may give, since they touch what is not the optimizer's.
        late: arguments set on the group after construction; the class prints when its constructor sees them.
        needs_cuda: it is one of bitsandbytes' and runs on a CUDA card only.
    """

    name: str
    module: str
    attribute: str
    help: str = ""
    default_lr: float | None = None
    schedule: str = "cosine"
    default_args: Mapping[str, Any] = field(default_factory=dict)
    warmup_args: Mapping[str, Any] = field(default_factory=dict)
    adaptive: bool = False
    switch: str = ""
    hidden: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    needs_cuda: bool = False

    def load(self, device: torch.device | None = None) -> type[Optimizer]:
        """The class.

        Args:
            device: where the parameters will be; None: wherever there is most.

        Raises:
            StudioError: there is no CUDA card for one that needs it, or the run is not on it; the package is missing
                or has no such optimizer. Nothing else takes its place.
        """
        if self.needs_cuda and not torch.cuda.is_available():
            raise _refusal("needs a CUDA card, and there is none here", self.name)
        if self.needs_cuda and device is not None and device.type != "cuda":
            raise _refusal(f"needs a CUDA card, and this run is on {device}", self.name)
        package = self.module.partition(".")[0]
        if not package.isidentifier() or importlib.util.find_spec(package) is None:
            how = how_to_get(package)
            to_add = f"; to add it: {how}" if how else ""
            raise _refusal(f"needs the Python package {package}, which is not installed{to_add}", self.name)
        try:
            found = getattr(importlib.import_module(self.module), self.attribute, None)
        except (ImportError, OSError, RuntimeError) as error:  # a package may miss its native library
            raise _refusal(f"{self.module} cannot be imported: {error}", self.name) from error
        if not (isinstance(found, type) and issubclass(found, Optimizer)):
            raise _refusal(f"{self.module} has no optimizer {self.attribute}", self.name)
        return found

    def defaults(self, given: Mapping[str, Any], with_warmup: bool) -> dict[str, Any]:
        """The arguments that apply beside those that were given."""
        if self.switch and given.get(self.switch) is False:
            return {}
        return {**self.default_args, **(self.warmup_args if with_warmup else {})}


OPTIMIZERS: Registry[OptimizerEntry] = Registry("optimizer_type")


def _add(entry: OptimizerEntry) -> None:
    OPTIMIZERS.register(entry.name)(entry)


# log_every writes to the root logger or to stdout, fsdp_in_use calls torch.distributed on a CUDA card.
_D_HIDDEN = frozenset({"log_every", "fsdp_in_use"})

_add(
    OptimizerEntry(
        "AdamW",
        "torch.optim",
        "AdamW",
        help="the usual choice; learning rates are given by hand",
        default_lr=1e-4,
        schedule="cosine_with_restarts",
    )
)
_add(
    OptimizerEntry(
        "AdaFactor",
        "transformers.optimization",
        "Adafactor",
        help="adaptive and light on memory, learns slowly; relative_step=False takes a learning rate instead",
        schedule="adafactor",
        adaptive=True,
        switch="relative_step",
        default_args={"relative_step": True, "scale_parameter": True, "warmup_init": True},
    )
)
_add(
    OptimizerEntry(
        "Lion",
        "lion_pytorch",
        "Lion",
        help="steps by sign (arXiv 2302.06675); wants 3 to 10 times less learning rate than AdamW",
        default_lr=3e-5,
        hidden=frozenset({"use_triton"}),  # without triton it ends the process
    )
)
_add(
    OptimizerEntry(
        "Prodigy",
        "prodigyopt",
        "Prodigy",
        help="adaptive, the guides' recommendation; leave the learning rate at 1",
        default_lr=1.0,
        schedule="constant",
        adaptive=True,
        default_args={
            "decouple": True,
            "weight_decay": 0.01,
            "d_coef": 2.0,
            "use_bias_correction": True,
            "safeguard_warmup": False,
            "betas": (0.9, 0.99),
        },
        warmup_args={"safeguard_warmup": True},
        hidden=_D_HIDDEN,
        late=frozenset({"decouple"}),
    )
)
_add(
    OptimizerEntry(
        "DAdaptAdam",
        "dadaptation",
        "DAdaptAdam",
        help="adaptive; leave the learning rate at 1, or between 0.1 and 1",
        default_lr=1.0,
        schedule="constant",
        adaptive=True,
        default_args={"decouple": True, "weight_decay": 0.01, "betas": (0.9, 0.99)},
        hidden=_D_HIDDEN,
        late=frozenset({"decouple"}),
    )
)
_add(
    OptimizerEntry(
        "DAdaptLion",
        "dadaptation",
        "DAdaptLion",
        help="adaptive Lion; leave the learning rate at 1",
        default_lr=1.0,
        schedule="constant",
        adaptive=True,
        default_args={"weight_decay": 0.01, "betas": (0.9, 0.99)},
        hidden=_D_HIDDEN,
    )
)
_add(
    OptimizerEntry(
        "SGDNesterov",
        "torch.optim",
        "SGD",
        help="plain gradient descent with momentum; learns very slowly",
        default_lr=1e-3,
        schedule="cosine_with_restarts",
        default_args={"momentum": 0.9, "nesterov": True},
    )
)

_BITSANDBYTES = (
    ("AdamW8bit", "AdamW8bit", 1e-4, "AdamW with a quarter of the memory"),
    ("PagedAdamW8bit", "PagedAdamW8bit", 1e-4, "AdamW8bit that moves to main memory when the card is full"),
    ("PagedAdamW", "PagedAdamW", 1e-4, "AdamW that moves to main memory when the card is full"),
    ("PagedAdamW32bit", "PagedAdamW32bit", 1e-4, "AdamW in 32 bits that moves to main memory when the card is full"),
    ("Lion8bit", "Lion8bit", 3e-5, "Lion with less memory"),
    ("PagedLion8bit", "PagedLion8bit", 3e-5, "Lion8bit that moves to main memory when the card is full"),
    ("SGDNesterov8bit", "SGD8bit", 1e-3, "SGDNesterov with less memory"),
)
for _name, _attribute, _lr, _help in _BITSANDBYTES:
    _add(
        OptimizerEntry(
            _name,
            "bitsandbytes.optim",
            _attribute,
            help=f"{_help}; CUDA and bitsandbytes only",
            default_lr=_lr,
            schedule="cosine_with_restarts",
            needs_cuda=True,
            default_args={"momentum": 0.9, "nesterov": True} if _attribute == "SGD8bit" else {},
        )
    )


def find_optimizer(name: str) -> OptimizerEntry:
    """The entry called ``name``, or one made for ``module.Class``.

    Raises:
        StudioError: there is no such entry.
    """
    module, _, attribute = name.strip().rpartition(".")
    if name in OPTIMIZERS or not module:
        return OPTIMIZERS.get(name)
    return OptimizerEntry(name.strip(), module, attribute, help="given as module.Class")


def _refusal(problem: str, name: str) -> StudioError:
    usable = [entry for entry in OPTIMIZERS if not OPTIMIZERS.get(entry).needs_cuda]
    return StudioError(problem, field=OPTIMIZERS.field, came=name, allowed=f"{', '.join(usable)}, or module.Class")


_KEY = re.compile(r"""(?:^|(?<=[\s,"']))([A-Za-z_]\w*)\s*=""")


def parse_args(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments from texts such as ``"weight_decay=0.01"`` and ``"betas=0.9,0.99"``; values are Python literals.

    One text may hold several, divided by spaces or commas and in quotes or not, as guides print them; a text without
    a name goes on with the value before it, since forms divide lists at commas.

    Raises:
        StudioError: a text is no ``name=value``, a value is no literal, or a name comes twice.
    """
    whole = ",".join(texts).strip()
    keys = list(_KEY.finditer(whole))
    opening = [match.start() - (match.start() > 0 and whole[match.start() - 1] in "\"'") for match in keys]
    if whole.strip(" ,") and (not keys or whole[: opening[0]].strip(" ,")):
        raise _bad_argument("is no name=value", whole)
    values: dict[str, Any] = {}
    for match, start, end in zip(keys, opening, [*opening[1:], len(whole)]):
        name, text = match[1], whole[match.end() : end].strip(" ,\t")
        if start < match.start():
            text = text.removesuffix(whole[start])
        if name in values:
            raise _bad_argument(f"{name} comes twice", whole)
        values[name] = _literal(name, text)
    return values


def _literal(name: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise _bad_argument(f"the value of {name} cannot be read", text) from None


def _bad_argument(problem: str, came: object) -> StudioError:
    return StudioError(
        problem,
        field="optimizer_args",
        came=came,
        allowed="name=value with numbers, True, False, None or lists of them",
    )


def allowed_args(optimizer: type[Optimizer], hidden: frozenset[str] = frozenset()) -> list[str] | None:
    """The names of the arguments that a class takes, without parameters and rate; None: it takes any."""
    parameters = inspect.signature(optimizer).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return [name for name in parameters if name not in {"params", "lr", *hidden}]


def _check_names(entry: OptimizerEntry, optimizer: type[Optimizer], args: Mapping[str, Any]) -> None:
    if "lr" in args:
        raise StudioError("the rate has options of its own", field="optimizer_args", came="lr", allowed="learning_rate")
    allowed = allowed_args(optimizer, entry.hidden)
    for name in args:
        if name in entry.hidden or (allowed is not None and name not in allowed):
            raise StudioError(
                f"{entry.name} takes no such argument", field="optimizer_args", came=name, allowed=allowed
            )


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
        if not any(callable(getattr(optimizer, "eval", None)) for optimizer in self.optimizers):
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
    _check_names(entry, optimizer, given)
    arguments = {**entry.defaults(given, with_warmup), **given}
    relative = _makes_its_rate(optimizer, arguments)
    made = [_build_one(entry, optimizer, group, _rate_for(entry, group, relative), arguments) for group in groups]
    return OptimizerSet([group.name for group in groups], made)


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
