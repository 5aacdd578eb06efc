"""DyLoRA: a LoRA whose first ranks are the most important ones, so that it may be cut to any of them later."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lib_lora.adapters.base import NETWORKS
from lib_lora.adapters.lora import Factors, LoraAdapter
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError


@NETWORKS.register("DyLoRA")
class DyLoraAdapter(LoraAdapter):
    """Valipour et al., arXiv 2210.07558: each step draws b units, only they act, and only the last of them learns.

    The scale of b units is alpha / r * sqrt(r / b), as in kohya-ss/sd-scripts 48d368f, networks/dylora.py: at full rank
    it is a LoRA's, which the file holds. Outside training all ranks act.
    """

    has_dora = False

    def __init__(
        self, target: Target, rank: int, alpha: float, state: NetworkState, spec: NetworkSpec | None = None
    ) -> None:
        super().__init__(target, rank, alpha, state, spec)
        unit = spec.unit if spec else 1
        if rank % unit:
            raise StudioError("does not divide the rank", field="unit", came=unit, allowed=f"a divisor of {rank}")
        # Apart, so that what does not learn has no gradient, rather than one of 0, by which optimizers would move it.
        self.downs = nn.ParameterList(nn.Parameter(each.clone()) for each in self.lora_down.detach().split(unit))
        self.ups = nn.ParameterList(nn.Parameter(each.clone()) for each in self.lora_up.detach().split(unit, 1))
        del self.lora_down, self.lora_up
        self.unit = unit

    @classmethod
    def create(cls, target: Target, spec: NetworkSpec, state: NetworkState) -> DyLoraAdapter | None:
        given = spec.rank_of(target)
        if given is None:
            return None
        adapter = cls(target, *given, state, spec)
        whole = torch.empty(adapter.rank, *adapter.downs[0].shape[1:], device=adapter.downs[0].device)
        adapter.draw(whole)
        _fill(adapter.downs, whole.split(adapter.unit))
        return adapter

    def factors(self) -> Factors:
        if not self.training:
            return self._first(len(self.ups), self.ups, self.downs)
        draw = torch.randint(len(self.ups), (), generator=self.generator("rank")).item()
        ups, downs = ([*(each.detach() for each in own[:draw]), own[draw]] for own in (self.ups, self.downs))
        return self._first(draw + 1, ups, downs)

    def _first(self, units: int, ups: Iterable[Tensor], downs: Iterable[Tensor]) -> Factors:
        scale = self.scale * math.sqrt(self.rank / (units * self.unit))
        return Factors(torch.cat(list(ups), 1), None, torch.cat(list(downs)), scale)

    def parts(self) -> dict[str, Tensor]:
        return {"lora_up.weight": torch.cat(list(self.ups), 1), "lora_down.weight": torch.cat(list(self.downs))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        up, down = (self.fitted(suffix, tensors, part) for suffix, part in self.parts().items())
        _fill(self.ups, up.split(self.unit, 1))
        _fill(self.downs, down.split(self.unit))
        self.take_alpha(tensors)

    def plus_parameters(self) -> list[nn.Parameter]:
        return list(self.ups)

    def note(self) -> str | None:
        return None


@torch.no_grad()
def _fill(parameters: Iterable[nn.Parameter], values: Iterable[Tensor]) -> None:
    for parameter, own in zip(parameters, values):
        parameter.copy_(own)
