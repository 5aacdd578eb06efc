"""An exponential moving average of the weights, which is what is shown and saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


class Ema:
    """shadow <- d shadow + (1 - d) weight after each step, with d = min(decay, (1 + n) / (10 + n)) at the n-th.

    The smaller d of the first steps forgets the weights that the run began with (TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``, as in diffusers' ``EMAModel``).

    Args:
        parameters: the weights, as they are now.
        decay: d in the long run.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.shadow = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """After each step that has changed the weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [parameter.detach() for parameter in self.parameters], 1.0 - decay)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The average in place of the weights; afterwards these are back, bit for bit."""
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.shadow)
        try:
            yield
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "shadow": list(self.shadow)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = int(state["updates"])
        for own, saved in zip(self.shadow, state["shadow"], strict=True):
            own.copy_(saved)
