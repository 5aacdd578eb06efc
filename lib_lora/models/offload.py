"""Which parts of a model are on the card: those that are needed next, and the others wait in main memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lib_lora.models.model import DiffusionModel

_MAIN_MEMORY = torch.device("cpu")


def keep_on_card(model: DiffusionModel, *parts: torch.nn.Module) -> None:
    """These parts are where the model is, the others are in main memory.

    Nothing is moved of a borrowed model, nor of one that is in main memory as a whole.
    """
    if model.borrowed or model.device == _MAIN_MEMORY:
        return
    wanted = [any(module is part for part in parts) for module in model.modules()]
    # Those that leave go first: there may be no room for all.
    for module, stays in sorted(zip(model.modules(), wanted), key=lambda pair: pair[1]):
        device = model.device if stays else _MAIN_MEMORY
        if next(module.parameters()).device.type != device.type:
            torch.nn.Module.to(module, device)  # diffusers' own method warns of half precision on the CPU
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # else the card still looks full to other programs


def bring_back(model: DiffusionModel) -> None:
    """Every part is where the model is."""
    keep_on_card(model, *model.modules())


@contextmanager
def whole(model: DiffusionModel) -> Iterator[None]:
    """For a while every part is where the model is."""
    there = [module for module in model.modules() if next(module.parameters()).device.type == model.device.type]
    bring_back(model)
    try:
        yield
    finally:
        keep_on_card(model, *there)
