"""Losses per sample and their weights: pure functions."""

from __future__ import annotations

import torch

from lib_lora.base.errors import StudioError

PREDICTION_TYPES = ("epsilon", "v_prediction")


def check_prediction_type(prediction_type: str) -> str:
    """The prediction type as it came.

    Raises:
        StudioError: it is none of ``PREDICTION_TYPES``.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise StudioError("not allowed", field="prediction_type", came=prediction_type, allowed=PREDICTION_TYPES)
    return prediction_type


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


def per_sample_mse(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """mean over C, h, w of mask (prediction - target)^2 for each sample.

    As sd-scripts does, a mask lessens the loss and the mean is still over the whole picture: a small subject gives a
    small loss, and pictures of one batch keep their ratio.

    Args:
        prediction, target: [B, C, h, w].
        mask: [B, 1, h, w] from 0 to 1 (see ``resize_mask``).

    Returns:
        [B], float32 (float64 where an input is).
    """
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    squared = (prediction.to(dtype) - target.to(dtype)) ** 2
    if mask is not None:
        squared = squared * mask.to(dtype)
    return squared.flatten(1).mean(dim=1)


def resize_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A mask [B, 1, H, W] in pixels as [B, 1, height, width] in latents: the mean of each cell."""
    return torch.nn.functional.interpolate(mask.to(torch.float32), size=(height, width), mode="area")


def prior_loss_weights(regularisation: torch.Tensor, prior_loss_weight: float) -> torch.Tensor:
    """``prior_loss_weight`` for regularisation images and 1 for the others; bool [B] in, float32 [B] out."""
    weights = torch.ones(regularisation.shape, dtype=torch.float32, device=regularisation.device)
    return weights.masked_fill(regularisation.to(torch.bool), prior_loss_weight)
