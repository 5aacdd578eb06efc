"""LoKr: a Kronecker product (KronA, arXiv 2212.10650; LyCORIS, arXiv 2309.14859): W' = W + s kron(w1, w2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, compute_input
from lib_lora.adapters.ranked import RankedAdapter
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError

_W1, _W2 = ("lokr_w1", "lokr_w1_a", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


@NETWORKS.register("LoKr")
class LoKrAdapter(RankedAdapter):
    """Laid out and initialised as LyCORIS' ``LokrModule``; what goes through it never meets the product.

    w1 [o1, i1] is ``lokr_w1``, or ``lokr_w1_a`` [o1, r] times ``lokr_w1_b`` [r, i1]; w2 [o2, i2, kh, kw] is
    ``lokr_w2``, or ``lokr_w2_a`` [o2, r] times ``lokr_w2_b`` [r, i2 * kh * kw], or in Tucker's form ``lokr_w2_a``
    [r, o2], ``lokr_t2`` [r, r, kh, kw] and ``lokr_w2_b`` [r, i2]. out = o1 o2, in = i1 i2.
    """

    has_dora = True
    needs = frozenset()
    may_have = frozenset({*_W1, *_W2, "alpha"})

    def __init__(
        self,
        target: Target,
        shapes: Mapping[str, tuple[int, ...]],
        rank: int,
        alpha: float,
        state: NetworkState,
        spec: NetworkSpec | None = None,
        *,
        scalar: bool = False,
    ) -> None:
        super().__init__(target, rank, alpha, state, spec, scalar=scalar)
        for name in (*_W1, *_W2):
            shape = shapes.get(name)
            empty = None if shape is None else torch.empty(shape, device=target.layer.weight.device)
            setattr(self, name, None if empty is None else nn.Parameter(empty))

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> LoKrAdapter | None:
        given = spec.rank_of(target)
        if given is None:
            return None
        rank, alpha = given
        shapes = _shapes(target, rank, spec)
        if "lokr_w1" in shapes and "lokr_w2" in shapes:
            alpha = rank  # without a rank there is nothing to scale by
        adapter = cls(target, shapes, rank, alpha, state, spec, scalar=spec.use_scalar)
        zero = None if spec.use_scalar else "lokr_w2" if "lokr_w2" in shapes else "lokr_w2_b"
        for name in shapes:
            if name == zero:
                nn.init.zeros_(getattr(adapter, name))
            else:
                adapter.draw(getattr(adapter, name), name)
        return adapter

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> LoKrAdapter:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "alpha"}
        # As the WebUI has it: of w2 where both are of low rank.
        factor = shapes.get("lokr_w2_b", shapes.get("lokr_w1_b", (1,)))
        adapter = cls(target, shapes, factor[0] or 1, 1.0, state, spec)
        if adapter._product_size() != (target.out_size, target.in_size * target.positions):
            raise StudioError(
                "does not fit: the LoRA is for another model family",
                field=target.key,
                came=list(adapter._product_size()),
                allowed=f"factors of {[target.out_size, target.in_size * target.positions]}",
            )
        adapter.load(tensors)
        return adapter

    @classmethod
    def owns(cls, suffixes: Iterable[str]) -> bool:
        found = set(suffixes)
        whole = [f"lokr_w{number}" in found or {f"lokr_w{number}_a", f"lokr_w{number}_b"} <= found for number in "12"]
        return all(whole) and found <= cls.may_have

    @property
    def scaled_part(self) -> str:
        return "lokr_w1" if self.lokr_w1_a is None else "lokr_w1_a"

    def _w1(self) -> Tensor:
        """[o1, i1], with all that the product is multiplied with."""
        w1 = self.lokr_w1 if self.lokr_w1_a is None else self.lokr_w1_a @ self.lokr_w1_b
        return w1 * self.factor()

    def _w2(self) -> Tensor:
        """[o2, i2, kh, kw] or [o2, i2]."""
        if self.lokr_w2 is not None:
            return self.lokr_w2
        if self.lokr_t2 is not None:
            return torch.einsum("ijkl,ip,jr->prkl", self.lokr_t2, self.lokr_w2_a, self.lokr_w2_b)
        w2 = self.lokr_w2_a @ self.lokr_w2_b
        return w2.reshape(len(w2), -1, *self.target.kernel)

    def _product_size(self) -> tuple[int, int]:
        with torch.no_grad():
            (o1, i1), (o2, i2) = self._w1().shape, self._w2().flatten(1).shape
        return o1 * o2, i1 * i2

    def delta(self, x: Tensor) -> Tensor:
        """x [..., i1 * i2] as [..., i1, i2]: w1 from one side, w2 from the other."""
        w1 = self._w1()
        x = compute_input(x, w1.dtype)
        if self.target.is_conv:
            batch, _, *size = x.shape
            x = self._w2_conv(x.reshape(batch * w1.shape[1], -1, *size))
            x = torch.einsum("pi,bi...->bp...", w1, x.unflatten(0, (batch, w1.shape[1])))
            return x.flatten(1, 2)
        x = x.unflatten(-1, (w1.shape[1], -1))
        if self.lokr_w2 is None:
            x = F.linear(x, self.lokr_w2_b)  # before w1: the ranks are fewer than the outputs
        x = torch.einsum("pi,...ir->...pr", w1, x)
        return F.linear(x, self.lokr_w2 if self.lokr_w2 is not None else self.lokr_w2_a).flatten(-2)

    def _w2_conv(self, x: Tensor) -> Tensor:
        """[n, i2, h, w] to [n, o2, h', w']."""
        if self.lokr_w2 is not None:
            return self.product(x, self.lokr_w2)
        ones = (1,) * len(self.target.kernel)
        if self.lokr_t2 is not None:
            down, up = self.lokr_w2_b.reshape(*self.lokr_w2_b.shape, *ones), self.lokr_w2_a.t()
            ranks = self.product(F.conv2d(x, down), self.lokr_t2)
        else:
            up = self.lokr_w2_a
            ranks = self.product(x, self.lokr_w2_b.reshape(self.lokr_w2_b.shape[0], -1, *self.target.kernel))
        return F.conv2d(ranks, up.reshape(*up.shape, *ones))

    def dense_delta(self) -> Tensor:
        return torch.einsum("pi,qj->pqij", self._w1(), self._w2().flatten(1)).reshape(self.target.layer.weight.shape)

    def low_rank(self) -> tuple[Tensor, Tensor, float]:
        raise NotImplementedError("a Kronecker product of low rank has larger factors than itself")

    def column_squares(self, base: Tensor) -> Tensor:
        """|W + kron(w1, w2)|^2 of each input column, from W's products with either: the change is not made."""
        w1, w2 = self._w1(), self._w2().reshape(self._w2().shape[0], self._w2().shape[1], -1)
        (o1, i1), (o2, i2, _) = w1.shape, w2.shape
        # As a product and a sum: einsum would keep a turned copy of W for the backward pass.
        through = (base.reshape(o1, o2, i1, i2, -1) * w2[:, None]).sum((1, 4))
        both = (through * w1[..., None]).sum(0)
        change = torch.outer(w1.square().sum(0), w2.square().sum((0, 2)))
        return self.base_squares(base) + (2 * both + change).flatten()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        if self.lokr_w1 is not None and self.lokr_w2 is not None:
            self.alpha = float(self.rank)  # WebUI and LyCORIS: two whole matrices have no scale

    def parts(self) -> dict[str, Tensor]:
        return {name: part for name in (*_W1, *_W2) if (part := getattr(self, name)) is not None}


