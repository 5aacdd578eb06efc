"""Computing in half precision while weights to be trained stay in single."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F

from lib_lora.base.errors import StudioError

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """Under which the forward pass runs; ``mixed_precision`` is "no", "fp16" or "bf16"."""
    dtype = _DTYPES.get(mixed_precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def check_precision(device: torch.device, mixed_precision: str) -> None:
    """That this torch computes so on this device.

    Raises:
        StudioError: it does not: fp16 on the CPU before torch 2.3, or bf16 on an old card.
    """
    if mixed_precision in _DTYPES and not _computes(device, mixed_precision):
        raise StudioError(
            f"torch {torch.__version__} does not compute so on {device.type}",
            field="mixed_precision",
            came=mixed_precision,
            allowed=[name for name in ("no", *_DTYPES) if name not in _DTYPES or _computes(device, name)],
        )


def _computes(device: torch.device, mixed_precision: str) -> bool:
    """Try the two operations that everything is made of, there and back."""
    x = torch.ones(1, 8, 8, 8, device=device, requires_grad=True)
    weight = torch.ones(8, 8, 1, 1, device=device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says in a warning that it will not do it
            with autocast(device, mixed_precision):
                y = F.linear(F.conv2d(x, weight), weight[:, :, 0, 0])
            y.float().sum().backward()
    except (RuntimeError, NotImplementedError):
        return False
    return y.dtype == _DTYPES[mixed_precision]
