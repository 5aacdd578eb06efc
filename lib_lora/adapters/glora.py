"""GLoRA: W' = W + s (B + W A), A and B of low rank (arXiv 2306.07967, as LyCORIS has it)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, compute_input
from lib_lora.adapters.ranked import RankedAdapter
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError


@NETWORKS.register("GLoRA")
class GLoraAdapter(RankedAdapter):
    """Initialised as LyCORIS' ``GLoRAModule``: A = ``a1`` [in, r] ``a2`` [r, in], B = ``b1`` [out, r] ``b2`` [r, in].

    W + s W A is W on an input that was changed before: y = W (x + s A x) + s B x.

    The file of a linear layer is in the convention of LyCORIS before version 3, the only one that WebUI 1.10.1 reads:
    each pair the other way round, and the scale, which it leaves out, in the matrices. Of convolutions it reads no
    GLoRA at all: theirs is written as the LoRA that it comes to on this checkpoint.
    """

    needs = frozenset({"a1.weight", "a2.weight", "b1.weight", "b2.weight"})
    may_have = frozenset({"alpha"})
    takes_over = True

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
        super().__init__(target, rank, alpha, state, spec, scalar=scalar)
        device, size = target.layer.weight.device, target.in_size
        self.a1 = nn.Parameter(torch.empty(size, rank, device=device))
        self.a2 = nn.Parameter(torch.zeros(rank, size, device=device))
        self.b1 = nn.Parameter(torch.empty(target.out_size, rank, device=device))
        self.b2 = nn.Parameter(torch.zeros(rank, size, *target.kernel, device=device))

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> GLoraAdapter | None:
        given = spec.rank_of(target)
        if given is None:
            return None
        adapter = cls(target, *given, state, spec, scalar=spec.use_scalar)
        for name in ("a1", "b1", "a2", "b2") if spec.use_scalar else ("a1", "b1"):
            adapter.draw(getattr(adapter, name), name)
        return adapter

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> GLoraAdapter:
        shape = tensors["a1.weight"].shape
        if len(shape) < 2 or not min(shape[:2]):
            raise StudioError("is no matrix", field=f"{target.key}.a1.weight", came=list(shape))
        rank = min(shape[:2])
        adapter = cls(target, rank, rank, state, spec)
        adapter.load(tensors)
        return adapter

    def run(self, x: Tensor, strength: float) -> Tensor:
        added = self._through_a(x, strength)
        return self._add_b(self.layer_forward((x + added).to(x.dtype)), x, strength)

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        added = self._through_a(x, strength)
        output = output + self.product(added, self.target.layer.weight.detach().to(added.dtype)).to(output.dtype)
        return self._add_b(output, x, strength)

    def delta(self, x: Tensor) -> Tensor:
        x = compute_input(x, self.b1.dtype)
        return self.add_to(x.new_zeros(()), x, 1.0)

    def _through_a(self, x: Tensor, strength: float) -> Tensor:
        """strength * s * A x."""
        x = compute_input(x, self.a1.dtype)
        if self.target.is_conv:
            ranks = self.drop(F.conv2d(x, self.a2[:, :, None, None]), 1)
            return F.conv2d(ranks * (strength * self.factor()), self.a1[:, :, None, None])
        return F.linear(self.drop(F.linear(x, self.a2), -1) * (strength * self.factor()), self.a1)

    def _add_b(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        """output + strength * s * B x."""
        ranks = self.product(compute_input(x, self.b2.dtype), self.b2)
        ranks = self.drop(ranks, 1 if self.target.is_conv else -1) * (strength * self.factor())
        change = F.conv2d(ranks, self.b1[:, :, None, None]) if self.target.is_conv else F.linear(ranks, self.b1)
        return output + change.to(output.dtype)

    def low_rank(self) -> tuple[Tensor, Tensor, float | Tensor]:
        """Of rank 2 r, of convolutions that look at neighbours (1 + kh * kw) r."""
        base = self.base_weight()
        through = torch.einsum("oi...,ir->or...", base, self.a1).flatten(1)  # [out, r * kh * kw]
        places = torch.eye(self.target.positions, device=base.device)
        spread = torch.einsum("ri,kl->rkil", self.a2, places).flatten(0, 1).flatten(1)  # [r * kh * kw, in * kh * kw]
        return torch.cat((self.b1, through), 1), torch.cat((self.b2.flatten(1), spread)), self.factor()

    def parts(self) -> dict[str, Tensor]:
        return {f"{name}.weight": getattr(self, name) for name in ("a1", "a2", "b1", "b2")}

    def state_tensors(self) -> dict[str, Tensor]:
        with torch.no_grad():
            if self.target.is_conv:
                up, down, scale = self.low_rank()
                return {
                    "lora_up.weight": (scale * up)[:, :, None, None],
                    "lora_down.weight": down.reshape(-1, self.target.in_size, *self.target.kernel),
                    "alpha": torch.tensor(float(len(down))),
                }
            scale = self.factor()
            old = {"a1": self.a2, "a2": scale * self.a1, "b1": self.b2, "b2": scale * self.b1}
            tensors = {f"{name}.weight": tensor.detach() for name, tensor in old.items()}
            return {**tensors, "alpha": torch.tensor(float(self.rank))}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        super().check(self._in_new_order(tensors))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(self._in_new_order(tensors))
        if self._is_old(tensors):
            self.alpha = float(self.rank)

    def _is_old(self, tensors: Mapping[str, Tensor]) -> bool:
        shape = tensors["a1.weight"].shape
        return len(shape) >= 2 and shape[0] < shape[1]

    def _in_new_order(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not self._is_old(tensors):
            return tensors
        other = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1"}
        turned = {f"{new}.weight": tensors[f"{old}.weight"] for new, old in other.items()}
        return {**tensors, **turned}
