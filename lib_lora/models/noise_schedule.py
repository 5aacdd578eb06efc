"""The noise schedule that Stable Diffusion was trained with."""

from __future__ import annotations

import torch


def scaled_linear_alphas_cumprod(
    beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000
) -> torch.Tensor:
    """float64 [steps]: the cumulative product of 1 - beta, where sqrt(beta) rises linearly.

    The "linear" schedule of LDM (``ldm.modules.diffusionmodules.util.make_beta_schedule``), "scaled_linear"
    in diffusers.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0)
