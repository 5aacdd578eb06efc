"""Pictures from the demo's networks with diffusers' DDIM, for following the training."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from latents import LATENT_CHANNELS
from unet import BETA_END, BETA_START, TRAIN_STEPS

LATENT_PX = 16


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's schedule."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def sample_latents(
    unet: UNet2DConditionModel,
    context: Tensor,
    empty: Tensor,
    seeds: list[int],
    steps: int = 25,
    guidance: float = 4.0,
    eta: float = 0.0,
) -> Tensor:
    """Latents [n, 4, 16, 16] of unit variance, for contexts [n, 77, d] against an empty one [1, 77, d].

    `eta` 1 puts fresh noise in at each step, as Euler a does; 0 is plain DDIM.
    """
    scheduler = make_scheduler()
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (LATENT_CHANNELS, LATENT_PX, LATENT_PX)

    def noise() -> Tensor:
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    latents = noise()
    both = torch.cat([empty.expand_as(context), context])
    for t in scheduler.timesteps:
        without, prompted = unet(torch.cat([latents, latents]), t, both).sample.chunk(2)
        predicted = without + guidance * (prompted - without)
        latents = scheduler.step(predicted, t, latents, eta=eta, variance_noise=noise()).prev_sample
    return latents
