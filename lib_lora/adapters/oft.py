"""Orthogonal finetuning: a layer's outputs are turned, so that their angles to one another stay."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, Adapter, compute_input
from lib_lora.adapters.lokr import factors_of
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError


class _Turn(Adapter):
    """y' = R (W x) + b: only the output is looked at, and the change of a weight is never made.

    R is made of R_b = (I + Q)(I - Q)^-1 with Q = ``oft_blocks`` - its transpose, Cayley's form of a rotation. A
    ``constraint`` c limits the norm of all of Q to c * out; the file calls it alpha.
    """

    needs = frozenset({"oft_blocks"})
    may_have = frozenset({"alpha"})

    def __init__(
        self,
        target: Target,
        shape: Iterable[int],
        constraint: float,
        state: NetworkState,
        spec: NetworkSpec | None = None,
    ) -> None:
        super().__init__(target, state, spec.module_dropout if spec else None)
        self.constraint = constraint
        self.oft_blocks = nn.Parameter(torch.zeros(tuple(shape), device=target.layer.weight.device))

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> _Turn | None:
        given = spec.rank_of(target)
        if given is None:
            return None
        return cls(target, cls.shape_for(target, given[0]), spec.constraint, state, spec)

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> _Turn:
        shape = tensors["oft_blocks"].shape
        if len(shape) not in (3, 4) or shape[-1] * shape[-3] != target.out_size or shape[-1] != shape[-2]:
            raise StudioError(
                "does not fit the layer: the LoRA is for another model family",
                field=f"{target.key}.oft_blocks",
                came=list(shape),
                allowed=f"blocks that make {target.out_size} rows",
            )
        kind = OFTAdapter if len(shape) == 3 else BOFTAdapter
        adapter = kind(target, shape, 0.0, state, spec)
        adapter.load(tensors)
        return adapter

    @staticmethod
    @abstractmethod
    def shape_for(target: Target, size: int) -> tuple[int, ...]:
        """Of ``oft_blocks``, in blocks of at most ``size`` rows."""

    @abstractmethod
    def turn(self, turns: Tensor, rows: Tensor) -> Tensor:
        """Rows [..., out], each turned by R's blocks."""

    def turns(self) -> Tensor:
        """R's blocks, float32."""
        q = self.oft_blocks - self.oft_blocks.transpose(-1, -2)
        if self.constraint:
            norm = torch.linalg.vector_norm(q)
            q = q * ((norm.clamp(max=self.constraint * self.target.out_size) + 1e-8) / (norm + 1e-8))
        one = torch.eye(q.shape[-1], device=q.device, dtype=q.dtype)
        return 2 * torch.linalg.inv(one - q) - one  # (I + Q)(I - Q)^-1; an inverse has the cheaper gradient

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        bias = self.target.layer.bias
        rows = output.movedim(1, -1) if self.target.is_conv else output
        plain = (rows if bias is None else rows - bias).to(self.oft_blocks.dtype)
        with torch.autocast(output.device.type, enabled=False):  # small, and no rotation in half precision
            change = strength * (self.turn(self.turns(), plain) - plain)
        return output + (change.movedim(-1, 1) if self.target.is_conv else change).to(output.dtype)

    def delta(self, x: Tensor) -> Tensor:
        x = compute_input(x, self.oft_blocks.dtype)
        layer = self.target.layer
        output = self.product(x, layer.weight.detach().to(x.dtype))
        bias = 0 if layer.bias is None else layer.bias.reshape(-1, *[1] * len(self.target.kernel)).to(x.dtype)
        return self.add_to(output + bias, x, 1.0) - (output + bias)

    def dense_delta(self) -> Tensor:
        base = self.base_weight()
        rows = base.movedim(0, -1)
        return self.turn(self.turns(), rows).movedim(-1, 0) - base

    def parts(self) -> dict[str, Tensor]:
        return {"oft_blocks": self.oft_blocks}

    def state_tensors(self) -> dict[str, Tensor]:
        return {**super().state_tensors(), "alpha": torch.tensor(self.constraint)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        self.constraint = float(tensors["alpha"]) if "alpha" in tensors else 0.0


@NETWORKS.register("Diag-OFT")
class OFTAdapter(_Turn):
    """R is a diagonal of blocks (Qiu et al., arXiv 2306.07280), as LyCORIS' ``DiagOFTModule``: y R, ``oft_blocks`` is
    [n, b, b]."""

    @staticmethod
    def shape_for(target: Target, size: int) -> tuple[int, ...]:
        block, count = factors_of(target.out_size, size)
        return (count, block, block)

    def turn(self, turns: Tensor, rows: Tensor) -> Tensor:
        return torch.einsum("knm,...kn->...km", turns, rows.unflatten(-1, turns.shape[:2])).flatten(-2)


@NETWORKS.register("BOFT")
class BOFTAdapter(_Turn):
    """R is a butterfly (Liu et al., arXiv 2311.06243), as LyCORIS' ``ButterflyOFTModule``: m stages R y, the i-th of
    which mixes outputs that stand 2^i * b / 2 apart; ``oft_blocks`` is [m, n, b, b]."""

    @staticmethod
    def shape_for(target: Target, size: int) -> tuple[int, ...]:
        out = target.out_size
        fitting = [block for block in range(2, out + 1, 2) if out % block == 0 and _is_power_of_two(out // block)]
        blocks = [block for block in fitting if block <= size]
        if not blocks:
            raise StudioError(
                f"BOFT cuts the {out} outputs of {target.module_name} into 2, 4, 8 ... blocks of even size",
                field="network_dim",
                came=size,
                allowed=f"at least {fitting[0]}" if fitting else "another network_type",
            )
        count = out // blocks[-1]
        return (count.bit_length(), count, blocks[-1], blocks[-1])

    def turn(self, turns: Tensor, rows: Tensor) -> Tensor:
        block = turns.shape[-1]
        columns = rows.reshape(-1, rows.shape[-1]).t()  # [out, n]: whole rows are moved, and no product turns them back
        for stage, turn in enumerate(turns):
            apart = 2**stage * block // 2
            mixed = columns.unflatten(0, (-1, 2, apart)).transpose(1, 2).reshape(len(turn), block, -1)
            mixed = torch.bmm(turn, mixed).reshape(-1, apart, 2, columns.shape[1])
            columns = mixed.transpose(1, 2).flatten(0, 2)
        return columns.t().reshape(rows.shape)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
