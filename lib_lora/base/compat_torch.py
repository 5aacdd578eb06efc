"""What differs between versions of PyTorch, which is handed in: this room loads no heavy library."""

from __future__ import annotations

from typing import Any


def autocast_dtype(torch: Any, device: str) -> Any:
    """The ``torch.dtype`` that autocast casts to on a kind of device, None where it is off."""
    if hasattr(torch, "get_autocast_dtype"):  # PyTorch 2.4
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
