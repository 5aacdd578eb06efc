from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.models.noise_schedule import scaled_linear_alphas_cumprod, zero_terminal_snr
from lib_lora.training import objectives as subject
from lib_lora.training.draws import sample_draws
from lib_lora.training.objectives import DenoisingOptions

IDS = [3, 1, 2]
FULL = DenoisingOptions(noise_offset=0.1, adaptive_noise_scale=0.05, min_snr_gamma=5.0)
PLAIN = DenoisingOptions()
# One row for each option of both prediction types; those of one type have rows of their own.
ROWS = {
    "plain": PLAIN,
    "offset, adaptive, min-SNR": FULL,
    "random offset": DenoisingOptions(noise_offset=0.1, noise_offset_random_strength=True),
    "multires": DenoisingOptions(noise_offset=0.1, multires_noise_iterations=4, multires_noise_discount=0.4),
    "input perturbation": DenoisingOptions(ip_noise_gamma=0.1),
    "random input perturbation": DenoisingOptions(ip_noise_gamma=0.1, ip_noise_gamma_random_strength=True),
    "debiased": DenoisingOptions(debiased_estimation_loss=True),
    "l1": DenoisingOptions(loss_type="l1"),
    "huber, snr": DenoisingOptions(loss_type="huber", huber_c=0.3),
    "smooth l1, constant": DenoisingOptions(loss_type="smooth_l1", huber_schedule="constant", huber_scale=2.0),
    "huber, exponential": DenoisingOptions(loss_type="huber", huber_schedule="exponential", huber_scale=2.0),
}
OF_VELOCITY = DenoisingOptions(scale_v_pred_loss_like_noise_pred=True)
OF_NOISE = DenoisingOptions(v_pred_like_loss=0.5)


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


def noise_in_numpy(options, draws, i, z) -> tuple[np.ndarray, np.ndarray]:
    """What is to be predicted and what the UNet sees, of sample i."""
    eps = draws.noise[i].double().numpy()
    if options.noise_offset:
        strength = draws.offset_strength[i].item() if options.noise_offset_random_strength else options.noise_offset
        strength = strength + options.adaptive_noise_scale * np.abs(z.mean(axis=(1, 2)))
        eps = eps + (strength * draws.offset[i, :, 0, 0].double().numpy())[:, None, None]
    if options.multires_noise_iterations:
        eps = eps + draws.coarse[i].double().numpy()
        eps = eps / eps.std(ddof=1)
    return eps, eps + draws.perturbation[i].double().numpy() if options.ip_noise_gamma else eps


def cost_in_numpy(options, error, t, a) -> float:
    c = options.huber_c * options.huber_scale
    if options.huber_schedule == "exponential":
        c = options.huber_c ** (t / 1000) * options.huber_scale
    elif options.huber_schedule == "snr":
        c = (1 - options.huber_c) / (1 + np.sqrt((1 - a) / a)) ** 2 + options.huber_c
    bent = np.sqrt(error**2 + c**2) - c
    return {"l2": error**2, "l1": np.abs(error), "huber": 2 * c * bent, "smooth_l1": 2 * bent}[options.loss_type].mean()


def weight_in_numpy(options, prediction_type, ratio) -> float:
    weight, capped = 1.0, min(ratio, 1000)
    if options.min_snr_gamma is not None:
        weight *= min(ratio, options.min_snr_gamma) / (ratio if prediction_type == "epsilon" else ratio + 1)
    if options.debiased_estimation_loss:
        weight *= 1 / np.sqrt(capped) if prediction_type == "epsilon" else 1 / (capped + 1)
    if options.scale_v_pred_loss_like_noise_pred:
        weight *= capped / (capped + 1)
    if options.v_pred_like_loss:
        weight *= 1 + options.v_pred_like_loss * (capped + 1) / capped
    return weight


def loss_in_numpy(unet, prediction_type, options, draws) -> tuple[np.ndarray, np.ndarray]:
    """The whole formula once more, a sample at a time, in float64: (weighted [B], raw [B])."""
    latents, context, weights = (tensor.numpy() for tensor in batch())
    mix, read = unet.mix.detach().numpy(), unet.read.detach().numpy()
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    alphas = np.cumprod(1 - betas)
    weighted, raw = [], []
    for i, t in enumerate(draws.timesteps.tolist()):
        z, a = latents[i], alphas[t]
        eps, seen = noise_in_numpy(options, draws, i, z)
        noisy = np.sqrt(a) * z + np.sqrt(1 - a) * seen
        prediction = np.einsum("oc,chw->ohw", mix, noisy) + (read @ context[i].mean(axis=0) + t / 1000)[:, None, None]
        target = eps if prediction_type == "epsilon" else np.sqrt(a) * eps - np.sqrt(1 - a) * z
        raw.append(cost_in_numpy(options, prediction - target, t, a))
        weighted.append(raw[-1] * weight_in_numpy(options, prediction_type, a / (1 - a)) * weights[i])
    return np.array(weighted), np.array(raw)


