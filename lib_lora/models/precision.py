"""Frozen weights that stay in the precision of the file or of the host, and are cast where they are used."""

from __future__ import annotations

from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn

from lib_lora.base.compat_torch import autocast_dtype


def cast_on_use(module: nn.Module, dtype: torch.dtype) -> None:
    """Let every layer of ``module`` whose weights are not in ``dtype`` cast them in its forward.

    The stored weights are neither changed nor copied, and no cast weight outlives its layer: the backward
    pass casts again instead of keeping the forward's copy alive (which would cost a whole second model).
    """
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        forward = _FORWARDS.get(type(layer))
        if forward is not None and weight is not None and weight.dtype != dtype:
            layer.compute_dtype = dtype
            layer.forward = MethodType(forward, layer)


class _Linear(torch.autograd.Function):
    """x [..., in] -> x W^T + b [..., out]; the gradient of x alone, the weights are frozen."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return grad @ weight.to(grad.dtype), None, None


class _Conv2d(torch.autograd.Function):
    """x [B,in,h,w] -> conv(x, W) + b [B,out,h',w']; the gradient of x alone."""

    @staticmethod
    def forward(ctx, x, weight, bias, geometry):
        ctx.save_for_backward(weight)
        ctx.x_shape, ctx.geometry = x.shape, geometry
        return F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *geometry)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        grad_x = torch.nn.grad.conv2d_input(ctx.x_shape, weight.to(grad.dtype), grad, *ctx.geometry)
        return grad_x, None, None, None


def _product_dtype(self: nn.Module, device: str) -> torch.dtype:
    """Of products: autocast's where it is on, which would cast what came in another type once more."""
    return autocast_dtype(torch, device) or self.compute_dtype


def _linear(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return _Linear.apply(x.to(_product_dtype(self, x.device.type)), self.weight, self.bias)


def _conv2d(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    geometry = (self.stride, self.padding, self.dilation, self.groups)
    return _Conv2d.apply(x.to(_product_dtype(self, x.device.type)), self.weight, self.bias, geometry)


def _affine(self: nn.Module) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    dtype = self.compute_dtype
    return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


def _group_norm(self: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    return F.group_norm(x.to(self.compute_dtype), self.num_groups, *_affine(self), self.eps)


def _layer_norm(self: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.to(self.compute_dtype), self.normalized_shape, *_affine(self), self.eps)


def _embedding(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, self.weight).to(self.compute_dtype)


_FORWARDS = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}
