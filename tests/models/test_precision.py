"""Weights that stay in half precision: what is computed of them, and which copies are made."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib_lora.models.precision import cast_on_use

WIDE = torch.float32


class Made(TorchDispatchMode):
    """The dtypes of the tensors of a shape that are made meanwhile."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.dtypes = shape, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and tuple(made.shape) == self.shape and "copy" in str(function):
            self.dtypes.append(made.dtype)
        return made


def layers() -> list[tuple[nn.Module, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = [
        (nn.Linear(6, 5), torch.randn(3, 6, generator=generator)),
        (nn.Conv2d(4, 5, 3, stride=2, padding=1), torch.randn(2, 4, 7, 7, generator=generator)),
    ]
    for layer, _ in made:
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        layer.bfloat16().requires_grad_(False)
    return made


def reference(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """In float64 of the very weights."""
    weight, bias = layer.weight.double(), layer.bias.double()
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x.double(), weight, bias, layer.stride, layer.padding)
    return F.linear(x.double(), weight, bias)


@pytest.mark.parametrize("index", [0, 1])
def test_products_and_gradients_are_those_of_the_cast_weights(index):
    layer, x = layers()[index]
    cast_on_use(layer, WIDE)
    here, there = x.clone().requires_grad_(), x.double().requires_grad_()
    found, wanted = layer(here), reference(layer, there)
    assert found.dtype is WIDE
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert torch.allclose(here.grad.double(), there.grad, atol=1e-3)


@pytest.mark.parametrize("index", [0, 1])
def test_under_autocast_weights_of_its_type_are_not_copied(index):
    layer, x = layers()[index]
    cast_on_use(layer, WIDE)
    with Made(tuple(layer.weight.shape)) as made, torch.autocast("cpu", dtype=torch.bfloat16):
        x.requires_grad_()
        found = layer(x)
        found.float().sum().backward()
    assert found.dtype is torch.bfloat16
    assert made.dtypes == []
    assert torch.allclose(found.double(), reference(layer, x), rtol=0.05, atol=0.1)
    assert x.grad.dtype is WIDE and bool(x.grad.abs().sum())


def test_weights_of_the_wanted_type_are_left_alone():
    layer = nn.Linear(3, 3)
    cast_on_use(layer, WIDE)
    assert "forward" not in vars(layer)
