"""Max norm regularisation: no layer's change may become longer than a limit."""

from __future__ import annotations

import torch

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError


def check_scalable(network: Network) -> None:
    """That every adapter's change is a product of two of its parameters, which can be scaled.

    Raises:
        StudioError: naming the first that is not.
    """
    for adapter in network:
        own = {parameter.data_ptr() for parameter in adapter.parameters()}
        try:
            factors = adapter.low_rank()[:2]
        except NotImplementedError:
            factors = ()
        if not factors or any(factor.data_ptr() not in own for factor in factors):
            raise StudioError(
                f"needs changes of the form up x down, which {adapter.key} does not have",
                field="scale_weight_norms",
                allowed="none, or network_type LoRA",
            )


@torch.no_grad()
def scale_weight_norms(network: Network, limit: float) -> None:
    """Where |scale up down| > limit (Frobenius), multiply both factors by sqrt(limit / |scale up down|).

    sd-scripts' ``apply_max_norm_regularization``. The norm comes from the ranks' products alone,
    |U D|^2 = sum of (U^T U) * (D D^T), and nothing is read back from a card.
    """
    factors = [adapter.low_rank() for adapter in network]
    squares = [((up.T @ up) * (down @ down.T)).sum() * scale**2 for up, down, scale in factors]
    norms = torch.stack(squares).clamp(min=0).sqrt()
    shares = (limit / norms).clamp(max=1.0).sqrt()
    for (up, down, _), share in zip(factors, shares):
        up.mul_(share)
        down.mul_(share)
