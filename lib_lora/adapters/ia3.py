"""(IA)^3: each output of a layer, or each input, grows or shrinks by a share of its own (arXiv 2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS, Adapter, compute_input
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError

# As in the paper: outputs of the layers that make keys, values and so on, inputs of the second layer of a feed-forward.
_ON_INPUT = ("ff.net.2", "mlp.fc2")


@NETWORKS.register("IA3")
class IA3Adapter(Adapter):
    """W' = W . (1 + w) by rows, or by columns where ``on_input``; ``weight`` is [out], [in], or [1, in, 1, 1].

    Of convolutions the WebUI reads changes of columns alone.
    """

    needs = frozenset({"weight", "on_input"})
    takes_over = True

    def __init__(self, target: Target, on_input: bool, state: NetworkState, spec: NetworkSpec | None = None) -> None:
        super().__init__(target, state, spec.module_dropout if spec else None)
        self.on_input = on_input
        size = target.in_size if on_input else target.out_size
        shape = (1, size, *[1] * len(target.kernel)) if target.is_conv else (size,)
        self.weight = nn.Parameter(torch.zeros(shape, device=target.layer.weight.device))

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> IA3Adapter | None:
        if spec.rank_of(target) is None:
            return None
        return cls(target, target.is_conv or target.module_name.endswith(_ON_INPUT), state, spec)

    @classmethod
    def from_tensors(
        cls, target: Target, tensors: Mapping[str, Tensor], spec: NetworkSpec | None, state: NetworkState
    ) -> IA3Adapter:
        adapter = cls(target, bool(tensors["on_input"]), state, spec)
        adapter.load(tensors)
        return adapter

    def run(self, x: Tensor, strength: float) -> Tensor:
        if not self.on_input:
            return self.add_to(self.layer_forward(x), x, strength)
        return self.layer_forward((x * (1 + strength * self.weight)).to(x.dtype))

    def add_to(self, output: Tensor, x: Tensor, strength: float) -> Tensor:
        if self.on_input:
            return super().add_to(output, x, strength)
        bias = self.target.layer.bias
        plain = output if bias is None else output - self._as_output(bias)
        return output + (plain * (strength * self._as_output(self.weight))).to(output.dtype)

    def _as_output(self, values: Tensor) -> Tensor:
        return values.reshape(1, -1, 1, 1) if self.target.is_conv else values

    def delta(self, x: Tensor) -> Tensor:
        x = compute_input(x, self.weight.dtype)
        base = self.target.layer.weight.detach().to(x.dtype)
        if self.on_input:
            return self.product(x * self.weight, base)
        return self.product(x, base) * self._as_output(self.weight)

    def dense_delta(self) -> Tensor:
        base = self.base_weight()
        return base * self.weight.reshape(*((1, -1) if self.on_input else (-1, 1)), *[1] * len(self.target.kernel))

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        super().check(tensors)
        if bool(tensors["on_input"]) != self.on_input:
            raise StudioError(
                "does not fit: one changes the layer's inputs, the other its outputs",
                field=f"{self.key}.on_input",
                came=int(tensors["on_input"]),
                allowed=str(int(self.on_input)),
            )

    def parts(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def state_tensors(self) -> dict[str, Tensor]:
        return {**super().state_tensors(), "on_input": torch.tensor(int(self.on_input))}
