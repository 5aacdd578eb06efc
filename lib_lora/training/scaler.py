"""Loss scaling: keeps half precision's small gradients above zero, and large ones out of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lib_lora.base.errors import StudioError

_INITIAL, _GROWTH, _BACKOFF, _GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScaler:
    """Dynamic loss scaling as in torch's ``GradScaler``, on any device (Micikevicius et al., arXiv 1710.03740).

    The loss is multiplied by ``scale``, the gradients divided by it. A step whose gradients are not finite is
    skipped and halves the scale; it doubles after 2000 steps without one. Scales are powers of two: multiplying by
    them rounds nothing.

    Args:
        enabled: off, the scale is 1 and nothing is looked at.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.scale = _INITIAL if enabled else 1.0
        self.skipped = 0
        self._good_steps = 0

    @torch.no_grad()
    def unscale(self, parameters: Sequence[torch.nn.Parameter]) -> bool:
        """Divide the gradients by the scale; whether the step may be made. Sets the scale of the next step.

        Raises:
            StudioError: gradients are not finite at any scale.
        """
        if not self.enabled:
            return True
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        finite = True
        if gradients:
            torch._foreach_mul_(gradients, 1.0 / self.scale)  # one launch on a card, and not one for each layer
            finite = bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
        self._update(finite)
        return finite

    def _update(self, finite: bool) -> None:
        if finite:
            self._good_steps += 1
            if self._good_steps == _GROWTH_INTERVAL:
                self.scale, self._good_steps = self.scale * _GROWTH, 0
            return
        self.skipped += 1
        self.scale, self._good_steps = self.scale * _BACKOFF, 0
        if self.scale < 2.0**-14:
            raise StudioError(
                "the gradients are not finite numbers, however small the loss is scaled",
                field="mixed_precision",
                came="fp16",
                allowed="bf16 or no, or a lower learning rate",
            )

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_steps": self._good_steps, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.enabled:
            self.scale, self._good_steps = float(state["scale"]), int(state["good_steps"])
            self.skipped = int(state["skipped"])
