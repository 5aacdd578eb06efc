"""What inner rooms need from outer ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class PictureRequest:
    """One picture to make; sizes in px. The prompt may hold ``<lora:name:te:unet>``."""

    prompt: str
    negative: str = ""
    seed: int = 1
    steps: int = 20
    sampler: str = "Euler a"
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    clip_skip: int = 1


class Generator(Protocol):
    """Whoever can turn a request into a picture: the WebUI's txt2img, or our own sampler."""

    def generate(self, request: PictureRequest) -> Any:
        """A ``PIL.Image.Image`` in RGB.

        Raises:
            StudioError: the request names a LoRA or a sampler that is not there.
        """
