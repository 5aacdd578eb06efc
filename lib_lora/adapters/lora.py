"""LoRA (linear layers, 1x1 convolutions) and LoCon (3x3 convolutions): W' = W + alpha / rank * U D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, compute_input
from lib_lora.adapters.ranked import RankedAdapter, rank_in
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target


class Factors(NamedTuple):
    """up [out, r, ...], core [r, r, kh, kw] or None, down [r, in, ...]: the change is scale * up core down."""

    up: Tensor
    core: Tensor | None
    down: Tensor
    scale: float | Tensor


@NETWORKS.register("LoRA")
class LoraAdapter(RankedAdapter):
    """U D of low rank (Hu et al., arXiv 2106.09685), laid out and initialised as sd-scripts' ``LoRAModule``.

    ``lora_down`` is [r, in] or [r, in, kh, kw], ``lora_up`` [out, r] or [out, r, 1, 1]. In Tucker's form ``lora_down``
    is [r, in, 1, 1], and ``lora_mid`` [r, r, kh, kw] looks at neighbours.
    """

    has_dora = True
    needs = frozenset({"lora_up.weight", "lora_down.weight"})
    may_have = frozenset({"alpha", "lora_mid.weight"})
    scaled_part = "lora_up.weight"

    def __init__(
        self,
        target: Target,
        rank: int,
        alpha: float,
        state: NetworkState,
        spec: NetworkSpec | None = None,
        *,
        tucker: bool = False,
        scalar: bool = False,
    ) -> None:
        """``spec`` gives the dropouts, none without it."""
        super().__init__(target, rank, alpha, state, spec, scalar=scalar)
        device, ones = target.layer.weight.device, (1,) * len(target.kernel)
        kernel = ones if tucker else target.kernel
        self.lora_down = nn.Parameter(torch.empty(rank, target.in_size, *kernel, device=device))
        self.lora_mid = nn.Parameter(torch.empty(rank, rank, *target.kernel, device=device)) if tucker else None
        self.lora_up = nn.Parameter(torch.zeros(target.out_size, rank, *ones, device=device))

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> LoraAdapter | None:
        given = spec.rank_of(target)
        if given is None:
            return None
        tucker = spec.use_tucker and target.is_spatial
        adapter = cls(target, *given, state, spec, tucker=tucker, scalar=spec.use_scalar)
        adapter.draw(adapter.lora_down)
        if tucker:
            adapter.draw(adapter.lora_mid, "mid")
        if spec.use_scalar:
            adapter.draw(adapter.lora_up, "up")
        return adapter

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> LoraAdapter:
        rank = rank_in(tensors, "lora_down.weight", target)
        adapter = cls(target, rank, rank, state, spec, tucker="lora_mid.weight" in tensors)
        adapter.load(tensors)
        return adapter

    def factors(self) -> Factors:
        """What acts now."""
        return Factors(self.lora_up, self.lora_mid, self.lora_down, self.factor())

    def delta(self, x: Tensor) -> Tensor:
        """scale * U drop(D x); x [..., in] or [B, in, h, w]."""
        factors = self.factors()
        return self._up(self._down(x, factors) * factors.scale, factors)

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        factors = self.factors()
        ranks, scale = self._down(x, factors), strength * factors.scale
        if self.target.is_conv or ranks.dtype != output.dtype or isinstance(scale, Tensor):
            return output + self._up(ranks * scale, factors).to(output.dtype)
        # Added while it is multiplied: one pass over the output where a product, a factor and a sum take three.
        rows = output.reshape(-1, self.target.out_size)
        up = factors.up.t()
        return torch.addmm(rows, ranks.reshape(-1, len(up)), up, alpha=scale).reshape(output.shape)

    def _down(self, x: Tensor, factors: Factors) -> Tensor:
        x = compute_input(x, factors.down.dtype)
        if not self.target.is_conv:
            return self.drop(F.linear(x, factors.down), -1)
        if factors.core is None:
            return self.drop(self.product(x, factors.down), 1)
        return self.drop(self.product(F.conv2d(x, factors.down), factors.core), 1)

    def _up(self, ranks: Tensor, factors: Factors) -> Tensor:
        return F.conv2d(ranks, factors.up) if self.target.is_conv else F.linear(ranks, factors.up)

    def low_rank(self) -> tuple[Tensor, Tensor, float | Tensor]:
        up, core, down, scale = self.factors()
        down = down.flatten(1)
        if core is not None:
            down = torch.einsum("nmkl,mj->njkl", core, down).flatten(1)
        return up.flatten(1), down, scale

    def column_squares(self, base: Tensor) -> Tensor:
        """|W + c U D|^2 of each input column, from W^T U and U^T U: no change [out, in] is made."""
        up, down, scale = self.low_rank()
        down = down.reshape(len(down), self.target.in_size, -1)  # [r, in, kh * kw]
        base = base.reshape(len(base), self.target.in_size, -1)
        both = torch.einsum("or,oik->rik", up, base)
        change = torch.einsum("rs,sik->rik", up.t() @ up, down)
        return self.base_squares(base) + (down * (2 * scale * both + scale**2 * change)).sum((0, 2))

    def parts(self) -> dict[str, Tensor]:
        parts = {"lora_up.weight": self.lora_up, "lora_down.weight": self.lora_down}
        return parts if self.lora_mid is None else {**parts, "lora_mid.weight": self.lora_mid}

    def plus_parameters(self) -> list[nn.Parameter]:
        return [self.lora_up]

    def note(self) -> str | None:
        most = min(self.lora_down[0].numel(), self.lora_up.shape[0])
        if self.rank > most and self.lora_mid is None:
            return f"{self.target.module_name}: rank {self.rank}, but a change of this layer has rank {most} at most"
        return None
