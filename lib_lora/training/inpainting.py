"""What an inpainting UNet sees beside the noisy latents: a mask, and the picture with the masked place taken out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib_lora.models.model import DiffusionModel
from lib_lora.training.data import Batch
from lib_lora.training.draws import StepRandom
from lib_lora.training.latents import vae_input
from lib_lora.training.noise import sample_generator, sample_noise

WHOLE_PICTURE_SHARE = 0.25


def random_mask(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """bool [height, width], true where the picture is to be made anew.

    In a quarter of the cases everything, as the published inpainting checkpoints were trained (runwayml's
    stable-diffusion-inpainting: "in 25% mask everything"), and as txt2img uses them. Otherwise a rectangle or an
    ellipse, with equal odds: its sides are drawn uniformly from 0 to the picture's, then its centre uniformly from
    where it lies wholly inside (diffusers, train_dreambooth_inpaint.py, ``random_mask``).
    """
    everything, ellipse = (torch.rand(2, generator=generator) < torch.tensor([WHOLE_PICTURE_SHARE, 0.5])).tolist()
    size, place = torch.rand(2, 2, generator=generator, dtype=torch.float64)
    if everything:
        return torch.ones(height, width, dtype=torch.bool)
    sides = size * torch.tensor([height, width])
    centre = sides / 2 + place * (torch.tensor([height, width]) - sides)
    y = (torch.arange(height) + 0.5 - centre[0]) / (sides[0] / 2)
    x = (torch.arange(width) + 0.5 - centre[1]) / (sides[1] / 2)
    if ellipse:
        return y[:, None] ** 2 + x[None, :] ** 2 <= 1
    return (y[:, None].abs() <= 1) & (x[None, :].abs() <= 1)


@torch.no_grad()
def masked_inputs(model: DiffusionModel, batch: Batch, rng: StepRandom) -> torch.Tensor:
    """float32 [B, 1 + C, h, w]: each sample's mask, and the latents of its picture where the mask is mid-grey.

    The VAE sees the whole picture at once, so that these latents cannot be had from the cached ones: the masked
    pictures are encoded anew at each step, and the VAE stays where the UNet is. Mask and posterior have draws of
    their own: (seed, purpose, epoch, sample).

    Raises:
        ValueError: the batch has no pixels.
    """
    if batch.pixels is None:
        raise ValueError("an inpainting model needs the pixels of a batch")
    height, width = batch.pixels.shape[-2:]
    generators = [sample_generator(rng.seed, "mask", rng.epoch, sample) for sample in batch.sample_ids]
    masks = torch.stack([random_mask(height, width, generator) for generator in generators])[:, None]
    pictures = vae_input(batch.pixels) * ~masks
    with torch.autocast(model.device.type, enabled=False):  # many VAEs give no numbers in float16
        posterior = model.vae.encode(pictures.to(model.device, model.compute_dtype)).latent_dist
    noise = sample_noise(posterior.mean.shape[1:], rng.seed, rng.epoch, batch.sample_ids, "masked latent")
    noise = noise.to(model.device)
    latents = (posterior.mean.float() + posterior.std.float() * noise) * model.vae.config.scaling_factor
    small = F.interpolate(masks.float(), size=latents.shape[-2:], mode="nearest")  # as the WebUI and diffusers do
    return torch.cat([small.to(model.device), latents], dim=1)
