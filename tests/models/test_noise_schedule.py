from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

from lib_lora.models.noise_schedule import scaled_linear_alphas_cumprod, zero_terminal_snr


def test_zero_terminal_snr_equals_diffusers_and_ends_at_zero():
    betas = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").betas
    alphas = scaled_linear_alphas_cumprod()
    rescaled = zero_terminal_snr(alphas)
    expected = torch.cumprod(1 - rescale_zero_terminal_snr(betas.double()), dim=0)
    # Betas are float32 numbers in diffusers.
    torch.testing.assert_close(rescaled, expected, rtol=1e-4, atol=1e-7)
    assert rescaled[-1] == 0
    torch.testing.assert_close(rescaled[0], alphas[0], rtol=1e-12, atol=0)
    assert (rescaled.diff() < 0).all()
