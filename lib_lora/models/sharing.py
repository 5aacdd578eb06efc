"""Tensors of somebody's become a module's parameters: shared, frozen, and nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def share(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Let ``tensors`` be the module's parameters of these names.

    As ``load_state_dict(..., assign=True)`` does, which takes a tenth of a second for each part of a checkpoint.
    """
    owners = dict(module.named_modules())
    for key, tensor in tensors.items():
        owner, _, name = key.rpartition(".")
        owners[owner]._parameters[name] = torch.nn.Parameter(tensor.detach(), requires_grad=False)


def parameters_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What ``share`` takes: the module's parameters as they are now."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}
