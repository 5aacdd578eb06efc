"""Losses per sample and their weights: pure functions."""

from __future__ import annotations

import math

import torch

from lib_lora.base.errors import StudioError

PREDICTION_TYPES = ("epsilon", "v_prediction")
LOSS_TYPES = ("l2", "l1", "huber", "smooth_l1")
HUBER_SCHEDULES = ("snr", "exponential", "constant")
_TRAIN_STEPS = 1000
_HIGHEST_SNR = 1000.0


def check_prediction_type(prediction_type: str) -> str:
    """The prediction type as it came.

    Raises:
        StudioError: it is none of ``PREDICTION_TYPES``.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise StudioError("not allowed", field="prediction_type", came=prediction_type, allowed=PREDICTION_TYPES)
    return prediction_type


# What an error weighs


def min_snr_weight(snr: torch.Tensor, gamma: float, prediction_type: str) -> torch.Tensor:
    """Min-SNR weights (arXiv 2303.09556): epsilon min(SNR, g) / SNR, v-prediction min(SNR, g) / (SNR + 1).

    Written as min(1, g / SNR), times SNR / (SNR + 1) for v, so that epsilon's weight at SNR = 0
    (zero terminal SNR) is the limit 1 and not 0 / 0.

    Args:
        snr: [B].
        gamma: g; 5 is the paper's.
        prediction_type: "epsilon" or "v_prediction".
    """
    weight = (gamma / snr).clamp(max=1.0)
    if check_prediction_type(prediction_type) == "v_prediction":
        weight = weight * (snr / (snr + 1.0))
    return weight


def debiased_weight(snr: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Debiased estimation (arXiv 2310.08442): epsilon 1 / sqrt(SNR), v-prediction 1 / (SNR + 1), SNR at most 1000.

    The form for v is sd-scripts'. Epsilon's weight at SNR = 0 is infinite.
    """
    snr = snr.clamp(max=_HIGHEST_SNR)
    return 1.0 / (snr + 1.0) if check_prediction_type(prediction_type) == "v_prediction" else snr.rsqrt()


def noise_like_weight(snr: torch.Tensor) -> torch.Tensor:
    """SNR / (SNR + 1), SNR at most 1000: the factor between the errors of velocity and noise (arXiv 2202.00512)."""
    snr = snr.clamp(max=_HIGHEST_SNR)
    return snr / (snr + 1.0)


def prior_loss_weights(regularisation: torch.Tensor, prior_loss_weight: float) -> torch.Tensor:
    """``prior_loss_weight`` for regularisation images and 1 for the others; bool [B] in, float32 [B] out."""
    weights = torch.ones(regularisation.shape, dtype=torch.float32, device=regularisation.device)
    return weights.masked_fill(regularisation.to(torch.bool), prior_loss_weight)


# What an error costs


def huber_threshold(
    timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, schedule: str, c: float, scale: float
) -> torch.Tensor:
    """Where Huber's loss turns from a square into a straight line, for each timestep (arXiv 2403.16728).

    "snr": (1 - c) / (1 + sigma)^2 + c with sigma = sqrt((1 - a_bar) / a_bar); "exponential": c^(t / 1000) scale;
    "constant": c scale. The first leaves ``scale`` out, as sd-scripts does.

    Args:
        timesteps: integers [B].
        alphas_cumprod: float64 [steps].

    Returns:
        float64 [B] on the device of ``alphas_cumprod``.
    """
    timesteps = timesteps.to(alphas_cumprod.device)
    if schedule == "snr":
        a_bar = alphas_cumprod[timesteps].to(torch.float64)
        return (1.0 - c) / (1.0 + ((1.0 - a_bar) / a_bar).sqrt()) ** 2 + c
    share = timesteps.to(torch.float64) / _TRAIN_STEPS
    if schedule == "exponential":
        return torch.exp(math.log(c) * share) * scale
    return torch.full_like(share, c * scale)


def elementwise_loss(error: torch.Tensor, loss_type: str, threshold: torch.Tensor | None = None) -> torch.Tensor:
    """What each error d costs: l2 d^2, l1 |d|, huber 2c (sqrt(d^2 + c^2) - c), smooth_l1 2 (sqrt(d^2 + c^2) - c).

    Args:
        error: [B, ...].
        threshold: c [B], from ``huber_threshold``; of the last two alone.
    """
    if loss_type == "l2":
        return error**2
    if loss_type == "l1":
        return error.abs()
    c = threshold.to(error.dtype).to(error.device).view(-1, *[1] * (error.ndim - 1))
    # sqrt(d^2 + c^2) - c without the difference of two numbers that are nearly the same
    length = error**2 / ((error**2 + c**2).sqrt() + c)
    return 2.0 * c * length if loss_type == "huber" else 2.0 * length


def per_sample_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    loss_type: str = "l2",
    threshold: torch.Tensor | None = None,
) -> torch.Tensor:
    """mean over C, h, w of mask loss(prediction - target) for each sample.

    As sd-scripts does, a mask lessens the loss and the mean is still over the whole picture: a small subject gives a
    small loss, and pictures of one batch keep their ratio.

    Args:
        prediction, target: [B, C, h, w].
        mask: [B, 1, h, w] from 0 to 1 (see ``resize_mask``).
        loss_type, threshold: see ``elementwise_loss``.

    Returns:
        [B], float32 (float64 where an input is).
    """
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    costs = elementwise_loss(prediction.to(dtype) - target.to(dtype), loss_type, threshold)
    if mask is not None:
        costs = costs * mask.to(dtype)
    return costs.flatten(1).mean(dim=1)


def resize_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A mask [B, 1, H, W] in pixels as [B, 1, height, width] in latents: the mean of each cell."""
    return torch.nn.functional.interpolate(mask.to(torch.float32), size=(height, width), mode="area")
