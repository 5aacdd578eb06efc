"""Which parts of a model are on the card: those that are needed next, and the others wait in main memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lib_lora.models.model import DiffusionModel
from lib_lora.models.sharing import share

_MAIN_MEMORY = torch.device("cpu")


def keep_on_card(model: DiffusionModel, *parts: torch.nn.Module) -> None:
    """These parts are where the model is, the others are in main memory.

    Nothing is moved of a borrowed model, unless it is resting, nor of one that is in main memory as a whole.
    """
    if model.device == _MAIN_MEMORY or (model.borrowed and model.resting is None):
        return
    wanted = [any(module is part for part in parts) for module in model.modules()]
    # Those that leave go first: there may be no room for all.
    for index, stays in sorted(enumerate(wanted), key=lambda pair: pair[1]):
        module, device = model.modules()[index], model.device if stays else _MAIN_MEMORY
        if next(module.parameters()).device.type == device.type:
            continue
        if stays or model.resting is None:
            torch.nn.Module.to(module, device)  # diffusers' own method warns of half precision on the CPU
        else:
            share(module, model.resting[index])
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # else the card still looks full to other programs


def bring_back(model: DiffusionModel) -> None:
    """Every part is where it was before any was moved: where the model is, or at rest."""
    keep_on_card(model, *([] if model.resting else model.modules()))


@contextmanager
def whole(model: DiffusionModel) -> Iterator[None]:
    """For a while every part is where the model is."""
    there = _on_card(model)
    keep_on_card(model, *model.modules())
    try:
        yield
    finally:
        keep_on_card(model, *there)


@contextmanager
def brought_back(model: DiffusionModel) -> Iterator[None]:
    """For a while every part is where it was before any was moved: its owner may use it."""
    there = _on_card(model)
    bring_back(model)
    try:
        yield
    finally:
        keep_on_card(model, *there)


def _on_card(model: DiffusionModel) -> list[torch.nn.Module]:
    return [module for module in model.modules() if next(module.parameters()).device.type == model.device.type]
