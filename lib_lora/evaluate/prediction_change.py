"""How much words change what a UNet predicts."""

from __future__ import annotations

import torch

from lib_lora.arch.family import Family
from lib_lora.base.seeds import derive_seed
from lib_lora.models.model import DiffusionModel
from lib_lora.models.prompt import encode_prompt

_SIDE = 32  # latent pixels
_TIMESTEPS = (900, 750, 600)  # where the text decides what the picture will be


@torch.no_grad()
def prediction_change(model: DiffusionModel, prompt: str, other: str, seed: int) -> float:
    """|e(other) - e(prompt)| / |e(prompt)|, e being the UNet's predictions of one noise at a few timesteps.

    Args:
        seed: of the noise.
    """
    first, second = (_predictions(model, text, seed) for text in (prompt, other))
    return float((second - first).norm() / first.norm())


def _predictions(model: DiffusionModel, text: str, seed: int) -> torch.Tensor:
    """[timesteps, C, 32, 32]"""
    generator = torch.Generator().manual_seed(derive_seed(seed, "prediction change"))
    shape = (1, model.latent_channels, _SIDE, _SIDE)
    noise = torch.randn(shape, generator=generator).to(model.device, model.compute_dtype)
    masked = torch.zeros(1, 1 + model.latent_channels, _SIDE, _SIDE, device=model.device, dtype=model.compute_dtype)
    size = 8.0 * _SIDE
    sizes = torch.tensor([[size, size, 0, 0, size, size]], device=model.device)
    conditioning = encode_prompt(model, text).to(model.device, model.compute_dtype)
    return torch.cat(
        [
            model.predict(
                noise,
                torch.tensor([timestep], device=model.device),
                conditioning,
                sizes if model.family is Family.SDXL else None,
                masked if model.inpainting else None,
            ).float()
            for timestep in _TIMESTEPS
        ]
    )