def _shapes(target: Target, rank: int, spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    (o1, o2), (i1, i2) = (factors_of(size, spec.factor) for size in (target.out_size, target.in_size))
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.decompose_both and rank < max(o1, i1) / 2 and not spec.full_matrix:
        shapes |= {"lokr_w1_a": (o1, rank), "lokr_w1_b": (rank, i1)}
    else:
        shapes |= {"lokr_w1": (o1, i1)}
    if rank >= max(o2, i2) / 2 or spec.full_matrix:
        return shapes | {"lokr_w2": (o2, i2, *target.kernel)}
    if spec.use_tucker and target.is_spatial:
        return shapes | {
            "lokr_t2": (rank, rank, *target.kernel),
            "lokr_w2_a": (rank, o2),
            "lokr_w2_b": (rank, i2),
        }
    return shapes | {"lokr_w2_a": (o2, rank), "lokr_w2_b": (rank, i2 * target.positions)}


def factors_of(size: int, wanted: int = -1) -> tuple[int, int]:
    """``size`` as a smaller times a larger whole number, the smaller as large as it gets, at most ``wanted`` (-1: any).

    A ``wanted`` that divides ``size`` is one of the two (LyCORIS, functional/general.py, ``factorization``).
    """
    if wanted > 0 and size % wanted == 0:
        return min(wanted, size // wanted), max(wanted, size // wanted)
    most = size if wanted < 0 else wanted
    smaller = max(each for each in range(1, int(size**0.5) + 1) if size % each == 0 and each <= most)
    return smaller, size // smaller
