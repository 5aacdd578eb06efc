"""What is done when a run's numbers are no longer finite: stop, or go back to where they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from lib_lora.base.errors import StudioError
from lib_lora.training.config import TrainConfig

EVERY_N_STEPS = 50  # a state is kept in memory
_KEPT = 2  # of the last ones: weights may have grown beyond all bounds before a number is no longer finite
_WAYS_OUT = (
    "a lower learning_rate, a lower network_alpha, another picture, mixed_precision bf16 or no, or nan_guard rollback, "
    "which goes back and on at a lower rate"
)


class Part(Protocol):
    """What can be put away and taken up: weights, optimizers, schedule and the like."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class NotFinite(Exception):
    """Loss, gradients or weights hold a NaN or an infinity."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} not finite at step {step}")
        self.what, self.step = what, step


class NanGuard:
    """Keeps the last states in memory, one every ``EVERY_N_STEPS`` steps, and goes back to a sound one.

    Args:
        config: its ``nan_guard`` options.
        parts: everything that changes during a run, by name; "schedule" is slowed down when the run goes back.
    """

    def __init__(self, config: TrainConfig, parts: Mapping[str, Part]) -> None:
        self.mode = config.nan_guard
        self.factor = config.nan_guard_factor
        self.tries = config.nan_guard_tries
        self.rate = config.learning_rate
        self.parts = parts
        self.returns = 0
        self._kept: dict[int, Any] = {}  # by the number of steps done, the earliest first

    @property
    def watches(self) -> bool:
        return self.mode != "off"

    def keep(self, step: int, parameters: Sequence[torch.Tensor]) -> None:
        """Before each step: keep the state after ``step`` steps where it is due, or where there is none as yet.

        Raises:
            NotFinite: a weight is no finite number.
        """
        if self.mode != "rollback" or (step % EVERY_N_STEPS and self._kept):
            return
        if not bool(torch.stack([parameter.detach().isfinite().all() for parameter in parameters]).all()):
            raise NotFinite("a weight is", step)
        self._kept[step] = {name: _copied(part.state_dict()) for name, part in self.parts.items()}
        self._kept = {each: self._kept[each] for each in sorted(self._kept)[-_KEPT:]}

    def go_back(self, fault: NotFinite, pictures: str) -> int:
        """Everything as it was at a sound state, but for a lower rate; how many steps are done there.

        It is the last one that half of ``EVERY_N_STEPS`` sound steps have followed, or the first there is.

        Args:
            pictures: of the step that failed, for the person.

        Raises:
            StudioError: the run is to end.
        """
        if self.mode != "rollback" or not self._kept or self.returns >= self.tries:
            raise self._end(fault, pictures)
        proved = [step for step in self._kept if fault.step - 1 - step >= EVERY_N_STEPS // 2]
        step = max(proved, default=min(self._kept))
        self._kept = {each: kept for each, kept in self._kept.items() if each <= step}
        self.returns += 1
        scale = self.parts["schedule"].scale * self.factor  # a run that goes on may have had another factor before
        for name, part in self.parts.items():
            part.load_state_dict(_copied(self._kept[step][name]))
        self.parts["schedule"].set_scale(scale)
        return step

    def _end(self, fault: NotFinite, pictures: str) -> StudioError:
        tried = f", although the rate was lowered {self.returns} times" if self.returns else ""
        return StudioError(
            f"{fault.what} not a finite number at step {fault.step}{tried} (pictures: {pictures})",
            field="learning_rate",
            came=self.rate,
            allowed=_WAYS_OUT if self.mode != "rollback" else _WAYS_OUT.rpartition(", or ")[0],
        )

    def state_dict(self) -> dict[str, Any]:
        return {"returns": self.returns, "kept": self._kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.returns, self._kept = int(state["returns"]), dict(state["kept"])


def _copied(value: Any) -> Any:
    """A copy of nested values; tensors go to main memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(own) for own in value)
    return value
