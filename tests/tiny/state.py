"""Random tensors by name."""

from __future__ import annotations

import torch


class State(dict):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def tensor(self, name: str, *shape: int, scale: float | None = None) -> None:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        scale = fan_in**-0.5 if scale is None else scale
        self[name] = torch.randn(shape, generator=self.generator) * scale

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self.tensor(f"{name}.weight", *shape)
        if bias:
            self.tensor(f"{name}.bias", shape[0], scale=0.05)

    def norm(self, name: str, channels: int) -> None:
        self[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=self.generator)
        self.tensor(f"{name}.bias", channels, scale=0.1)


class MetaState(State):
    """Tensors of shape alone, for full-size checkpoints."""

    def __init__(self) -> None:
        super().__init__(seed=0)

    def tensor(self, name: str, *shape: int, scale: float | None = None) -> None:
        self[name] = torch.empty(shape, device="meta")

    def norm(self, name: str, channels: int) -> None:
        self.tensor(f"{name}.weight", channels)
        self.tensor(f"{name}.bias", channels)
