"""DoRA on top of another type: directions and magnitudes learn apart (Liu et al., arXiv 2402.09353)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib_lora.adapters.base import NETWORKS, Adapter, compute_input
from lib_lora.adapters.ranked import RankedAdapter
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target

SCALE = "dora_scale"
# The least squared norm to divide by: what has no weights, in pruned checkpoints, stays 0 until it learns.
_LEAST = torch.finfo(torch.float32).tiny


class DoraAdapter(Adapter):
    """W' = (W + dW) . m / |W + dW|, the norm by input columns, m = ``dora_scale`` [1, in, ...]: the WebUI's axis.

    A factor of each column is a factor of each input: with q = m / |W + dW| it is W (x q) + dW (x q), and the layer
    itself multiplies W. A strength s between 0 and 1 is the way from W to W': x (1 - s + s q) meets W, s x q meets dW.
    """

    takes_over = True

    def __init__(self, inner: RankedAdapter, state: NetworkState) -> None:
        super().__init__(inner.target, state, inner.module_dropout)
        inner.module_dropout = 0.0
        self.inner = inner
        norms = inner.base_squares(inner.base_weight()).sqrt()
        self.dora_scale = nn.Parameter(norms.reshape(1, -1, *[1] * len(self.target.kernel)).clone())

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> DoraAdapter | None:
        inner = NETWORKS.get(spec.network_type).create(target, spec, state)
        return None if inner is None else cls(inner, state)

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> DoraAdapter:
        adapter = cls(_inner_kind(tensors).from_tensors(target, tensors, spec, state), state)
        adapter.load(tensors)
        return adapter

    @classmethod
    def owns(cls, suffixes: Iterable[str]) -> bool:
        return _inner_kind(suffixes) is not None

    def _shares(self) -> Tensor:
        """q [in], [in, 1, 1] for convolutions."""
        with torch.autocast(self.dora_scale.device.type, enabled=False):
            norms = self._column_squares().clamp_min(_LEAST).sqrt()
            return self.dora_scale[0] / norms.reshape(self.dora_scale.shape[1:])

    def _column_squares(self) -> Tensor:
        if self.target.layer.weight.dtype == torch.float32:
            return self.inner.column_squares(self.base_weight())

        def squares() -> Tensor:
            return self.inner.column_squares(self.base_weight())

        # Made again in the backward pass: to keep each layer's cast weight until then would cost a second model.
        return checkpoint(squares, use_reentrant=False, preserve_rng_state=False)

    def run(self, x: Tensor, strength: float) -> Tensor:
        shares = self._shares()
        output = self.layer_forward((x * (1 - strength + strength * shares)).to(x.dtype))
        return self.inner.add_to(output, (x * shares).to(x.dtype), strength)

    def delta(self, x: Tensor) -> Tensor:
        shares = self._shares()
        x = compute_input(x, shares.dtype)
        base = self.product(x * (shares - 1), self.target.layer.weight.detach().to(x.dtype))
        return base + self.inner.delta((x * shares).to(x.dtype))

    def dense_delta(self) -> Tensor:
        base = self.base_weight()
        return (base + self.inner.dense_delta()) * self._shares() - base

    def parts(self) -> dict[str, Tensor]:
        return {**self.inner.parts(), SCALE: self.dora_scale}

    def state_tensors(self) -> dict[str, Tensor]:
        return {**self.inner.state_tensors(), SCALE: self.dora_scale.detach()}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        self.fitted(SCALE, tensors, self.dora_scale)
        self.inner.check(tensors)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        magnitudes = self.fitted(SCALE, tensors, self.dora_scale)
        self.inner.load(tensors)
        with torch.no_grad():
            self.dora_scale.copy_(magnitudes)

    def plus_parameters(self) -> list[nn.Parameter]:
        return self.inner.plus_parameters()

    def note(self) -> str | None:
        empty = int((self.inner.base_squares(self.base_weight()) == 0).sum())
        if not empty:
            return self.inner.note()
        return (
            f"{self.target.module_name}: the checkpoint has no weights for {empty} of its inputs; the WebUI divides by "
            "their norm, and gives no picture with a DoRA that has learned nothing for them"
        )


def _inner_kind(suffixes: Iterable[str]) -> type[RankedAdapter] | None:
    """The type that a file's suffixes are of beside the magnitudes, None where it has no DoRA, or there are none."""
    found = set(suffixes)
    kinds = [NETWORKS.get(name) for name in NETWORKS]
    fitting = (kind for kind in kinds if kind.has_dora and kind.owns(found - {SCALE}))
    return next(fitting, None) if SCALE in found else None
