from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.models.noise_schedule import scaled_linear_alphas_cumprod
from lib_lora.training import objectives as subject

IDS = [3, 1, 2]
FULL = subject.NoiseOptions(noise_offset=0.1, adaptive_noise_scale=0.05, min_snr_gamma=5.0)
PLAIN = subject.NoiseOptions()


class LinearUNet(torch.nn.Module):
    """prediction = W z_t + V mean(context) + t / 1000, per position."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Parameter(torch.randn(4, 4, generator=generator, dtype=torch.float64).to(dtype))
        self.read = torch.nn.Parameter(torch.randn(4, 6, generator=generator, dtype=torch.float64).to(dtype))

    def forward(self, noisy, timesteps, context):
        mixed = torch.einsum("oc,bchw->bohw", self.mix, noisy)
        read = context.mean(dim=1) @ self.read.T + timesteps[:, None].to(noisy.dtype) / 1000
        return mixed + read[:, :, None, None]


def schedule(prediction_type: str) -> subject.NoiseSchedule:
    return subject.NoiseSchedule(scaled_linear_alphas_cumprod(), prediction_type)


def batch(dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(3, 4, 4, 6, generator=generator, dtype=torch.float64).to(dtype)
    context = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64).to(dtype)
    return latents, context, torch.tensor([1.0, 0.5, 2.0], dtype=dtype)


def loss_in_numpy(unet, prediction_type, options, draws) -> tuple[np.ndarray, np.ndarray]:
    """The whole formula once more, a sample at a time, in float64: (weighted [B], raw [B])."""
    latents, context, weights = (tensor.numpy() for tensor in batch())
    mix, read = unet.mix.detach().numpy(), unet.read.detach().numpy()
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    alphas = np.cumprod(1 - betas)
    weighted, raw = [], []
    for i, t in enumerate(draws.timesteps.tolist()):
        z, eps, a = latents[i], draws.noise[i].double().numpy(), alphas[t]
        if options.noise_offset:
            strength = options.noise_offset + options.adaptive_noise_scale * np.abs(z.mean(axis=(1, 2)))
            eps = eps + (strength * draws.offset_noise[i, :, 0, 0].double().numpy())[:, None, None]
        noisy = np.sqrt(a) * z + np.sqrt(1 - a) * eps
        prediction = np.einsum("oc,chw->ohw", mix, noisy) + (read @ context[i].mean(axis=0) + t / 1000)[:, None, None]
        target = eps if prediction_type == "epsilon" else np.sqrt(a) * eps - np.sqrt(1 - a) * z
        raw.append(((prediction - target) ** 2).mean())
        ratio = a / (1 - a)
        divisor = ratio if prediction_type == "epsilon" else ratio + 1
        weight = 1.0 if options.min_snr_gamma is None else min(ratio, options.min_snr_gamma) / divisor
        weighted.append(raw[-1] * weight * weights[i])
    return np.array(weighted), np.array(raw)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("options", [PLAIN, FULL], ids=["plain", "all options"])
def test_the_whole_loss_equals_the_formula(prediction_type, options):
    unet = LinearUNet()
    draws = subject.sample_draws((4, 4, 6), 8, 2, IDS, options)
    terms = subject.denoising_loss(unet, *batch(), draws, schedule(prediction_type), options)
    weighted, raw = loss_in_numpy(unet, prediction_type, options, draws)
    np.testing.assert_allclose(terms.loss.detach().numpy(), weighted, rtol=1e-10)
    np.testing.assert_allclose(terms.raw.numpy(), raw, rtol=1e-10)
    assert not terms.raw.requires_grad


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_gradient_equals_finite_differences(prediction_type):
    unet = LinearUNet()
    draws = subject.sample_draws((4, 4, 6), 8, 2, IDS, FULL)

    def value() -> torch.Tensor:
        return subject.denoising_loss(unet, *batch(), draws, schedule(prediction_type), FULL).loss.mean()

    value().backward()
    step = 1e-5
    for parameter in unet.parameters():
        flat, expected = parameter.data.view(-1), []
        for i in range(flat.numel()):
            kept = flat[i].item()
            flat[i] = kept + step
            above = value().item()
            flat[i] = kept - step
            below = value().item()
            flat[i] = kept
            expected.append((above - below) / (2 * step))
        np.testing.assert_allclose(parameter.grad.view(-1).numpy(), expected, rtol=1e-6, atol=1e-8)


def test_a_unet_that_knows_the_noise_has_no_loss():
    latents, context, weights = batch()
    draws = subject.sample_draws((4, 4, 6), 1, 0, IDS, PLAIN)
    terms = subject.denoising_loss(
        lambda *_: draws.noise.double(), latents, context, weights, draws, schedule("epsilon"), PLAIN
    )
    assert terms.loss.tolist() == [0.0, 0.0, 0.0]


def test_a_sample_s_loss_does_not_depend_on_its_batch():
    unet = LinearUNet()
    latents, context, weights = batch()
    together = subject.denoising_loss(
        unet, latents, context, weights, subject.sample_draws((4, 4, 6), 8, 2, IDS, FULL), schedule("epsilon"), FULL
    )
    for i, sample in enumerate(IDS):
        one = slice(i, i + 1)
        draws = subject.sample_draws((4, 4, 6), 8, 2, [sample], FULL)
        alone = subject.denoising_loss(unet, latents[one], context[one], weights[one], draws, schedule("epsilon"), FULL)
        torch.testing.assert_close(alone.loss, together.loss[one], rtol=1e-12, atol=0)


def test_an_option_leaves_the_other_draws_as_they_were():
    plain = subject.sample_draws((4, 4, 6), 8, 2, IDS, PLAIN, 100, 900)
    full = subject.sample_draws((4, 4, 6), 8, 2, IDS, FULL, 100, 900)
    assert torch.equal(plain.noise, full.noise) and torch.equal(plain.timesteps, full.timesteps)
    assert plain.offset_noise is None and full.offset_noise.shape == (3, 4, 1, 1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_half_precision_latents_keep_a_float32_target(prediction_type):
    """Only what the UNet reads is rounded: a UNet of zeros shows the target itself."""
    latents, context, weights = batch(torch.bfloat16)
    draws = subject.sample_draws((4, 4, 6), 8, 2, IDS, PLAIN)
    seen = []

    def nothing(noisy, timesteps, context):
        seen.append(noisy.dtype)
        return torch.zeros_like(noisy)

    got = subject.denoising_loss(nothing, latents, context, weights, draws, schedule(prediction_type), PLAIN)
    a = scaled_linear_alphas_cumprod()[draws.timesteps].view(-1, 1, 1, 1)
    target = draws.noise.double()
    if prediction_type == "v_prediction":
        target = a.sqrt() * target - (1 - a).sqrt() * latents.double()
    assert seen == [torch.bfloat16] and got.raw.dtype == torch.float32
    torch.testing.assert_close(got.raw.double(), (target**2).mean(dim=(1, 2, 3)), rtol=1e-6, atol=0)


def test_a_mask_reaches_the_loss():
    unet = LinearUNet()
    draws = subject.sample_draws((4, 4, 6), 8, 2, IDS, PLAIN)
    mask = torch.zeros(3, 1, 4, 6)
    masked = subject.denoising_loss(unet, *batch(), draws, schedule("epsilon"), PLAIN, mask)
    assert masked.loss.tolist() == [0.0, 0.0, 0.0]


def test_missing_offset_draws_and_unknown_prediction_types_are_refused():
    draws = subject.sample_draws((4, 4, 6), 8, 2, IDS, PLAIN)
    with pytest.raises(ValueError, match="offset"):
        subject.denoising_loss(LinearUNet(), *batch(), draws, schedule("epsilon"), FULL)
    with pytest.raises(StudioError, match="prediction_type"):
        schedule("sample")


def test_the_global_generator_stays_untouched():
    before = torch.get_rng_state()
    draws = subject.sample_draws((4, 4, 6), 8, 2, IDS, FULL)
    subject.denoising_loss(LinearUNet(), *batch(), draws, schedule("epsilon"), FULL)
    assert torch.equal(before, torch.get_rng_state())
