"""Several changes of one layer as one: the sum that a prompt makes, and modes beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.seeds import derive_seed
from lib_lora.weights.delta import Factors
from lib_lora.weights.recipe import Part

# "average" is a sum whose strengths were divided by their sum (``merge.averaged``).
MODES = ("sum", "average", "ties", "dare", "dare_ties")
_SUMS = ("sum", "average")


def is_sum(mode: str) -> bool:
    """Whether a mode is linear, so that low ranks stay low."""
    return mode in _SUMS


def concatenated(parts: Sequence[Part]) -> Factors | None:
    """(up [out, r], down [r, in]) of the sum, float64, exactly: strengths and scales go into up, ranks stand side by
    side. None where a part has no low rank of its own or depends on the layer's weight.

    Raises:
        StudioError: the parts are of layers of different sizes.
    """
    if any(part.delta.needs_base for part in parts):
        return None
    pairs = [part.delta.low_rank() for part in parts]
    if any(pair is None for pair in pairs):
        return None
    sizes = {(up.shape[0], down.shape[1]) for up, down in pairs}
    if len(sizes) > 1:
        raise StudioError("the LoRAs are for layers of different sizes", field=parts[0].delta.key, came=sorted(sizes))
    ups = [part.strength * up for part, (up, _) in zip(parts, pairs)]
    return torch.cat(ups, 1), torch.cat([down for _, down in pairs])


def summed(parts: Sequence[Part], base: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """The sum in float64, in the WebUI's order: each part changes the weight that the parts before it have left
    (A1111 v1.10.1, ``network_apply_weights``)."""
    now = None if base is None else base.double()
    total = torch.zeros(shape if now is None else now.shape, dtype=torch.float64)
    for part in parts:
        change = part.strength * part.delta.dense(now, shape=shape)
        total += change
        now = None if now is None else now + change
    return total


def applied(weight: Tensor, parts: Sequence[Part], dtype: torch.dtype) -> Tensor:
    """The weight with all parts in it, in the WebUI's order as ``summed``; a copy in ``dtype``."""
    now = weight.to(dtype, copy=True)
    for part in parts:
        now.add_(part.delta.dense(now, dtype, shape=tuple(now.shape)), alpha=part.strength)
    return now


def summed_bias(parts: Sequence[Part]) -> Tensor | None:
    """What the parts add to the bias, None where no part adds anything."""
    changes = [part.strength * bias for part in parts if (bias := part.delta.bias()) is not None]
    return sum(changes[1:], changes[0]) if changes else None


def combined(
    parts: Sequence[Part],
    mode: str,
    base: Tensor | None,
    shape: tuple[int, ...],
    *,
    density: float = 0.5,
    seed: int = 0,
) -> Tensor:
    """The change of a layer's weight in any mode. Beyond sums, each part changes the layer's own weight.

    - ties: trim, elect signs, mean of those that agree (Yadav et al., arXiv 2306.01708)
    - dare: drop at random and rescale (Yu et al., arXiv 2311.03099), then the sum
    - dare_ties: drop at random and rescale, then elect signs

    Args:
        density: the share of values that is kept.
        seed: owns the draws, with the layer's name and the part's number.
    """
    if is_sum(mode):
        return summed(parts, base, shape)
    weighted = []
    for number, part in enumerate(parts):
        change = part.delta.dense(base, shape=shape)
        if mode == "ties":
            change = trimmed(change, density)
        else:
            change = dropped(change, density, derive_seed(seed, "dare", part.delta.key, number))
        weighted.append(change * part.strength)
    return sum(weighted[1:], weighted[0]) if mode == "dare" else elected(weighted)


def trimmed(change: Tensor, density: float) -> Tensor:
    """The largest values by magnitude, int(density * count) of them; the rest 0."""
    flat = change.flatten()
    places = flat.abs().topk(int(density * flat.numel())).indices
    return torch.zeros_like(flat).index_copy(0, places, flat[places]).reshape(change.shape)


def dropped(change: Tensor, density: float, seed: int) -> Tensor:
    """Each value with probability ``density``, divided by it: the expectation stays."""
    draws = torch.rand(change.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(draws < density, change / density, 0.0)


def elected(changes: Sequence[Tensor]) -> Tensor:
    """The mean of the values that have the sign of their sum; one by one, as whole matrices take much room."""
    sign = sum(changes[1:], changes[0]).sign_()
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for change in changes:
        agrees = (change.sign() == sign) & (change != 0)
        total += change * agrees
        count += agrees
    return total / count.clamp_(min=1)
