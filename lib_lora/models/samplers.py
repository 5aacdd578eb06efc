"""Samplers: from noise to latents, step by step. Pure maths; what predicts is handed in.

Every solver has k-diffusion's shape: ``solve(denoise, x, levels, *, noise_sampler, callback) -> x`` where

* ``x`` is [B, C, h, w] float32, already at the first noise level;
* ``levels`` are falling sigmas with 0 at the end, or for DDIM rising timesteps;
* ``denoise(x, level [B])`` gives the predicted x0 (sigma samplers) or the predicted noise (DDIM);
* ``noise_sampler()`` gives the next standard normal noise like ``x``;
* ``callback(step)`` comes after each step, from 1; it may raise to end the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.registry import Registry

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
NoiseSampler = Callable[[], torch.Tensor]
Callback = Callable[[int], None]

TERMINAL_ALPHA = 4.8973451890853435e-08  # what the WebUI puts in place of 0 in its Zero Terminal SNR schedule


class SigmaTable:
    """Sigmas of a model's 1000 training timesteps, and the levels that samplers visit.

    sigma = sqrt((1 - a) / a) with a the cumulative product of alphas; between timesteps log(sigma) is linear
    (k-diffusion's ``DiscreteSchedule``). Computed in float32 as there, on the CPU.

    Args:
        alphas_cumprod: [T], falling.
    """

    def __init__(self, alphas_cumprod: torch.Tensor) -> None:
        self.alphas_cumprod = alphas_cumprod.detach().to("cpu", torch.float32).clamp(min=TERMINAL_ALPHA)
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5
        self.log_sigmas = self.sigmas.log()

    def sigma_of(self, timesteps: torch.Tensor) -> torch.Tensor:
        """The sigma at timesteps that need not be whole."""
        low, high, part = timesteps.floor().long(), timesteps.ceil().long(), timesteps.frac()
        return ((1 - part) * self.log_sigmas[low] + part * self.log_sigmas[high]).exp()

    def timestep_of(self, sigma: float) -> float:
        """The timestep, not a whole number, at which the noise level is ``sigma``."""
        log_sigma = torch.tensor(sigma, dtype=torch.float32).log()
        above = int(torch.searchsorted(self.log_sigmas, log_sigma, right=True))
        low = min(max(above - 1, 0), len(self.log_sigmas) - 2)
        start, end = self.log_sigmas[low], self.log_sigmas[low + 1]
        part = ((start - log_sigma) / (start - end)).clamp(0, 1)
        return float((1 - part) * low + part * (low + 1))

    def uniform(self, steps: int) -> torch.Tensor:
        """[steps + 1]: the sigmas of timesteps evenly from the last to 0, then 0."""
        timesteps = torch.linspace(len(self.sigmas) - 1, 0, steps)
        return torch.cat([self.sigma_of(timesteps), torch.zeros(1)])

    def karras(self, steps: int, rho: float = 7.0) -> torch.Tensor:
        """[steps + 1]: sigma^(1/rho) falls linearly, then 0 (Karras et al. 2022, equation 5)."""
        low, high = self.sigmas[0].item() ** (1 / rho), self.sigmas[-1].item() ** (1 / rho)
        return torch.cat([(high + torch.linspace(0, 1, steps) * (low - high)) ** rho, torch.zeros(1)])

    def ddim_timesteps(self, steps: int) -> torch.Tensor:
        """The WebUI's timesteps for DDIM: every (1000 // steps)-th, plus 1, rising.

        There may be more of them than ``steps``; the first is where the picture ends, not a step of its own.
        """
        return torch.arange(0, 1000, 1000 // steps).add(1).clamp(0, 999)


def euler(
    denoise: Denoise,
    x: torch.Tensor,
    levels: torch.Tensor,
    *,
    noise_sampler: NoiseSampler | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """x += (x - x0) / sigma (sigma' - sigma): Karras et al. 2022, algorithm 2 without churn."""
    for step, (sigma, sigma_next) in enumerate(_pairs(levels), 1):
        x0 = denoise(x, _level(x, sigma))
        x = x + (x - x0) * ((sigma_next - sigma) / sigma)
        if callback is not None:
            callback(step)
    return x


def euler_ancestral(
    denoise: Denoise,
    x: torch.Tensor,
    levels: torch.Tensor,
    *,
    noise_sampler: NoiseSampler,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Euler to below the next level, then noise up to it; eta 1.

    sigma_up = min(sigma', sigma' sqrt(sigma^2 - sigma'^2) / sigma), sigma_down = sqrt(sigma'^2 - sigma_up^2)
    (k-diffusion's ``get_ancestral_step``).
    """
    for step, (sigma, sigma_next) in enumerate(_pairs(levels), 1):
        x0 = denoise(x, _level(x, sigma))
        sigma_up = min(sigma_next, sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma)
        sigma_down = math.sqrt(sigma_next**2 - sigma_up**2)
        x = x + (x - x0) * ((sigma_down - sigma) / sigma)
        if sigma_next > 0:
            x = x + noise_sampler() * sigma_up
        if callback is not None:
            callback(step)
    return x


def dpmpp_2m(
    denoise: Denoise,
    x: torch.Tensor,
    levels: torch.Tensor,
    *,
    noise_sampler: NoiseSampler | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M): Lu et al. 2022 (arXiv:2211.01095), algorithm 2, with alpha 1.

    With lambda = -log(sigma), h = lambda' - lambda and r = h_last / h:
    D = x0 + (x0 - x0_last) / (2 r),  x = (sigma' / sigma) x + (1 - sigma' / sigma) D.
    The first step and the one to 0 take D = x0.
    """
    x0_last, sigma_last = None, math.nan
    for step, (sigma, sigma_next) in enumerate(_pairs(levels), 1):
        x0 = denoise(x, _level(x, sigma))
        ratio, target = sigma_next / sigma, x0
        if x0_last is not None and sigma_next > 0:
            r = math.log(sigma_last / sigma) / math.log(sigma / sigma_next)
            target = x0 + (x0 - x0_last) / (2 * r)
        x = ratio * x + (1 - ratio) * target
        x0_last, sigma_last = x0, sigma
        if callback is not None:
            callback(step)
    return x


def ddim(
    denoise: Denoise,
    x: torch.Tensor,
    levels: torch.Tensor,
    *,
    alphas_cumprod: torch.Tensor,
    noise_sampler: NoiseSampler | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """DDIM with eta 0: Song et al. 2020 (arXiv:2010.02502), equation 12.

    x0 = (x - sqrt(1 - a) eps) / sqrt(a),  x = sqrt(a') x0 + sqrt(1 - a') eps. The last step ends at the first
    timestep, as in the WebUI (``sd_samplers_timesteps_impl.ddim``), and not at 0.
    """
    falling = levels.flip(0).tolist()
    for step, (timestep, timestep_next) in enumerate(pairwise(falling), 1):
        eps = denoise(x, _level(x, timestep))
        alpha, alpha_next = alphas_cumprod[timestep].item(), alphas_cumprod[timestep_next].item()
        x0 = (x - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
        x = math.sqrt(alpha_next) * x0 + math.sqrt(1 - alpha_next) * eps
        if callback is not None:
            callback(step)
    return x


def _pairs(levels: torch.Tensor) -> list[tuple[float, float]]:
    return list(pairwise(levels.tolist()))


def _level(x: torch.Tensor, level: float) -> torch.Tensor:
    return torch.full((x.shape[0],), float(level), dtype=torch.float32, device=x.device)


@dataclass(frozen=True)
class Sampler:
    """A solver with the schedule that the WebUI's "Automatic" gives it.

    Attributes:
        solve: as this module's docstring says.
        schedule: "Uniform", "Karras", or "DDIM" for the one that works on timesteps.
    """

    solve: Callable[..., torch.Tensor]
    schedule: str

    @property
    def on_timesteps(self) -> bool:
        return self.schedule == "DDIM"

    def levels(self, table: SigmaTable, steps: int, schedule: str = "Automatic") -> torch.Tensor:
        """What to visit in ``steps`` steps. DDIM has only its own schedule and takes no notice of another.

        Raises:
            StudioError: unknown schedule, or a number of steps that cannot be.
        """
        if schedule not in SCHEDULES:
            raise StudioError("unknown name", field="schedule", came=schedule, allowed=SCHEDULES)
        fewest = 2 if self.on_timesteps else 1  # DDIM's first timestep is no step: of one step none is left
        if not fewest <= steps <= 1000:
            raise StudioError("not allowed", field="steps", came=steps, allowed=f"a whole number from {fewest} to 1000")
        if self.on_timesteps:
            return table.ddim_timesteps(steps)
        chosen = self.schedule if schedule == "Automatic" else schedule
        return table.karras(steps) if chosen == "Karras" else table.uniform(steps)


SCHEDULES = ("Automatic", "Uniform", "Karras")
SAMPLERS: Registry[Sampler] = Registry("sampler")
SAMPLERS.register("Euler")(Sampler(euler, "Uniform"))
SAMPLERS.register("Euler a")(Sampler(euler_ancestral, "Uniform"))
SAMPLERS.register("DPM++ 2M")(Sampler(dpmpp_2m, "Karras"))
SAMPLERS.register("DPM++ 2M Karras")(Sampler(dpmpp_2m, "Karras"))
SAMPLERS.register("DDIM")(Sampler(ddim, "DDIM"))
