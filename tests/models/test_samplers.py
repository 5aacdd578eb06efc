"""Solvers against solutions in closed form, other libraries and the formulas written out again in float64."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from lib_lora.base.errors import StudioError
from lib_lora.models.noise_schedule import scaled_linear_alphas_cumprod
from lib_lora.models.samplers import SAMPLERS, SigmaTable, ddim, dpmpp_2m, euler, euler_ancestral

MEAN, STD = 0.7, 0.5


@pytest.fixture(scope="module")
def table():
    return SigmaTable(scaled_linear_alphas_cumprod())


def start(seed=0):
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_x0(x, sigma):
    """E[x0 | x] for data N(MEAN, STD^2): exact, so that the ODE's solution is known."""
    sigma = sigma.double()[:, None, None, None]
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def exact(x, sigma, sigma_end):
    """The probability flow: x - MEAN shrinks as sqrt(STD^2 + sigma^2) does."""
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + sigma_end**2) / (STD**2 + sigma**2))


@pytest.mark.parametrize(("solve", "steps", "order"), [(euler, 200, 1), (dpmpp_2m, 50, 2)])
def test_solvers_approach_the_known_solution_with_their_order(table, solve, steps, order):
    x = start() * table.sigmas[-1].item()
    errors = []
    for n in (steps, 2 * steps):
        levels = table.karras(n)[:-1].double()  # the step to 0 is first order in every solver
        expected = exact(x, levels[0].item(), levels[-1].item())
        errors.append((solve(gaussian_x0, x, levels) - expected).abs().max().item())
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 2**order * 1.4


def test_euler_is_its_formula_written_out(table):
    levels = table.uniform(7)
    x = expected = start() * levels[0].item()
    for sigma, sigma_next in zip(levels[:-1].double(), levels[1:].double()):
        d = (expected - gaussian_x0(expected, sigma.repeat(2))) / sigma
        expected = expected + d * (sigma_next - sigma)
    assert torch.allclose(euler(gaussian_x0, x, levels), expected, rtol=1e-12)


def test_euler_ancestral_is_its_formula_written_out(table):
    levels = table.uniform(6)
    noises = [start(seed) for seed in range(1, 6)]
    x = expected = start() * levels[0].item()
    for i, (sigma, sigma_next) in enumerate(zip(levels[:-1].double(), levels[1:].double())):
        up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
        down = (sigma_next**2 - up**2) ** 0.5
        d = (expected - gaussian_x0(expected, sigma.repeat(2))) / sigma
        expected = expected + d * (down - sigma)
        if sigma_next > 0:
            expected = expected + noises[i] * up
    given = iter(noises)
    result = euler_ancestral(gaussian_x0, x, levels, noise_sampler=lambda: next(given))
    assert torch.allclose(result, expected, rtol=1e-10)
    assert next(given, None) is None, "one draw for each step but the last"


def test_ancestral_noise_makes_the_data_distribution(table):
    generator = torch.Generator().manual_seed(0)
    levels = table.karras(60)
    x = torch.randn(2, 4, 40, 40, generator=generator) * levels[0].item()
    end = euler_ancestral(
        lambda x, sigma: gaussian_x0(x, sigma).float(),
        x,
        levels,
        noise_sampler=lambda: torch.randn(x.shape, generator=generator),
    )
    assert end.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert end.std().item() == pytest.approx(STD, abs=0.05)


