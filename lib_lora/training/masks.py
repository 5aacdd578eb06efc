"""Where the loss of a picture counts: from its mask, or from how opaque it is."""

from __future__ import annotations

import torch

from lib_lora.dataset.images import load_fitted_alpha, load_fitted_mask
from lib_lora.dataset.plan import Plan
from lib_lora.training.latents import LATENT_PX, Side
from lib_lora.training.losses import resize_mask


class MaskStore:
    """The masks of a plan's pictures, each read once where it is not cut anew each time.

    Args:
        masks: masks beside the pictures count.
        alpha: how opaque a picture is counts where it has no mask; as sd-scripts' ``alpha_mask``.
    """

    def __init__(self, plan: Plan, *, masks: bool, alpha: bool) -> None:
        self.plan = plan
        self._masks, self._alpha = masks, alpha
        self._kept: dict[Side, torch.Tensor] = {}

    def __bool__(self) -> bool:
        return self._masks or self._alpha

    def mask(self, side: Side) -> torch.Tensor:
        """float32 [1,h,w] in the latents' size, from 0 to 1; all 1 for a picture that has none.

        Raises:
            StudioError: a mask cannot be read, or has another size than its picture.
        """
        side = side._replace(tone=None)
        if side.crop is not None:
            return self._read(side)
        if side not in self._kept:
            self._kept[side] = self._read(side)
        return self._kept[side]

    def _read(self, side: Side) -> torch.Tensor:
        image = self.plan.images[side.image]
        width, height = (pixels // LATENT_PX for pixels in image.bucket.resolution)
        how = {"crop": side.crop, "flipped": side.flipped}
        pixels = load_fitted_mask(image.record, image.bucket, **how) if self._masks else None
        if pixels is None and self._alpha:
            pixels = load_fitted_alpha(image.record, image.bucket, **how)
        if pixels is None:
            return torch.ones(1, height, width)
        return resize_mask(torch.from_numpy(pixels)[None, None] / 255, height, width)[0]
