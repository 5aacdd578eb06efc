"""The noise schedules that Stable Diffusion models were trained with."""

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


def zero_terminal_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """``a_bar`` whose last value is exactly 0 and whose first stays (arXiv 2305.08891, algorithm 1).

    sqrt(a_bar) is shifted by its last value and scaled back to its first; [steps] in, float64 [steps] out.
    """
    root = alphas_cumprod.to(torch.float64).sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2