def test_dpmpp_2m_is_the_papers_formula(table):
    levels = table.karras(5)
    x = expected = start() * levels[0].item()
    lambdas = [-math.log(s) if s else math.inf for s in levels.tolist()]
    last = None
    for i in range(5):
        x0 = gaussian_x0(expected, levels[i].repeat(2))
        h = lambdas[i + 1] - lambdas[i]
        target = x0
        if 0 < i < 4:
            r = (lambdas[i] - lambdas[i - 1]) / h
            target = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * last
        expected = math.exp(-h) * expected - math.expm1(-h) * target
        last = x0
    assert torch.allclose(dpmpp_2m(gaussian_x0, x, levels), expected, rtol=1e-10)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_ddim_equals_diffusers(table, steps):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    scheduler.set_timesteps(steps)
    timesteps = table.ddim_timesteps(steps)
    assert timesteps.flip(0).tolist() == scheduler.timesteps.tolist()
    x = expected = start()
    for t, t_next in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:]):
        assert t - 1000 // steps == t_next
        expected = scheduler.step(torch.sin(expected) + t / 1000, t, expected).prev_sample

    def eps(x, t):
        return torch.sin(x) + t[:, None, None, None] / 1000

    result = ddim(eps, x, timesteps, alphas_cumprod=scheduler.alphas_cumprod)
    assert torch.allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_ddims_timesteps_are_the_webuis(table):
    assert table.ddim_timesteps(8).tolist() == [1, 126, 251, 376, 501, 626, 751, 876]
    assert len(table.ddim_timesteps(15)) == 16  # 1000 // 15 = 66: one more than asked for
    assert table.ddim_timesteps(1000)[-1] == 999


def test_sigmas_are_those_of_sd1(table):
    assert table.sigmas[0].item() == pytest.approx(0.0292, abs=5e-5)  # as k-diffusion prints them for SD1
    assert table.sigmas[-1].item() == pytest.approx(14.6146, abs=5e-4)
    levels = table.uniform(4)
    alphas = scaled_linear_alphas_cumprod()
    log_sigmas = 0.5 * torch.log((1 - alphas) / alphas)
    expected = [math.exp(log_sigmas[t]) for t in (999, 666, 333, 0)]
    assert levels.tolist() == pytest.approx([*expected, 0], rel=5e-5)


def test_karras_sigmas_are_the_papers(table):
    low, high = table.sigmas[0].item(), table.sigmas[-1].item()
    expected = [(high ** (1 / 7) + i / 4 * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(5)]
    assert table.karras(5).tolist() == pytest.approx([*expected, 0], rel=1e-5)


@pytest.mark.parametrize("timestep", [0.0, 0.25, 17.5, 500.0, 998.75, 999.0])
def test_timesteps_and_sigmas_are_each_others_inverse(table, timestep):
    sigma = table.sigma_of(torch.tensor(timestep)).item()
    assert table.timestep_of(sigma) == pytest.approx(timestep, abs=2e-3)


def test_timesteps_beyond_the_table_are_its_ends(table):
    assert table.timestep_of(1e-4) == 0
    assert table.timestep_of(100.0) == 999


def test_every_sampler_reports_each_step(table):
    for name in SAMPLERS:
        sampler, steps = SAMPLERS.get(name), []
        levels = sampler.levels(table, 5)
        more = {"alphas_cumprod": table.alphas_cumprod} if sampler.on_timesteps else {}
        sampler.solve(lambda x, level: x * 0.1, start(), levels, noise_sampler=start, callback=steps.append, **more)
        assert steps == list(range(1, len(levels)))


def test_automatic_means_karras_for_dpm_and_uniform_for_euler(table):
    assert torch.equal(SAMPLERS.get("dpm++ 2m").levels(table, 5), table.karras(5))
    assert torch.equal(SAMPLERS.get("DPM++ 2M").levels(table, 5, "Uniform"), table.uniform(5))
    assert torch.equal(SAMPLERS.get("Euler a").levels(table, 5), table.uniform(5))
    assert torch.equal(SAMPLERS.get("Euler").levels(table, 5, "Karras"), table.karras(5))


@pytest.mark.parametrize(("name", "steps"), [("Euler", 0), ("DDIM", 1), ("DDIM", 1001)])
def test_impossible_numbers_of_steps_are_refused(table, name, steps):
    with pytest.raises(StudioError, match="steps"):
        SAMPLERS.get(name).levels(table, steps)


def test_unknown_names_are_refused(table):
    with pytest.raises(StudioError, match="sampler.*Euler a"):
        SAMPLERS.get("Eular")
    with pytest.raises(StudioError, match="schedule"):
        SAMPLERS.get("Euler").levels(table, 5, "Cosine")