@pytest.mark.parametrize(
    ("prediction_type", "options"),
    [
        *[pytest.param(kind, row, id=f"{name}, {kind}") for name, row in ROWS.items()
          for kind in ("epsilon", "v_prediction")],
        pytest.param("v_prediction", OF_VELOCITY, id="velocity like noise"),
        pytest.param("epsilon", OF_NOISE, id="noise like velocity"),
    ],
)  # fmt: skip
def test_the_whole_loss_equals_the_formula(prediction_type, options):
    unet = LinearUNet()
    draws = sample_draws((4, 4, 6), 8, 2, IDS, options)
    terms = subject.denoising_loss(unet, *batch(), draws, schedule(prediction_type), options)
    weighted, raw = loss_in_numpy(unet, prediction_type, options, draws)
    np.testing.assert_allclose(terms.loss.detach().numpy(), weighted, rtol=1e-10)
    np.testing.assert_allclose(terms.raw.numpy(), raw, rtol=1e-10)
    assert not terms.raw.requires_grad


@pytest.mark.parametrize(
    ("prediction_type", "options", "field"),
    [
        ("epsilon", OF_VELOCITY, "scale_v_pred_loss_like_noise_pred"),
        ("v_prediction", OF_NOISE, "v_pred_like_loss"),
    ],
)
def test_a_weight_of_the_other_prediction_type_is_refused(prediction_type, options, field):
    with pytest.raises(StudioError, match=field):
        subject.check_weights(schedule(prediction_type), options)


@pytest.mark.parametrize("options", [OF_NOISE, DenoisingOptions(debiased_estimation_loss=True)])
def test_an_infinite_weight_is_refused_where_it_would_be_met(options):
    terminal = subject.NoiseSchedule(zero_terminal_snr(scaled_linear_alphas_cumprod()), "epsilon")
    with pytest.raises(StudioError, match="999"):
        subject.check_weights(terminal, options)
    subject.check_weights(terminal, options, max_timestep=999)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_gradient_equals_finite_differences(prediction_type):
    unet = LinearUNet()
    draws = sample_draws((4, 4, 6), 8, 2, IDS, FULL)

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
    draws = sample_draws((4, 4, 6), 1, 0, IDS, PLAIN)
    terms = subject.denoising_loss(
        lambda *_: draws.noise.double(), latents, context, weights, draws, schedule("epsilon"), PLAIN
    )
    assert terms.loss.tolist() == [0.0, 0.0, 0.0]


def test_a_sample_s_loss_does_not_depend_on_its_batch():
    unet, options = LinearUNet(), replace(FULL, multires_noise_iterations=4, ip_noise_gamma=0.1)
    latents, context, weights = batch()
    together = subject.denoising_loss(
        unet, latents, context, weights, sample_draws((4, 4, 6), 8, 2, IDS, options), schedule("epsilon"), options
    )
    for i, sample in enumerate(IDS):
        one = slice(i, i + 1)
        draws = sample_draws((4, 4, 6), 8, 2, [sample], options)
        alone = subject.denoising_loss(
            unet, latents[one], context[one], weights[one], draws, schedule("epsilon"), options
        )
        torch.testing.assert_close(alone.loss, together.loss[one], rtol=1e-12, atol=0)


def test_an_option_leaves_the_other_draws_as_they_were():
    plain = sample_draws((4, 4, 6), 8, 2, IDS, PLAIN, 100, 900)
    every = replace(FULL, multires_noise_iterations=4, ip_noise_gamma=0.1, ip_noise_gamma_random_strength=True)
    full = sample_draws((4, 4, 6), 8, 2, IDS, every, 100, 900)
    assert torch.equal(plain.noise, full.noise) and torch.equal(plain.timesteps, full.timesteps)
    assert plain.offset is None and full.offset.shape == (3, 4, 1, 1)
    assert plain.coarse is None and full.coarse.shape == full.perturbation.shape == plain.noise.shape


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_half_precision_latents_keep_a_float32_target(prediction_type):
    """Only what the UNet reads is rounded: a UNet of zeros shows the target itself."""
    latents, context, weights = batch(torch.bfloat16)
    draws = sample_draws((4, 4, 6), 8, 2, IDS, PLAIN)
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
    draws = sample_draws((4, 4, 6), 8, 2, IDS, PLAIN)
    mask = torch.zeros(3, 1, 4, 6)
    masked = subject.denoising_loss(unet, *batch(), draws, schedule("epsilon"), PLAIN, mask)
    assert masked.loss.tolist() == [0.0, 0.0, 0.0]


def test_missing_offset_draws_and_unknown_prediction_types_are_refused():
    draws = sample_draws((4, 4, 6), 8, 2, IDS, PLAIN)
    with pytest.raises(ValueError, match="not made"):
        subject.denoising_loss(LinearUNet(), *batch(), draws, schedule("epsilon"), FULL)
    with pytest.raises(StudioError, match="prediction_type"):
        schedule("sample")


def test_the_global_generator_stays_untouched():
    before = torch.get_rng_state()
    draws = sample_draws((4, 4, 6), 8, 2, IDS, FULL)
    subject.denoising_loss(LinearUNet(), *batch(), draws, schedule("epsilon"), FULL)
    assert torch.equal(before, torch.get_rng_state())
