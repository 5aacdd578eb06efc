"""Optimizers by name, with the arguments that the guides give as defaults."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from lib_lora.base.errors import StudioError
from lib_lora.base.packages import how_to_get
from lib_lora.base.registry import Registry


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
        arguments: those that people turn, in the order of their use; each is in ``ARGUMENTS``.
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
    arguments: tuple[str, ...] = ("weight_decay", "betas", "eps")
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


ARGUMENTS = {
    "betas": "how slowly the averages of gradients and of their squares forget",
    "clip_threshold": "longest update, as a root mean square",
    "d0": "the size of step that it begins with; a larger one finds sooner and errs more",
    "d_coef": "multiplies the size of step that it finds; 0.5 to 2",
    "decouple": "weight decay apart from the gradient, as AdamW has it",
    "eps": "keeps divisions from 0",
    "growth_rate": "how many times larger the size of step may become at each step; inf is no limit, 1.02 a slow one",
    "momentum": "share of the step before that goes on",
    "nesterov": "looks ahead by the momentum",
    "relative_step": "makes its own learning rate; False takes yours",
    "safeguard_warmup": "leaves the warm-up out of what it finds; for runs with one",
    "scale_parameter": "larger weights get larger steps",
    "use_bias_correction": "smaller first steps, as Adam's correction makes them",
    "warmup_init": "begins its own rate at almost 0",
    "weight_decay": "pull of the weights towards 0; against overfitting",
}
"""What the arguments of optimizers do, for people."""

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
        arguments=("relative_step", "scale_parameter", "warmup_init", "weight_decay", "clip_threshold"),
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
        arguments=("weight_decay", "betas"),
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
        arguments=(
            *("d_coef", "growth_rate", "d0", "betas", "weight_decay", "decouple", "use_bias_correction"),
            "safeguard_warmup",
        ),
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
        arguments=("growth_rate", "d0", "betas", "weight_decay", "decouple", "use_bias_correction"),
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
        arguments=("d0", "betas", "weight_decay"),
    )
)
for _name, _args, _help in (
    ("DAdaptAdan", {"weight_decay": 0.01}, "adaptive Adan (arXiv 2208.06677); leave the learning rate at 1"),
    ("DAdaptAdaGrad", {"weight_decay": 0.01, "momentum": 0.0}, "adaptive AdaGrad; leave the learning rate at 1"),
    ("DAdaptSGD", {"weight_decay": 0.01, "momentum": 0.9}, "adaptive SGD; leave the learning rate at 1"),
):
    _add(
        OptimizerEntry(
            _name,
            "dadaptation",
            _name,
            help=_help,
            default_lr=1.0,
            schedule="constant",
            adaptive=True,
            default_args=_args,
            hidden=_D_HIDDEN,
            arguments=("growth_rate", "d0", "momentum" if "momentum" in _args else "betas", "weight_decay"),
        )
    )
_add(
    OptimizerEntry(
        "CAME",
        "came_pytorch",
        "CAME",
        help="nearly as light on memory as AdaFactor and steadier (arXiv 2307.02047)",
        default_lr=1e-4,
        arguments=("weight_decay", "betas", "clip_threshold"),
    )
)
for _name, _help in (
    ("AdamWScheduleFree", "AdamW that averages its weights in place of a falling rate (arXiv 2405.15682)"),
    ("RAdamScheduleFree", "AdamWScheduleFree that needs no warm-up"),
):
    _add(OptimizerEntry(_name, "schedulefree", _name, help=_help, default_lr=2e-4, schedule="constant"))
_add(
    OptimizerEntry(
        "SGDNesterov",
        "torch.optim",
        "SGD",
        help="plain gradient descent with momentum; learns very slowly",
        default_lr=1e-3,
        schedule="cosine_with_restarts",
        default_args={"momentum": 0.9, "nesterov": True},
        arguments=("momentum", "weight_decay", "nesterov"),
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
            arguments=("momentum", "weight_decay") if _attribute == "SGD8bit" else ("weight_decay", "betas"),
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
