from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from lib_lora.base.errors import StudioError
from lib_lora.base.seeds import derive_seed
from lib_lora.models.noise_schedule import scaled_linear_alphas_cumprod
from lib_lora.training import noise as subject
from sd_scripts import functions


@pytest.fixture()
def ddpm():
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


@pytest.fixture()
def batch():
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(5, 4, 6, 8, generator=generator)
    noise = torch.randn(5, 4, 6, 8, generator=generator)
    return latents, noise, torch.tensor([0, 1, 500, 998, 999])


def alphas_in_numpy() -> np.ndarray:
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    return np.cumprod(1 - betas)


def test_alphas_equal_the_formula_in_float64():
    alphas = scaled_linear_alphas_cumprod()
    assert alphas.dtype == torch.float64 and alphas.shape == (1000,)
    np.testing.assert_allclose(alphas.numpy(), alphas_in_numpy(), rtol=1e-12)


def test_alphas_and_snr_equal_diffusers(ddpm):
    alphas = scaled_linear_alphas_cumprod()
    torch.testing.assert_close(alphas.float(), ddpm.alphas_cumprod, rtol=2e-5, atol=0)
    signal = ddpm.alphas_cumprod**0.5 / (1 - ddpm.alphas_cumprod) ** 0.5
    torch.testing.assert_close(subject.snr(alphas).float(), signal**2, rtol=2e-4, atol=0)


def test_noisy_latents_and_velocity_equal_diffusers(ddpm, batch):
    latents, noise, timesteps = batch
    alphas = scaled_linear_alphas_cumprod()
    expected = ddpm.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(subject.add_noise(latents, noise, timesteps, alphas), expected, rtol=0, atol=2e-6)
    expected = ddpm.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(subject.velocity(latents, noise, timesteps, alphas), expected, rtol=0, atol=2e-6)


