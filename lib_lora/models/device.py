"""Which device the work runs on."""

from __future__ import annotations

import torch

from lib_lora.base.errors import StudioError


def used_memory_mb(device: torch.device) -> float:
    """The most memory so far that tensors took on a CUDA card; elsewhere what the process holds at present."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def choose_device(name: str) -> torch.device:
    """The device that an option names; "auto" takes a CUDA card, else Apple's, else the CPU.

    Raises:
        StudioError: there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StudioError(
            "no such device", field="device", came=name, allowed="auto, cpu, cuda, cuda:1, mps (as there are)"
        ) from error
    return device
