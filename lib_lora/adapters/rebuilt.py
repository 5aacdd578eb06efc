"""A layer's product with a weight that is made of smaller tensors, and made again instead of being kept.

Autograd would keep each made weight until the backward pass: a second model in memory, and its parts beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lora.base.compat_torch import autocast_dtype

Build = Callable[..., Tensor]


def rebuilt_product(
    x: Tensor, layer: nn.Linear | nn.Conv2d, build: Build, parameters: Sequence[Tensor], bias: Tensor | None = None
) -> Tensor:
    """``x`` through ``layer`` with the weight ``build(*parameters)`` [out, in, ...] and ``bias``, differentiable by x
    and the parameters."""
    dtype = autocast_dtype(torch, x.device.type) or parameters[0].dtype
    geometry = (layer.stride, layer.padding, layer.dilation) if isinstance(layer, nn.Conv2d) else None
    with torch.autocast(x.device.type, enabled=False):
        bias = None if bias is None else bias.to(dtype)
        return _Rebuilt.apply(x.to(dtype), bias, build, geometry, *parameters)


class _Rebuilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, build: Build, geometry: Any, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parameters)
        ctx.build, ctx.geometry = build, geometry
        weight = build(*parameters).to(x.dtype)
        return F.linear(x, weight, bias) if geometry is None else F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            own = [parameter.detach().requires_grad_() for parameter in parameters]
            weight = ctx.build(*own)
        used = weight.detach().to(x.dtype)
        grad_x, grad_weight = _gradients(grad, x, used, ctx.geometry, ctx.needs_input_grad[0])
        grads = torch.autograd.grad(weight, own, grad_weight.to(weight.dtype))
        return grad_x, None, None, None, *grads


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, geometry: Any, wants_x: bool) -> tuple[Tensor | None, Tensor]:
    """Of the product's input and of its weight."""
    if geometry is None:
        rows = grad.reshape(-1, grad.shape[-1])
        return grad @ weight if wants_x else None, rows.t() @ x.reshape(-1, x.shape[-1])
    grad_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, *geometry) if wants_x else None
    return grad_x, torch.nn.grad.conv2d_weight(x, weight.shape, grad, *geometry)
