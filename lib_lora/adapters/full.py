"""Changes that are not made of anything smaller: of whole weights, and of normalisation layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, Adapter
from lib_lora.adapters.rebuilt import rebuilt_product
from lib_lora.adapters.spec import TEXT_ENCODER, NetworkSpec, NetworkState, Target

# The WebUI leaves out the biases of these in open_clip's attention.
_WITHOUT_BIAS = ("q_proj", "k_proj", "v_proj")


class _Difference(Adapter):
    """A difference of a layer's weight, and of its bias where it has one."""

    takes_over = True
    names: tuple[str, str]  # of both in files

    def __init__(self, target: Target, has_bias: bool, state: NetworkState, spec: NetworkSpec | None = None) -> None:
        super().__init__(target, state, spec.module_dropout if spec else None)
        weight = target.layer.weight
        self.weight = nn.Parameter(torch.zeros(weight.shape, device=weight.device))
        self.bias = nn.Parameter(torch.zeros(len(weight), device=weight.device)) if has_bias else None

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> _Difference:
        adapter = cls(target, cls.names[1] in tensors, state, spec)
        adapter.load(tensors)
        return adapter

    def dense_delta(self) -> Tensor:
        return self.weight

    def bias_delta(self) -> Tensor | None:
        return self.bias

    def changed_bias(self, strength: float) -> Tensor | None:
        own = self.target.layer.bias
        if self.bias is None:
            return own
        return strength * self.bias if own is None else own.float() + strength * self.bias

    def parts(self) -> dict[str, Tensor]:
        return {name: part for name, part in zip(self.names, (self.weight, self.bias)) if part is not None}


@NETWORKS.register("Full")
class FullAdapter(_Difference):
    """W' = W + D, b' = b + d: as much to learn as there is, and a file as large as the layers."""

    needs = frozenset({"diff"})
    may_have = frozenset({"diff_b"})
    names = ("diff", "diff_b")

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> FullAdapter | None:
        if spec.rank_of(target) is None:
            return None
        is_left_out = target.part == TEXT_ENCODER and target.module_name.endswith(_WITHOUT_BIAS)
        return cls(target, target.layer.bias is not None and not is_left_out, state, spec)

    def delta(self, x: Tensor) -> Tensor:
        change = rebuilt_product(x, self.target.layer, lambda weight: weight, [self.weight])
        return change if self.bias is None else change + self._as_output(self.bias)

    def run(self, x: Tensor, strength: float) -> Tensor:
        if not self.may_replace_weight:
            return super().run(x, strength)
        base = self.base_weight()
        output = rebuilt_product(x, self.target.layer, lambda weight: base + strength * weight, [self.weight])
        bias = self.changed_bias(strength)
        return output.to(x.dtype) if bias is None else (output + self._as_output(bias)).to(x.dtype)

    def _as_output(self, values: Tensor) -> Tensor:
        return values.reshape(1, -1, 1, 1) if self.target.is_conv else values


class NormAdapter(_Difference):
    """Of a LayerNorm or GroupNorm: its weight and bias."""

    needs = frozenset({"w_norm", "b_norm"})
    names = ("w_norm", "b_norm")

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> NormAdapter | None:
        return None if spec.leaves_out_block(target) else cls(target, True, state, spec)

    def delta(self, x: Tensor) -> Tensor:
        return self._normalised(x, self.weight, self.bias)

    def run(self, x: Tensor, strength: float) -> Tensor:
        if not self.may_replace_weight:
            return super().run(x, strength)
        return self._normalised(x, self.base_weight() + strength * self.weight, self.changed_bias(strength)).to(x.dtype)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        layer = self.target.layer
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm(x.to(weight.dtype), layer.num_groups, weight, bias, layer.eps)
        return F.layer_norm(x.to(weight.dtype), layer.normalized_shape, weight, bias, layer.eps)
