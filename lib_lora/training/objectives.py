"""Objectives: what a training step makes small. An objective takes a model, a batch and its draws; it returns a
loss per sample, and leaves batching, precision and the backward pass to the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lib_lora.base.errors import StudioError
from lib_lora.training.draws import Draws, NoiseOptions, seen_noise, training_noise
from lib_lora.training.losses import (
    check_prediction_type,
    debiased_weight,
    huber_threshold,
    min_snr_weight,
    noise_like_weight,
    per_sample_loss,
)
from lib_lora.training.noise import TRAIN_STEPS, add_noise, snr, velocity

# (noisy latents [B, C, h, w], timesteps [B], context [B, n, d]) -> prediction [B, C, h, w]
UNetCall = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class DenoisingOptions(NoiseOptions):
    """What changes the noise and the loss of a step; names and meanings are those of the options of a run.

    Args:
        loss_type: one of ``losses.LOSS_TYPES``.
        huber_c, huber_schedule, huber_scale: see ``losses.huber_threshold``.
        min_snr_gamma: g of the min-SNR weights; None is off, 5 is the paper's.
        debiased_estimation_loss: weights of ``losses.debiased_weight``.
        scale_v_pred_loss_like_noise_pred: weights of ``losses.noise_like_weight``.
        v_pred_like_loss: k in L + k L / noise_like_weight; None is off.
    """

    loss_type: str = "l2"
    huber_c: float = 0.1
    huber_schedule: str = "snr"
    huber_scale: float = 1.0
    min_snr_gamma: float | None = None
    debiased_estimation_loss: bool = False
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float | None = None


@dataclass(frozen=True)
class NoiseSchedule:
    """The model's schedule: ``alphas_cumprod`` float64 [steps] and what its UNet predicts."""

    alphas_cumprod: torch.Tensor
    prediction_type: str

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)


@dataclass(frozen=True)
class LossTerms:
    """``loss`` [B] with all weights, to be differentiated; ``raw`` [B] the plain error, detached, to be shown."""

    loss: torch.Tensor
    raw: torch.Tensor


def denoising_loss(
    unet: UNetCall,
    latents: torch.Tensor,
    context: torch.Tensor,
    sample_weights: torch.Tensor,
    draws: Draws,
    schedule: NoiseSchedule,
    options: DenoisingOptions,
    mask: torch.Tensor | None = None,
) -> LossTerms:
    """w_i u(t_i) mean loss(unet(z_t, t, c) - target) for each sample i.

    The target is the noise or the velocity, by ``schedule.prediction_type``; u is ``timestep_weights``.

    Args:
        unet: a ``UNetCall``; size conditions and the like are bound into it by the caller.
        latents: [B, C, h, w], already scaled.
        context: [B, n, d].
        sample_weights: w [B], e.g. ``prior_loss_weights``.
        draws: from ``sample_draws``, on any device.
        mask: [B, 1, h, w] or None.

    Raises:
        ValueError: the options ask for draws that were not made.
    """
    # Latents may be half precision: only what the UNet reads is rounded to their type, the target is not.
    clean = latents.to(torch.promote_types(latents.dtype, torch.float32))
    noise = training_noise(draws, clean, options)
    noisy = add_noise(clean, seen_noise(draws, noise, options), draws.timesteps, schedule.alphas_cumprod)
    prediction = unet(noisy.to(latents.dtype), draws.timesteps.to(latents.device), context)
    target = noise
    if schedule.prediction_type == "v_prediction":
        target = velocity(clean, noise, draws.timesteps, schedule.alphas_cumprod)
    raw = per_sample_loss(prediction, target, mask, options.loss_type, _threshold(draws.timesteps, schedule, options))
    weights = timestep_weights(draws.timesteps, schedule, options).to(raw.dtype).to(raw.device)
    return LossTerms(raw * weights * sample_weights.to(raw), raw.detach())


def _threshold(timesteps: torch.Tensor, schedule: NoiseSchedule, options: DenoisingOptions) -> torch.Tensor | None:
    if options.loss_type not in ("huber", "smooth_l1"):
        return None
    how = options.huber_schedule, options.huber_c, options.huber_scale
    return huber_threshold(timesteps, schedule.alphas_cumprod, *how)


def timestep_weights(timesteps: torch.Tensor, schedule: NoiseSchedule, options: DenoisingOptions) -> torch.Tensor:
    """u(t) [B]: the product of the weights that are on; in the type and on the device of ``alphas_cumprod``."""
    ratio = snr(schedule.alphas_cumprod[timesteps.to(schedule.alphas_cumprod.device)])
    weights = torch.ones_like(ratio)
    if options.min_snr_gamma is not None:
        weights = weights * min_snr_weight(ratio, options.min_snr_gamma, schedule.prediction_type)
    if options.scale_v_pred_loss_like_noise_pred:
        weights = weights * noise_like_weight(ratio)
    if options.v_pred_like_loss is not None:
        weights = weights * (1.0 + options.v_pred_like_loss / noise_like_weight(ratio))
    if options.debiased_estimation_loss:
        weights = weights * debiased_weight(ratio, schedule.prediction_type)
    return weights


def check_weights(schedule: NoiseSchedule, options: DenoisingOptions, max_timestep: int = TRAIN_STEPS) -> None:
    """That the weights mean something for this model's schedule; ``max_timestep`` is exclusive.

    Raises:
        StudioError: a weight that belongs to the other prediction type, or is infinite at a timestep.
    """
    is_velocity = schedule.prediction_type == "v_prediction"
    for name, wants_velocity in (("scale_v_pred_loss_like_noise_pred", True), ("v_pred_like_loss", False)):
        if getattr(options, name) and wants_velocity != is_velocity:
            kind = "v-prediction" if wants_velocity else "epsilon"
            raise StudioError(
                f"is for models of {kind}, which this one is not",
                field=name,
                came=getattr(options, name),
                allowed=f"off, for a model that predicts {schedule.prediction_type}",
            )
    last = torch.tensor([max_timestep - 1])
    if not timestep_weights(last, schedule, options).isfinite().all():
        raise StudioError(
            f"is infinite at timestep {max_timestep - 1}, where zero terminal SNR leaves no signal",
            field="v_pred_like_loss" if options.v_pred_like_loss else "debiased_estimation_loss",
            came=options.v_pred_like_loss or True,
            allowed=f"off, or max_timestep {TRAIN_STEPS - 1}",
        )
