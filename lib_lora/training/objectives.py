"""Objectives: what a training step makes small. An objective takes a model, a batch and its draws; it returns a
loss per sample, and leaves batching, precision and the backward pass to the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lib_lora.training.losses import check_prediction_type, min_snr_weight, per_sample_mse
from lib_lora.training.noise import (
    TRAIN_STEPS,
    add_noise,
    noise_offset,
    sample_noise,
    sample_timesteps,
    snr,
    velocity,
)

# (noisy latents [B, C, h, w], timesteps [B], context [B, n, d]) -> prediction [B, C, h, w]
UNetCall = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class NoiseOptions:
    """What changes the noise and the weight of a timestep.

    Args:
        noise_offset: strength of the per-channel offset; 0 is off.
        adaptive_noise_scale: adds this times |mean of the latents' channel| to the offset; 0 is off.
        min_snr_gamma: g of the min-SNR weights; None is off, 5 is the paper's.
    """

    noise_offset: float = 0.0
    adaptive_noise_scale: float = 0.0
    min_snr_gamma: float | None = None

    @property
    def offsets(self) -> bool:
        """Whether the noise needs the draw of an offset."""
        return self.noise_offset != 0.0 or self.adaptive_noise_scale != 0.0


@dataclass(frozen=True)
class NoiseSchedule:
    """The model's schedule: ``alphas_cumprod`` float64 [steps] and what its UNet predicts."""

    alphas_cumprod: torch.Tensor
    prediction_type: str

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)


@dataclass(frozen=True)
class Draws:
    """The random part of a step: noise [B, C, h, w], timesteps [B], offset_noise [B, C, 1, 1] or None."""

    noise: torch.Tensor
    timesteps: torch.Tensor
    offset_noise: torch.Tensor | None = None


@dataclass(frozen=True)
class StepRandom:
    """Who owns a step's draws: the run's seed and the epoch; each sample adds its own id."""

    seed: int
    epoch: int


@dataclass(frozen=True)
class LossTerms:
    """``loss`` [B] with all weights, to be differentiated; ``raw`` [B] the plain error, detached, to be shown."""

    loss: torch.Tensor
    raw: torch.Tensor


def sample_draws(
    shape_of_one: Sequence[int],
    seed: int,
    epoch: int,
    sample_ids: Sequence[int | str],
    options: NoiseOptions,
    min_timestep: int = 0,
    max_timestep: int = TRAIN_STEPS,
) -> Draws:
    """The draws of a batch, on the CPU; ``shape_of_one`` is the latents' [C, h, w] and ``max_timestep`` is exclusive.

    Each kind of draw has its own seed: switching an option on leaves the other draws as they were.
    """
    noise = sample_noise(shape_of_one, seed, epoch, sample_ids, "noise")
    timesteps = sample_timesteps(seed, epoch, sample_ids, min_timestep, max_timestep)
    if not options.offsets:
        return Draws(noise, timesteps)
    return Draws(noise, timesteps, sample_noise((shape_of_one[0], 1, 1), seed, epoch, sample_ids, "noise_offset"))


def denoising_loss(
    unet: UNetCall,
    latents: torch.Tensor,
    context: torch.Tensor,
    sample_weights: torch.Tensor,
    draws: Draws,
    schedule: NoiseSchedule,
    options: NoiseOptions,
    mask: torch.Tensor | None = None,
) -> LossTerms:
    """w_i u(t_i) mean (unet(z_t, t, c) - target)^2 for each sample i.

    The target is the noise (with its offset) or the velocity, by ``schedule.prediction_type``; u is the min-SNR weight.

    Args:
        unet: a ``UNetCall``; size conditions and the like are bound into it by the caller.
        latents: [B, C, h, w], already scaled.
        context: [B, n, d].
        sample_weights: w [B], e.g. ``prior_loss_weights``.
        draws: from ``sample_draws``, on any device.
        mask: [B, 1, h, w] or None.

    Raises:
        ValueError: an offset is asked for and ``draws`` has none.
    """
    # Latents may be half precision: only what the UNet reads is rounded to their type, the target is not.
    clean = latents.to(torch.promote_types(latents.dtype, torch.float32))
    noise = offset_noise_of(draws, clean, options)
    noisy = add_noise(clean, noise, draws.timesteps, schedule.alphas_cumprod)
    prediction = unet(noisy.to(latents.dtype), draws.timesteps.to(latents.device), context)
    target = noise
    if schedule.prediction_type == "v_prediction":
        target = velocity(clean, noise, draws.timesteps, schedule.alphas_cumprod)
    raw = per_sample_mse(prediction, target, mask)
    weights = timestep_weights(draws.timesteps, schedule, options).to(raw.dtype).to(raw.device)
    return LossTerms(raw * weights * sample_weights.to(raw), raw.detach())


def offset_noise_of(draws: Draws, latents: torch.Tensor, options: NoiseOptions) -> torch.Tensor:
    """The noise on the latents' device and in their type, with the offset where ``options`` asks for one."""
    noise = draws.noise.to(latents)
    if not options.offsets:
        return noise
    if draws.offset_noise is None:
        raise ValueError("the options ask for a noise offset, and the draws have none")
    return noise_offset(
        noise, latents, options.noise_offset, options.adaptive_noise_scale, draws.offset_noise.to(latents)
    )


def timestep_weights(timesteps: torch.Tensor, schedule: NoiseSchedule, options: NoiseOptions) -> torch.Tensor:
    """u(t) [B]: the min-SNR weights, or ones; in the type and on the device of ``alphas_cumprod``."""
    ratio = snr(schedule.alphas_cumprod[timesteps.to(schedule.alphas_cumprod.device)])
    if options.min_snr_gamma is None:
        return torch.ones_like(ratio)
    return min_snr_weight(ratio, options.min_snr_gamma, schedule.prediction_type)