def test_noisy_latents_and_velocity_equal_float64_formula(batch):
    latents, noise, timesteps = (tensor.double() if tensor.is_floating_point() else tensor for tensor in batch)
    alphas = scaled_linear_alphas_cumprod()
    a_bar = alphas_in_numpy()[timesteps.numpy()].reshape(-1, 1, 1, 1)
    z, eps = latents.numpy(), noise.numpy()
    got = subject.add_noise(latents, noise, timesteps, alphas)
    np.testing.assert_allclose(got.numpy(), np.sqrt(a_bar) * z + np.sqrt(1 - a_bar) * eps, rtol=1e-12, atol=1e-12)
    got = subject.velocity(latents, noise, timesteps, alphas)
    np.testing.assert_allclose(got.numpy(), np.sqrt(a_bar) * eps - np.sqrt(1 - a_bar) * z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_only_the_rounding_of_the_result(batch, dtype):
    latents, noise, timesteps = batch
    alphas = scaled_linear_alphas_cumprod()
    got = subject.add_noise(latents.to(dtype), noise.to(dtype), timesteps, alphas)
    exact = subject.add_noise(latents.to(dtype).double(), noise.to(dtype).double(), timesteps, alphas)
    assert got.dtype == dtype
    assert torch.equal(got, exact.float().to(dtype))


def test_noise_offset_moves_each_channel_by_its_own_strength(batch):
    latents, noise, _ = batch
    draw = torch.randn(5, 4, 1, 1, generator=torch.Generator().manual_seed(1))
    got = subject.noise_offset(noise, latents, 0.1, 0.05, draw)
    means = np.abs(latents.double().numpy().mean(axis=(2, 3), keepdims=True))
    expected = noise.double().numpy() + (0.1 + 0.05 * means) * draw.double().numpy()
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_noise_offset_by_hand_and_never_negative():
    noise = torch.zeros(1, 2, 2, 2)
    latents = torch.stack([torch.full((2, 2), -1.0), torch.full((2, 2), 3.0)])[None]
    draw = torch.tensor([2.0, 2.0]).view(1, 2, 1, 1)
    got = subject.noise_offset(noise, latents, 0.3, -0.2, draw)
    # Channel 0: 0.3 - 0.2 * |-1| = 0.1; channel 1: 0.3 - 0.2 * 3 < 0, so 0 (sd-scripts clamps it likewise).
    torch.testing.assert_close(got[0, :, 0, 0], torch.tensor([0.2, 0.0]))


def box_muller(seed: int, count: int) -> np.ndarray:
    """Normal numbers from MT19937's 24 low bits, in blocks of 16: u1 the first 8 of a block, u2 the others."""
    raw = np.random.MT19937()
    raw._legacy_seeding(seed & 0xFFFFFFFF)
    uniform = (raw.random_raw(count).astype(np.int64) & (2**24 - 1)) / 2.0**24
    u1, u2 = uniform.reshape(-1, 2, 8).transpose(1, 0, 2)
    radius = np.sqrt(-2 * np.log(1 - u1))
    return np.stack([radius * np.cos(2 * np.pi * u2), radius * np.sin(2 * np.pi * u2)], axis=1).reshape(-1)


def test_noise_is_the_same_everywhere():
    """Against Mersenne Twister and Box-Muller in numpy: nothing of the host enters."""
    got = subject.sample_noise((4, 4, 4), 42, 3, [11, "portrait.png"])
    for one, sample in zip(got, [11, "portrait.png"]):
        expected = box_muller(derive_seed(42, "noise", 3, sample), 64)
        np.testing.assert_allclose(one.reshape(-1).numpy(), expected, atol=2e-5)


def test_timesteps_are_the_same_everywhere():
    for sample in range(20):
        raw = np.random.MT19937()
        raw._legacy_seeding(derive_seed(9, "timestep", 1, sample) & 0xFFFFFFFF)
        expected = 200 + int(raw.random_raw()) % 300
        assert subject.sample_timesteps(9, 1, [sample], 200, 500).tolist() == [expected]


def test_draws_do_not_depend_on_the_batch():
    whole = subject.sample_noise((4, 3, 5), 1, 0, [1, 2, 3, 4])
    parts = torch.cat([subject.sample_noise((4, 3, 5), 1, 0, ids) for ids in ([4], [3, 2], [1])])
    assert torch.equal(whole, parts.flip(0))
    assert torch.equal(
        subject.sample_timesteps(1, 0, [1, 2, 3]), torch.cat([subject.sample_timesteps(1, 0, [i]) for i in (1, 2, 3)])
    )


def test_draws_differ_by_seed_epoch_sample_and_purpose():
    draws = [
        subject.sample_noise((4, 2, 2), 1, 0, [0]),
        subject.sample_noise((4, 2, 2), 2, 0, [0]),
        subject.sample_noise((4, 2, 2), 1, 1, [0]),
        subject.sample_noise((4, 2, 2), 1, 0, [1]),
        subject.sample_noise((4, 2, 2), 1, 0, [0], "noise_offset"),
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_noise_is_standard_normal_and_uncorrelated_between_samples():
    many = subject.sample_noise((4, 8, 8), 5, 0, range(400)).double()
    assert abs(many.mean()) < 0.01 and abs(many.std() - 1) < 0.01
    flat = many.flatten(1)
    neighbours = (flat[1:] * flat[:-1]).mean(dim=1)
    assert abs(neighbours.mean()) < 0.01


def test_timesteps_are_uniform_and_keep_their_bounds():
    drawn = subject.sample_timesteps(5, 0, range(5000), 100, 900)
    assert drawn.dtype == torch.int64 and drawn.min() >= 100 and drawn.max() < 900
    counts = np.histogram(drawn.numpy(), bins=np.arange(100, 901, 100))[0]
    chi_squared = ((counts - 625) ** 2 / 625).sum()
    assert chi_squared < 24.3  # 99.9 % of a chi-squared distribution with 7 degrees of freedom
    assert subject.sample_timesteps(5, 0, [0], 999, 1000).tolist() == [999]


@pytest.mark.parametrize(("minimum", "maximum"), [(500, 500), (-1, 10), (0, 1001), (700, 300)])
def test_an_impossible_range_of_timesteps_is_refused(minimum, maximum):
    with pytest.raises(StudioError, match="min_timestep"):
        subject.sample_timesteps(0, 0, [0], minimum, maximum)


def test_global_generators_stay_untouched():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    subject.sample_noise((4, 4, 4), 1, 0, [0, 1])
    subject.sample_timesteps(1, 0, [0, 1])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


def coarse_in_numpy(seed, shape, levels, discount) -> np.ndarray:
    """The levels once more: the same draws, enlarged by hand with half-pixel centres."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    total = np.zeros(shape)
    for level in range(levels):
        ratio = 2 + 2 * torch.rand((), generator=generator, dtype=torch.float64).item()
        rows, columns = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        small = torch.randn(1, channels, rows, columns, generator=generator)[0].double().numpy()
        for axis, (old, new) in ((1, (rows, height)), (2, (columns, width))):
            place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
            low = np.minimum(place.astype(int), old - 1)
            high, share = np.minimum(low + 1, old - 1), place - low
            share = share.reshape([-1 if each == axis else 1 for each in range(3)])
            small = small.take(low, axis) * (1 - share) + small.take(high, axis) * share
        total += discount**level * small
        if 1 in (rows, columns):
            break
    return total


@pytest.mark.parametrize(("shape", "levels"), [((4, 8, 12), 6), ((4, 16, 16), 2)])
def test_multires_noise_equals_its_formula(shape, levels):
    got = subject.multires_noise(shape, levels, 0.4, torch.Generator().manual_seed(3))
    np.testing.assert_allclose(got.numpy(), coarse_in_numpy(3, shape, levels, 0.4), atol=1e-5)


def test_multires_noise_is_spread_as_that_of_sd_scripts():
    """sd-scripts draws from the global generators: what can be compared is how strong each frequency comes out."""
    theirs = functions("library/custom_train_functions.py", "pyramid_noise_like").pyramid_noise_like
    random.seed(0)
    torch.manual_seed(0)
    shape, count = (4, 16, 16), 300
    kohya = theirs(torch.randn(count, *shape), "cpu", 6, 0.8)
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    ours = torch.randn(count, *shape) + torch.stack([subject.multires_noise(shape, 6, 0.8, g) for g in generators])
    ours = ours / ours.std()
    spectra = [torch.fft.rfft2(noise).abs().pow(2).mean(dim=(0, 1)) for noise in (ours, kohya)]
    low = [spectrum[:2, :2].mean() / spectrum.mean() for spectrum in spectra]
    high = [spectrum[6:10, 6:].mean() / spectrum.mean() for spectrum in spectra]
    torch.testing.assert_close(low[0], low[1], rtol=0.1, atol=0)
    torch.testing.assert_close(high[0], high[1], rtol=0.1, atol=0)


def test_an_offset_equals_sd_scripts():
    theirs = functions("library/custom_train_functions.py", "apply_noise_offset").apply_noise_offset
    latents, noise = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    torch.manual_seed(5)
    expected = theirs(latents, noise, 0.1, 0.3)
    torch.manual_seed(5)
    draw = torch.randn(2, 4, 1, 1)
    torch.testing.assert_close(subject.noise_offset(noise, latents, 0.1, 0.3, draw), expected)
