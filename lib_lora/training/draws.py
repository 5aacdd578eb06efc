"""The random part of a step: what is drawn for each sample, and the noise that is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lib_lora.training.noise import (
    TRAIN_STEPS,
    multires_noise,
    noise_offset,
    sample_generator,
    sample_noise,
    sample_timesteps,
)


@dataclass(frozen=True)
class NoiseOptions:
    """What changes the noise; names and meanings are those of the options of a run.

    Args:
        noise_offset: strength of the per-channel offset; 0 is off.
        noise_offset_random_strength: each sample has its strength drawn from 0 to ``noise_offset``.
        adaptive_noise_scale: adds this times |mean of the latents' channel| to the offset; 0 is off.
        multires_noise_iterations: levels of coarser noise that are added; 0 is off.
        multires_noise_discount: strength of each level against the one before it.
        ip_noise_gamma: strength of the noise that is added to what the UNet sees alone; 0 is off.
        ip_noise_gamma_random_strength: each sample has its strength drawn from 0 to ``ip_noise_gamma``.
    """

    noise_offset: float = 0.0
    noise_offset_random_strength: bool = False
    adaptive_noise_scale: float = 0.0
    multires_noise_iterations: int = 0
    multires_noise_discount: float = 0.3
    ip_noise_gamma: float = 0.0
    ip_noise_gamma_random_strength: bool = False

    @property
    def offsets(self) -> bool:
        """Whether the noise needs the draw of an offset."""
        return self.noise_offset != 0.0 or self.adaptive_noise_scale != 0.0


@dataclass(frozen=True)
class Draws:
    """The random part of a step, on the CPU; what no option asks for is None.

    Attributes:
        noise: [B, C, h, w].
        timesteps: int64 [B].
        offset: standard normal [B, C, 1, 1].
        offset_strength: [B, 1, 1, 1], of ``noise_offset``.
        coarse: the sum of the coarser levels, [B, C, h, w].
        perturbation: what only the UNet sees, [B, C, h, w], with its strength.
    """

    noise: torch.Tensor
    timesteps: torch.Tensor
    offset: torch.Tensor | None = None
    offset_strength: torch.Tensor | None = None
    coarse: torch.Tensor | None = None
    perturbation: torch.Tensor | None = None


@dataclass(frozen=True)
class StepRandom:
    """Who owns a step's draws: the run's seed and the epoch; each sample adds its own id."""

    seed: int
    epoch: int


def sample_draws(
    shape_of_one: Sequence[int],
    seed: int,
    epoch: int,
    sample_ids: Sequence[int | str],
    options: NoiseOptions,
    min_timestep: int = 0,
    max_timestep: int = TRAIN_STEPS,
) -> Draws:
    """The draws of a batch, on the CPU; ``shape_of_one`` is the latents' [C, h, w] and ``max_timestep`` is exclusive.

    Each kind of draw has its own seed: switching an option on leaves the other draws as they were.
    """
    noise = sample_noise(shape_of_one, seed, epoch, sample_ids, "noise")
    timesteps = sample_timesteps(seed, epoch, sample_ids, min_timestep, max_timestep)
    extra = dict(_extra_draws(shape_of_one, seed, epoch, sample_ids, options))
    return Draws(noise, timesteps, **extra)


def _extra_draws(
    shape: Sequence[int], seed: int, epoch: int, samples: Sequence[int | str], options: NoiseOptions
) -> Iterator[tuple[str, torch.Tensor]]:
    def shares(purpose: str) -> torch.Tensor:
        """Uniform from 0 to 1, float64 [B, 1, 1, 1]."""
        generators = [sample_generator(seed, purpose, epoch, sample) for sample in samples]
        draws = [torch.rand(1, generator=each, dtype=torch.float64) for each in generators]
        return torch.stack(draws).view(-1, 1, 1, 1)

    if options.offsets:
        yield "offset", sample_noise((shape[0], 1, 1), seed, epoch, samples, "noise_offset")
        strength = torch.full((len(samples), 1, 1, 1), options.noise_offset, dtype=torch.float64)
        random = options.noise_offset_random_strength
        yield "offset_strength", strength * shares("noise_offset strength") if random else strength
    if options.multires_noise_iterations:
        levels, discount = options.multires_noise_iterations, options.multires_noise_discount
        generators = [sample_generator(seed, "multires noise", epoch, sample) for sample in samples]
        yield "coarse", torch.stack([multires_noise(shape, levels, discount, each) for each in generators])
    if options.ip_noise_gamma:
        noise = options.ip_noise_gamma * sample_noise(shape, seed, epoch, samples, "ip noise")
        random = options.ip_noise_gamma_random_strength
        yield "perturbation", noise * shares("ip noise strength").float() if random else noise


def training_noise(draws: Draws, latents: torch.Tensor, options: NoiseOptions) -> torch.Tensor:
    """The noise that is to be predicted, on the latents' device and in their type.

    First the offset, then the coarser levels, after which each sample is divided by its standard deviation.
    sd-scripts divides by that of the whole batch, in which a sample would depend on its neighbours.

    Raises:
        ValueError: the options ask for draws that were not made.
    """
    noise = draws.noise.to(latents)
    if options.offsets:
        offset, strength = _made(draws.offset).to(latents), _made(draws.offset_strength).to(latents)
        noise = noise_offset(noise, latents, strength, options.adaptive_noise_scale, offset)
    if options.multires_noise_iterations:
        noise = noise + _made(draws.coarse).to(latents)
        noise = noise / noise.flatten(1).std(dim=1).view(-1, 1, 1, 1)
    return noise


def seen_noise(draws: Draws, noise: torch.Tensor, options: NoiseOptions) -> torch.Tensor:
    """The noise in what the UNet sees: with input perturbation (arXiv 2301.11706) more than it is to predict."""
    return noise + _made(draws.perturbation).to(noise) if options.ip_noise_gamma else noise


def _made(draw: torch.Tensor | None) -> torch.Tensor:
    if draw is None:
        raise ValueError("the options ask for a draw that was not made")
    return draw
