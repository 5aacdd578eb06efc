"""What the types share that have a rank: alpha, one more factor where it is wanted, and dropouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib_lora.adapters.base import Adapter
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError


class RankedAdapter(Adapter):
    """A change that is scaled by alpha / rank, and by ``scalar`` where it has one."""

    # The suffix whose tensor takes ``scalar`` into the file.
    scaled_part: ClassVar[str]

    def __init__(
        self,
        target: Target,
        rank: int,
        alpha: float,
        state: NetworkState,
        spec: NetworkSpec | None = None,
        *,
        scalar: bool = False,
    ) -> None:
        super().__init__(target, state, spec.module_dropout if spec else None)
        self.rank = rank
        self.alpha = float(alpha) or float(rank)
        self.dropout = (spec.dropout if spec else None) or 0.0
        self.rank_dropout = (spec.rank_dropout if spec else None) or 0.0
        self.scalar = nn.Parameter(torch.zeros((), device=target.layer.weight.device)) if scalar else None
        self._base_squares: Tensor | None = None

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def factor(self) -> float | Tensor:
        """All that the product of the matrices is multiplied with."""
        return self.scale if self.scalar is None else self.scale * self.scalar

    def drop(self, ranks: Tensor, rank_axis: int) -> Tensor:
        """Both dropouts on activations [B, ..., r] or [B, r, h, w]; what stays is scaled by 1 / (1 - p)."""
        if not self.training:
            return ranks
        if self.dropout:
            ranks = ranks * self._mask(ranks, ranks.shape, self.dropout, "network")
        if self.rank_dropout:
            shape = [ranks.shape[0]] + [1] * (ranks.ndim - 1)
            shape[rank_axis] = ranks.shape[rank_axis]
            ranks = ranks * self._mask(ranks, shape, self.rank_dropout, "rank")
        return ranks

    def _mask(self, like: Tensor, shape: list[int] | torch.Size, share: float, kind: str) -> Tensor:
        kept = self.dropout_draw(kind, shape) >= share
        return (kept / (1 - share)).to(like.device, like.dtype)

    def dense_delta(self) -> Tensor:
        up, down, scale = self.low_rank()
        return (scale * (up @ down)).reshape(self.target.layer.weight.shape)

    def column_squares(self, base: Tensor) -> Tensor:
        """The squared norm of each input column of ``base`` + change [in]; ``base`` [out, in, ...], float32."""
        raise NotImplementedError  # of types that ``has_dora``

    def base_squares(self, base: Tensor) -> Tensor:
        """Of the frozen weight alone, reckoned once."""
        if self._base_squares is None or self._base_squares.device != base.device:
            self._base_squares = _column_squares(base)
        return self._base_squares

    def state_tensors(self) -> dict[str, Tensor]:
        tensors = super().state_tensors()
        if self.scalar is not None:
            tensors[self.scaled_part] = tensors[self.scaled_part] * self.scalar.detach()
        return {**tensors, "alpha": torch.tensor(self.alpha)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        self.take_alpha(tensors)

    def take_alpha(self, tensors: Mapping[str, Tensor]) -> None:
        # A file without alpha is an old one: alpha = rank (sd-scripts, WebUI).
        self.alpha = float(tensors["alpha"]) if "alpha" in tensors else float(self.rank)
        if self.scalar is not None:
            with torch.no_grad():
                self.scalar.fill_(1)  # a file's matrices hold it


def _column_squares(weight: Tensor) -> Tensor:
    return weight.square().sum([axis for axis in range(weight.dim()) if axis != 1])


def rank_in(tensors: Mapping[str, Tensor], suffix: str, target: Target) -> int:
    """How many rows a file's tensor has.

    Raises:
        StudioError: none.
    """
    shape = tensors[suffix].shape
    if not shape or not shape[0]:
        raise StudioError("is empty", field=f"{target.key}.{suffix}", came=list(shape))
    return shape[0]
