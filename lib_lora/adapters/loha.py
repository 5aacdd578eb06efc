"""LoHa: the elementwise product of two low-rank matrices (FedPara, arXiv 2108.06098): W' = W + s (A B) . (C D)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS
from lib_lora.adapters.ranked import RankedAdapter, rank_in
from lib_lora.adapters.rebuilt import rebuilt_product
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.compat_torch import autocast_dtype

# What an elementwise pass over a matrix costs beside a multiplication of a product, found by measurement.
_PASS = 25


@NETWORKS.register("LoHa")
class LoHaAdapter(RankedAdapter):
    """Laid out and initialised as LyCORIS' ``LohaModule``.

    A = ``hada_w1_a`` and C = ``hada_w2_a`` are [out, r], B = ``hada_w1_b`` and D = ``hada_w2_b`` [r, in * kh * kw]. In
    Tucker's form A and C are [r, out], B and D [r, in], and ``hada_t1``, ``hada_t2`` [r, r, kh, kw] stand between.

    (A B) . (C D) is also the product of [out, r * r] and [r * r, in], whose columns and rows are the elementwise
    products of all pairs. Few rows go through those two; many go through the matrix itself, which is made again in the
    backward pass.
    """

    has_dora = True
    needs = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
    may_have = frozenset({"alpha", "hada_t1", "hada_t2"})
    scaled_part = "hada_w1_a"
    takes_over = True

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
        super().__init__(target, rank, alpha, state, spec, scalar=scalar)
        device, size = target.layer.weight.device, target.in_size
        up = (rank, target.out_size) if tucker else (target.out_size, rank)
        down = (rank, size if tucker else size * target.positions)
        for number in "12":
            setattr(self, f"hada_w{number}_a", nn.Parameter(torch.zeros(up, device=device)))
            setattr(self, f"hada_w{number}_b", nn.Parameter(torch.empty(down, device=device)))
            core = nn.Parameter(torch.empty(rank, rank, *target.kernel, device=device)) if tucker else None
            setattr(self, f"hada_t{number}", core)

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> LoHaAdapter | None:
        given = spec.rank_of(target)
        if given is None:
            return None
        tucker = spec.use_tucker and target.is_spatial
        adapter = cls(target, *given, state, spec, tucker=tucker, scalar=spec.use_scalar)
        drawn = {"hada_w1_a": 0.1, "hada_w1_b": 1.0, "hada_w2_b": 1.0}
        drawn |= {"hada_t1": 0.1, "hada_t2": 0.1} if tucker else {}
        drawn |= {"hada_w2_a": 0.1} if spec.use_scalar else {}
        for name, deviation in drawn.items():
            adapter.draw(getattr(adapter, name), name, deviation=deviation)
        return adapter

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> LoHaAdapter:
        rank = rank_in(tensors, "hada_w1_b", target)
        adapter = cls(target, rank, rank, state, spec, tucker="hada_t1" in tensors)
        adapter.load(tensors)
        return adapter

    def delta(self, x: Tensor) -> Tensor:
        factors = self._factors()
        if self._is_thin(x, replaces=False):
            return self._thin(x, factors)
        return rebuilt_product(x, self.target.layer, self._build(1.0, None), factors)

    def run(self, x: Tensor, strength: float) -> Tensor:
        if not self.may_replace_weight or self._is_thin(x, replaces=True):
            return self.add_to(self.layer_forward(x), x, strength)
        layer = self.target.layer
        build = self._build(strength, self.base_weight())
        return rebuilt_product(x, layer, build, self._factors(), layer.bias).to(x.dtype)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(A, B, C, D) [out, r], [r, in * kh * kw], twice, A with all that the product is multiplied with."""
        with torch.autocast(self.hada_w1_a.device.type, enabled=False):
            a, b = self._pair("1")
            c, d = self._pair("2")
            return a * self.factor(), b, c, d

    def _pair(self, number: str) -> tuple[Tensor, Tensor]:
        a, b, core = (getattr(self, f"hada_{name}") for name in (f"w{number}_a", f"w{number}_b", f"t{number}"))
        return (a, b) if core is None else (a.t(), torch.einsum("ijkl,jr->irkl", core, b).flatten(1))

    def _build(self, strength: float, base: Tensor | None) -> Any:
        shape = self.target.layer.weight.shape

        def build(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
            change = ((a @ b) * (c @ d)).reshape(shape)
            return strength * change if base is None else base + strength * change

        return build

    def _is_thin(self, x: Tensor, *, replaces: bool) -> bool:
        """Whether the factors of rank r * r cost less for this input than the matrix."""
        out, columns = self.target.out_size, self.target.in_size * self.target.positions
        pairs = self.rank**2
        if pairs >= min(out, columns):
            return False
        rows = x.numel() // self.target.in_size
        if self.target.is_conv:
            rows //= self.target.layer.stride[0] ** 2
        thin = (3 * rows + 6 * _PASS) * pairs * (out + columns)
        dense = ((1 if replaces else 3) * rows + 8 * self.rank + 8 * _PASS) * out * columns
        return thin < dense

    def _thin(self, x: Tensor, factors: tuple[Tensor, ...]) -> Tensor:
        dtype = autocast_dtype(torch, x.device.type) or factors[0].dtype
        with torch.autocast(x.device.type, enabled=False):
            x, factors = x.to(dtype), [factor.to(dtype) for factor in factors]
            if not self.target.is_conv:
                return _Pairs.apply(x, *factors)
            up, down = pairs_of(*factors)
            ranks = self.product(x, down.reshape(-1, *self.target.layer.weight.shape[1:]))
            return F.conv2d(ranks, up[:, :, None, None])

    def column_squares(self, base: Tensor) -> Tensor:
        squares = _ColumnSquares.apply(base.flatten(1), *self._factors())
        return squares.reshape(self.target.in_size, -1).sum(1)

    def low_rank(self) -> tuple[Tensor, Tensor, float]:
        return *pairs_of(*self._factors()), 1.0

    def dense_delta(self) -> Tensor:
        return self._build(1.0, None)(*self._factors())

    def parts(self) -> dict[str, Tensor]:
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
        return {name: part for name in names if (part := getattr(self, name)) is not None}


def pairs_of(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """[out, r * r] and [r * r, in] whose product is (a b) . (c d): columns a_p . c_q and rows b_p . d_q."""
    return (a[:, :, None] * c[:, None, :]).flatten(1), (b[:, None, :] * d[None, :, :]).flatten(0, 1)


class _ColumnSquares(torch.autograd.Function):
    """The squared norms [columns] of W + (a b) . (c d), in pieces that a processor's cache holds, there and back."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(base, a, b, c, d)
        squares = base.new_zeros(base.shape[1])
        for rows in _pieces(base):
            squares += torch.addcmul(base[rows], a[rows] @ b, c[rows] @ d).square_().sum(0)
        return squares

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        base, a, b, c, d = ctx.saved_tensors
        of_a, of_b, of_c, of_d = (torch.zeros_like(factor) for factor in (a, b, c, d))
        for rows in _pieces(base):
            first, second = a[rows] @ b, c[rows] @ d
            of_first = torch.addcmul(base[rows], first, second).mul_(2 * grad)
            of_second = of_first * first
            of_first *= second
            of_a[rows], of_c[rows] = of_first @ b.t(), of_second @ d.t()
            of_b += a[rows].t() @ of_first
            of_d += c[rows].t() @ of_second
        return None, of_a, of_b, of_c, of_d


def _pieces(matrix: Tensor) -> list[slice]:
    """Rows of half a megabyte on a processor, all of them on a card."""
    size = max(1, 2**17 // matrix.shape[1]) if matrix.device.type == "cpu" else len(matrix)
    return [slice(start, start + size) for start in range(0, len(matrix), size)]


class _Pairs(torch.autograd.Function):
    """x [..., in] through both matrices of ``pairs_of``, which the backward pass makes again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        up, down = pairs_of(a, b, c, d)
        ranks = F.linear(x, down)
        ctx.save_for_backward(x, ranks, a, b, c, d)
        return F.linear(ranks, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, ranks, a, b, c, d = ctx.saved_tensors
        up, down = pairs_of(a, b, c, d)
        grad_ranks = grad @ up
        grad_x = grad_ranks @ down if ctx.needs_input_grad[0] else None
        rows, size = grad.reshape(-1, grad.shape[-1]), a.shape[1]
        grad_up = (rows.t() @ ranks.reshape(len(rows), -1)).unflatten(1, (size, size))
        grad_down = (grad_ranks.reshape(len(rows), -1).t() @ x.reshape(len(rows), -1)).unflatten(0, (size, size))
        return (
            grad_x,
            torch.einsum("opq,oq->op", grad_up, c),
            torch.einsum("pqi,qi->pi", grad_down, d),
            torch.einsum("opq,op->oq", grad_up, a),
            torch.einsum("pqi,pi->qi", grad_down, b),
        )
