"""LoRA (linear layers, 1x1 convolutions) and LoCon (3x3 convolutions): W' = W + alpha / rank * U D."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, Adapter, NetworkSpec, NetworkState, Target, compute_input
from lib_lora.base.errors import StudioError
from lib_lora.base.seeds import derive_seed


@NETWORKS.register("LoRA")
class LoraAdapter(Adapter):
    """U D of low rank (Hu et al., arXiv 2106.09685), laid out and initialised as sd-scripts' ``LoRAModule``.

    ``lora_down`` is [r, in] or [r, in, kh, kw], ``lora_up`` [out, r] or [out, r, 1, 1].
    """

    needs = frozenset({"lora_up.weight", "lora_down.weight"})
    may_have = frozenset({"alpha"})

    def __init__(
        self, target: Target, rank: int, alpha: float, state: NetworkState, spec: NetworkSpec | None = None
    ) -> None:
        """``alpha`` 0 means ``rank``; ``spec`` gives the dropouts, none without it."""
        super().__init__(target, state, spec.module_dropout if spec else None)
        self.rank = rank
        self.alpha = float(alpha) or float(rank)
        self.dropout = (spec.dropout if spec else None) or 0.0
        self.rank_dropout = (spec.rank_dropout if spec else None) or 0.0
        device, ones = target.layer.weight.device, (1,) * len(target.kernel)
        self.lora_down = nn.Parameter(torch.empty(rank, target.in_size, *target.kernel, device=device))
        self.lora_up = nn.Parameter(torch.zeros(target.out_size, rank, *ones, device=device))

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> LoraAdapter | None:
        rank, alpha = spec.rank, spec.alpha
        if target.is_spatial:
            if spec.conv_rank is None:
                return None
            rank, alpha = spec.conv_rank, spec.alpha if spec.conv_alpha is None else spec.conv_alpha
        adapter = cls(target, rank, alpha, state, spec)
        adapter._initialise()
        return adapter

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> LoraAdapter:
        shape = tensors["lora_down.weight"].shape
        rank = shape[0] if shape else 0
        if not rank:
            raise StudioError("is empty", field=f"{target.key}.lora_down.weight", came=list(shape))
        adapter = cls(target, rank, rank, state, spec)
        adapter.load(tensors)
        return adapter

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def _initialise(self) -> None:
        """U = 0 and D ~ U(-b, b), b = 1 / sqrt(fan_in): kaiming_uniform with a = sqrt(5)."""
        if self.lora_down.is_meta:
            return
        fan_in = self.lora_down[0].numel()
        generator = torch.Generator("cpu").manual_seed(derive_seed(self.state.seed, "init", self.key))
        bound = 1 / math.sqrt(fan_in)
        draw = torch.empty(self.lora_down.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            self.lora_down.copy_(draw)

    def delta(self, x: Tensor) -> Tensor:
        """scale * U drop(D x); x [..., in] or [B, in, h, w]."""
        return self._up(self._down(x) * self.scale)

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        ranks, scale = self._down(x), strength * self.scale
        if self.target.is_conv or ranks.dtype != output.dtype:
            return output + self._up(ranks * scale).to(output.dtype)
        # Added while it is multiplied: one pass over the output where a product, a factor and a sum take three.
        rows = output.reshape(-1, self.target.out_size)
        return torch.addmm(rows, ranks.reshape(-1, self.rank), self.lora_up.t(), alpha=scale).reshape(output.shape)

    def _down(self, x: Tensor) -> Tensor:
        x = compute_input(x, self.lora_down.dtype)
        if not self.target.is_conv:
            return self._drop(F.linear(x, self.lora_down), -1)
        layer = self.target.layer
        return self._drop(F.conv2d(x, self.lora_down, None, layer.stride, layer.padding, layer.dilation), 1)

    def _up(self, ranks: Tensor) -> Tensor:
        return F.conv2d(ranks, self.lora_up) if self.target.is_conv else F.linear(ranks, self.lora_up)

    def _drop(self, ranks: Tensor, rank_axis: int) -> Tensor:
        """Both dropouts on activations [B, ..., r] or [B, r, h, w]; what stays is scaled by 1 / (1 - p)."""
        if not self.training:
            return ranks
        if self.dropout:
            ranks = ranks * self._mask(ranks, ranks.shape, self.dropout, "network")
        if self.rank_dropout:
            shape = [ranks.shape[0]] + [1] * (ranks.ndim - 1)
            shape[rank_axis] = self.rank
            ranks = ranks * self._mask(ranks, shape, self.rank_dropout, "rank")
        return ranks

    def _mask(self, like: Tensor, shape: list[int] | torch.Size, share: float, kind: str) -> Tensor:
        kept = self.dropout_draw(kind, shape) >= share
        return (kept / (1 - share)).to(like.device, like.dtype)

    def dense_delta(self) -> Tensor:
        up, down, scale = self.low_rank()
        return (scale * (up @ down)).reshape(self.target.layer.weight.shape)

    def low_rank(self) -> tuple[Tensor, Tensor, float]:
        return self.lora_up.flatten(1), self.lora_down.flatten(1), self.scale

    def state_tensors(self) -> dict[str, Tensor]:
        return {
            "lora_up.weight": self.lora_up.detach(),
            "lora_down.weight": self.lora_down.detach(),
            "alpha": torch.tensor(self.alpha),
        }

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        self._fitted("lora_down.weight", tensors, self.lora_down)
        self._fitted("lora_up.weight", tensors, self.lora_up)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        down = self._fitted("lora_down.weight", tensors, self.lora_down)
        up = self._fitted("lora_up.weight", tensors, self.lora_up)
        with torch.no_grad():
            self.lora_down.copy_(down)
            self.lora_up.copy_(up)
        # A file without alpha is an old one: alpha = rank (sd-scripts, WebUI).
        self.alpha = float(tensors["alpha"]) if "alpha" in tensors else float(self.rank)

    def _fitted(self, suffix: str, tensors: Mapping[str, Tensor], parameter: Tensor) -> Tensor:
        tensor = tensors[suffix]
        # Some files hold a 1x1 convolution's matrices without the two ones.
        shape, wanted = list(tensor.shape), list(parameter.shape)
        if _without_ones(shape) != _without_ones(wanted):
            raise StudioError(
                "does not fit: the LoRA is for another model family, or has another rank",
                field=f"{self.key}.{suffix}",
                came=shape,
                allowed=f"shape {wanted}",
            )
        return tensor.reshape(wanted)

    def note(self) -> str | None:
        down = self.lora_down
        most = min(down[0].numel(), self.lora_up.shape[0])
        if self.rank > most:
            return f"{self.target.module_name}: rank {self.rank}, but a change of this layer has rank {most} at most"
        return None


def _without_ones(shape: list[int]) -> list[int]:
    """[r, in, 1, 1] -> [r, in]."""
    return shape[:2] if shape[2:] == [1, 1] else shape
