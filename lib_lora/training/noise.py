"""The forward diffusion process and the draws that feed it: pure functions of tensors and seeds.

Notation: ``z`` clean latents, ``eps`` noise, ``a_bar`` the cumulative product of the alphas, ``t`` a timestep.
Coefficients are gathered in float64 and used in float32 (or float64 where the latents are), whatever the latents'
type, so that half precision costs nothing but the rounding of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lib_lora.base.errors import StudioError
from lib_lora.base.seeds import derive_seed

TRAIN_STEPS = 1000


def snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio a_bar / (1 - a_bar), in the shape that came (arXiv 2303.09556, equation 3)."""
    return alphas_cumprod / (1.0 - alphas_cumprod)


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """z_t = sqrt(a_bar_t) z + sqrt(1 - a_bar_t) eps (arXiv 2006.11239, equation 4).

    Args:
        latents, noise: [B, ...].
        timesteps: integers [B].
        alphas_cumprod: [steps], on any device.

    Returns:
        [B, ...] in the latents' type.
    """
    alpha, sigma = _alpha_sigma(timesteps, alphas_cumprod, latents)
    return (alpha * latents + sigma * noise).to(latents.dtype)


def velocity(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """v = sqrt(a_bar_t) eps - sqrt(1 - a_bar_t) z (arXiv 2202.00512, appendix D); shapes as in ``add_noise``."""
    alpha, sigma = _alpha_sigma(timesteps, alphas_cumprod, latents)
    return (alpha * noise - sigma * latents).to(latents.dtype)


def noise_of_velocity(
    prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """eps = sqrt(a_bar_t) v + sqrt(1 - a_bar_t) z_t: the noise in ``noisy`` of which ``prediction`` is the velocity."""
    alpha, sigma = _alpha_sigma(timesteps, alphas_cumprod, noisy)
    return (alpha * prediction + sigma * noisy).to(noisy.dtype)


def _alpha_sigma(
    timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(a_bar_t) and sqrt(1 - a_bar_t) as [B, 1, ...] on the device of ``like``."""
    gathered = alphas_cumprod[timesteps.to(alphas_cumprod.device)].to(torch.float64)
    dtype = torch.promote_types(like.dtype, torch.float32)
    shape = [-1] + [1] * (like.ndim - 1)
    # The type changes before the device does: some devices have no float64.
    alpha = gathered.sqrt().to(dtype).to(like.device).view(shape)
    sigma = (1.0 - gathered).sqrt().to(dtype).to(like.device).view(shape)
    return alpha, sigma


def noise_offset(
    noise: torch.Tensor,
    latents: torch.Tensor,
    offset: float | torch.Tensor,
    adaptive_scale: float,
    draw: torch.Tensor,
) -> torch.Tensor:
    """eps + max(0, o + a |mean_hw z|) draw: noise whose mean over a channel is not zero.

    The formula is crosslabs.org's "Diffusion with Offset Noise" with sd-scripts' ``adaptive_noise_scale``.

    Args:
        noise, latents: [B, C, h, w].
        offset: o, one for all or [B, 1, 1, 1].
        adaptive_scale: a; the mean is that of each image's channel.
        draw: standard normal [B, C, 1, 1].
    """
    strength = (offset + adaptive_scale * latents.mean(dim=(2, 3), keepdim=True).abs()).clamp(min=0.0)
    return (noise + strength * draw).to(noise.dtype)


def multires_noise(
    shape_of_one: Sequence[int], levels: int, discount: float, generator: torch.Generator
) -> torch.Tensor:
    """sum over i of d^i up(randn(C, h / r^i, w / r^i)), r drawn from 2 to 4 for each level: [C, h, w], float32.

    Whitaker's "Multi-Resolution Noise for Diffusion Model Training" as sd-scripts' ``pyramid_noise_like`` has it:
    bilinear, from level 0, and no further once a side is a single cell.

    Args:
        shape_of_one: [C, h, w].
        levels: how many at most.
        discount: d.
    """
    channels, height, width = shape_of_one
    total = torch.zeros(tuple(shape_of_one))
    for level in range(levels):
        ratio = 2.0 + 2.0 * torch.rand((), generator=generator, dtype=torch.float64).item()
        size = (max(1, int(height / ratio**level)), max(1, int(width / ratio**level)))
        noise = torch.randn(1, channels, *size, generator=generator)
        total += F.interpolate(noise, size=(height, width), mode="bilinear")[0] * discount**level
        if 1 in size:
            break
    return total


def sample_generator(seed: int, purpose: str, epoch: int, sample: int | str) -> torch.Generator:
    """On the CPU, owned by a sample and a purpose: what it draws depends on them alone."""
    return torch.Generator("cpu").manual_seed(derive_seed(seed, purpose, epoch, sample))


def sample_noise(
    shape_of_one: Sequence[int], seed: int, epoch: int, sample_ids: Sequence[int | str], purpose: str = "noise"
) -> torch.Tensor:
    """Standard normal draws [B, *shape_of_one], float32 on the CPU, one generator per sample.

    A sample's draw depends on (seed, purpose, epoch, sample id) alone: not on its neighbours in the batch, the order
    or the number of processes. An image that is repeated within an epoch needs an id per repeat.
    """
    return torch.stack(
        [
            torch.randn(
                tuple(shape_of_one), generator=sample_generator(seed, purpose, epoch, sample), dtype=torch.float32
            )
            for sample in sample_ids
        ]
    )


def sample_timesteps(
    seed: int, epoch: int, sample_ids: Sequence[int | str], minimum: int = 0, maximum: int = TRAIN_STEPS
) -> torch.Tensor:
    """Timesteps int64 [B], uniform over minimum <= t < maximum, one generator per sample as in ``sample_noise``.

    Raises:
        StudioError: the range is empty or leaves 0..1000.
    """
    if not 0 <= minimum < maximum <= TRAIN_STEPS:
        raise StudioError(
            "the range of timesteps is empty or out of bounds",
            field="min_timestep",
            came=f"{minimum} to {maximum}",
            allowed=f"0 <= min_timestep < max_timestep <= {TRAIN_STEPS}",
        )
    return torch.cat(
        [
            torch.randint(minimum, maximum, (1,), generator=sample_generator(seed, "timestep", epoch, sample))
            for sample in sample_ids
        ]
    )
