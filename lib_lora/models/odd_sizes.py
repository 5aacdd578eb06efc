"""Sizes that are multiples of 8 but not of 64, the WebUI's way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F


@contextmanager
def webui_upsampling(unet: Any) -> Iterator[None]:
    """Within it, a diffusers UNet meets odd sizes as LDM's does in the WebUI.

    Where halving has rounded up, the UNet's second half comes back one too large. diffusers enlarges to the right
    size and then convolves; the WebUI doubles, convolves, and resizes to the right size where the halves meet
    (``sd_hijack_unet.TorchHijackForUnet``). At multiples of 64 px there is nothing to resize.
    """
    handles = []
    for block in unet.up_blocks:
        for upsampler in block.upsamplers or []:
            hooks = _Resize()
            handles.append(upsampler.register_forward_pre_hook(hooks.before))
            handles.append(upsampler.register_forward_hook(hooks.after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Resize:
    """Takes the wanted size away from one upsampler, and gives its output that size."""

    def __init__(self) -> None:
        self.size: Any = None

    def before(self, module: torch.nn.Module, args: tuple) -> tuple:
        self.size = args[1] if len(args) > 1 else None
        return args[:1]

    def after(self, module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if self.size is None or tuple(output.shape[-2:]) == tuple(self.size):
            return None
        return F.interpolate(output, tuple(self.size), mode="nearest")
