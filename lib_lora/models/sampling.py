"""Pictures from prompts: on the CPU the same as A1111 v1.10.1 makes of the same prompt, seed and settings.

What the WebUI's settings have by default holds here: emphasis "Original", word wrap 20, comments removed, prompt
and negative prompt not padded to one length, eta 1 for "Euler a" and 0 for DDIM, no quantization, latents and VAE
without approximation. With an inpainting checkpoint the whole picture is masked. The WebUI's textual inversions,
hires fix and refiner are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.models.conditioning import Conditioning, stack
from lib_lora.models.model import DiffusionModel
from lib_lora.models.noise import ImageNoise
from lib_lora.models.odd_sizes import webui_upsampling
from lib_lora.models.prompt import encode_prompt
from lib_lora.models.samplers import SAMPLERS, Denoise, Sampler, SigmaTable
from lib_lora.text.editing import editing_schedule, split_composition, strip_comments
from lib_lora.text.extra_networks import has_tags

LATENT_PX = 8
OnStep = Callable[[int, int], None]
# (x [n, C, h, w], level [n], the conditioning of n texts) -> x0 or noise like x
Evaluate = Callable[[torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


@dataclass(frozen=True)
class PictureSettings:
    """How a picture is made; the fields mean what the WebUI calls them. Checked when made.

    Raises:
        StudioError: unknown sampler, a size that is no multiple of 8, ...
    """

    steps: int = 20
    sampler: str = "Euler a"
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    clip_skip: int = 1
    schedule: str = "Automatic"
    randn_source: str = "CPU"

    def __post_init__(self) -> None:
        SAMPLERS.get(self.sampler)
        for name in ("width", "height"):
            size = getattr(self, name)
            if size <= 0 or size % LATENT_PX:
                raise StudioError("not allowed", field=name, came=size, allowed=f"a multiple of {LATENT_PX} px")


def generate(
    model: DiffusionModel,
    prompt: str,
    negative_prompt: str = "",
    *,
    seed: int,
    control: Control | None = None,
    on_step: OnStep | None = None,
    **settings: Any,
) -> np.ndarray | None:
    """One picture.

    Args:
        prompt: with everything that the WebUI's prompts know (see ``text.emphasis``, ``text.editing``), but
            without ``<lora:...>``, which ``text.extra_networks`` takes out: whoever attaches LoRAs does so before.
        seed: from 0 to 2^63 - 1.
        control: looked at after each step.
        on_step: called after each step with the steps done and their total.
        settings: ``PictureSettings``.

    Returns:
        uint8 [height, width, 3], or None when ``control`` asked to stop.

    Raises:
        StudioError: a setting or the model is not usable, or the picture holds values that are no numbers.
    """
    pictures = generate_many(model, prompt, negative_prompt, seeds=[seed], control=control, on_step=on_step, **settings)
    return None if pictures is None else pictures[0]


@torch.no_grad()
def generate_many(
    model: DiffusionModel,
    prompt: str,
    negative_prompt: str = "",
    *,
    seeds: Sequence[int],
    control: Control | None = None,
    on_step: OnStep | None = None,
    **settings: Any,
) -> list[np.ndarray] | None:
    """One picture for each seed, made in one batch; each is what ``generate`` makes of its seed."""
    wanted = PictureSettings(**settings)
    latents = generate_latents(model, prompt, negative_prompt, seeds, wanted, control, on_step)
    return None if latents is None else [decode(model, latent) for latent in latents.split(1)]


@torch.no_grad()
def generate_latents(
    model: DiffusionModel,
    prompt: str,
    negative_prompt: str,
    seeds: Sequence[int],
    settings: PictureSettings,
    control: Control | None = None,
    on_step: OnStep | None = None,
) -> torch.Tensor | None:
    """float32 [B, C, height / 8, width / 8] in the UNet's scale, or None when ``control`` asked to stop."""
    _check(model, (prompt, negative_prompt), seeds)
    sampler, table = SAMPLERS.get(settings.sampler), SigmaTable(model.alphas_cumprod)
    levels = sampler.levels(table, settings.steps, settings.schedule)
    guided = _Guided(
        _evaluate(model, table, sampler, settings),
        _positive(model, prompt, settings),
        _negative(model, negative_prompt, settings),
        settings.cfg_scale,
    )
    shape = (model.latent_channels, settings.height // LATENT_PX, settings.width // LATENT_PX)
    noise = ImageNoise(shape, seeds, settings.randn_source, model.device)
    total = len(levels) - 1

    def after_step(step: int) -> None:
        if on_step is not None:
            on_step(step, total)
        if control is not None and control.stopping and step < total:
            raise _Stopped

    try:
        with webui_upsampling(model.unet):
            latents = _solve(sampler, table, guided, noise, levels, after_step)
    except _Stopped:
        return None
    _check_finite(latents, "UNet", model)
    return latents


@torch.no_grad()
def decode(model: DiffusionModel, latent: torch.Tensor) -> np.ndarray:
    """One latent [1, C, h, w] as uint8 [8 h, 8 w, 3]; fractions of a grey level are cut off, as in the WebUI."""
    scaled = (latent / model.vae.config.scaling_factor).to(model.compute_dtype)
    picture = model.vae.decode(scaled, return_dict=False)[0][0].float()
    _check_finite(picture, "VAE", model)
    picture = torch.clamp((picture + 1.0) / 2.0, min=0.0, max=1.0)
    return (255.0 * picture.permute(1, 2, 0).cpu().numpy()).astype(np.uint8)


class _Stopped(Exception):
    """The control asked to stop."""


def generate_picture(
    model: DiffusionModel,
    request: PictureRequest,
    *,
    control: Control | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Image.Image | None:
    """``generate`` for a request whose prompt names no LoRA, with the noise of the model's pictures."""
    pixels = generate(
        model,
        request.prompt,
        request.negative,
        seed=request.seed,
        steps=request.steps,
        sampler=request.sampler,
        cfg_scale=request.cfg_scale,
        width=request.width,
        height=request.height,
        clip_skip=request.clip_skip,
        randn_source=model.randn_source,
        control=control,
        on_step=on_step,
    )
    return None if pixels is None else Image.fromarray(pixels)


def _check(model: DiffusionModel, prompts: Sequence[str], seeds: Sequence[int]) -> None:
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise StudioError("not allowed", field="seed", came=seed, allowed="a whole number from 0 to 2^63 - 1")
    if has_tags(prompts[0]):
        raise StudioError("tags must be taken out of the prompt first", field="prompt", came=prompts[0])


def _check_finite(tensor: torch.Tensor, part: str, model: DiffusionModel) -> None:
    if not torch.isfinite(tensor).all():
        raise StudioError(
            f"the {part} gave values that are no numbers",
            file=model.path or model.name,
            allowed="a model that works in this precision; float32 always should",
        )


def _solve(
    sampler: Sampler,
    table: SigmaTable,
    denoise: Denoise,
    noise: ImageNoise,
    levels: torch.Tensor,
    after_step: Callable[[int], None],
) -> torch.Tensor:
    x = noise.next()
    if sampler.on_timesteps:
        schedule = {"alphas_cumprod": table.alphas_cumprod}
    else:
        schedule, x = {}, x * levels[0].item()
    return sampler.solve(denoise, x, levels, noise_sampler=noise.next, callback=after_step, **schedule)


def _evaluate(model: DiffusionModel, table: SigmaTable, sampler: Sampler, settings: PictureSettings) -> Evaluate:
    """The UNet as a predictor of what the sampler wants."""
    is_v = model.prediction_type == "v_prediction"
    height, width = settings.height, settings.width
    # Nothing is cut off, and the picture is as large as it is wanted (modules/sd_models_xl.py).
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=model.device)
    masked = _all_masked(model, settings) if model.inpainting else None

    def predict(x: torch.Tensor, timestep: float, conditioning: Conditioning) -> torch.Tensor:
        n = len(x)
        timesteps = torch.full((n,), timestep, dtype=torch.float32, device=x.device)
        if model.compute_dtype == torch.float16:  # the WebUI rounds timesteps to the UNet's precision
            timesteps = timesteps.half().float()
        conditioning = conditioning.to(x.device, model.compute_dtype)
        beside = None if masked is None else masked.expand(n, -1, -1, -1)
        return model.predict(x.to(model.compute_dtype), timesteps, conditioning, sizes.expand(n, -1), beside).float()

    def x0(x: torch.Tensor, sigmas: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        sigma = sigmas[0].item()
        scale = (sigma**2 + 1) ** -0.5
        prediction = predict(x * scale, table.timestep_of(sigma), conditioning)
        return x * scale**2 - prediction * (sigma * scale) if is_v else x - prediction * sigma

    def noise(x: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        prediction = predict(x, timesteps[0].item(), conditioning)
        if not is_v:
            return prediction
        alpha = table.alphas_cumprod[int(timesteps[0])].item()
        return prediction * alpha**0.5 + x * (1 - alpha) ** 0.5

    return noise if sampler.on_timesteps else x0


def _all_masked(model: DiffusionModel, settings: PictureSettings) -> torch.Tensor:
    """[1, 1 + C, h, w] for an inpainting UNet: everything is masked, and of the picture mid-grey is left.

    Source: A1111 v1.10.1, modules/processing.py, ``txt2img_image_conditioning``. It draws the latents from the VAE's
    posterior, another time others; here it is the posterior's mean.
    """
    grey = torch.zeros(1, 3, settings.height, settings.width, device=model.device, dtype=model.compute_dtype)
    latents = model.vae.encode(grey).latent_dist.mode().float() * model.vae.config.scaling_factor
    return torch.cat([torch.ones_like(latents[:, :1]), latents], dim=1)


class _Scheduled:
    """The conditionings of one text that follow one another (prompt editing)."""

    def __init__(
        self, model: DiffusionModel, text: str, settings: PictureSettings, *, is_negative: bool = False
    ) -> None:
        versions = editing_schedule(text, settings.steps)
        self.entries = [
            (last_step, encode_prompt(model, version, settings.clip_skip)) for last_step, version in versions
        ]
        # SDXL takes zeros for an empty negative prompt (modules/sd_models_xl.py, force_zero_negative_prompt).
        if is_negative and model.family is Family.SDXL and all(version == "" for _, version in versions):
            self.entries = [(last_step, conditioning.zeros()) for last_step, conditioning in self.entries]

    def at(self, step: int) -> Conditioning:
        """The one for the ``step``-th evaluation, counted from 0, as the WebUI counts; the first one past the last."""
        return next((entry for last_step, entry in self.entries if step <= last_step), self.entries[0][1])


def _positive(model: DiffusionModel, prompt: str, settings: PictureSettings) -> list[tuple[_Scheduled, float]]:
    parts = split_composition(strip_comments(prompt))
    return [(_Scheduled(model, text, settings), weight) for text, weight in parts]


def _negative(model: DiffusionModel, prompt: str, settings: PictureSettings) -> _Scheduled:
    return _Scheduled(model, strip_comments(prompt), settings, is_negative=True)


class _Guided:
    """Classifier-free guidance: out = negative + sum_i weight_i cfg_scale (out_i - negative).

    Prompt and negative prompt of equal length go through the UNet in one batch, others one after the other, as
    the WebUI does without "Pad prompt/negative prompt". With one prompt at guidance 1 the negative one has no part.
    """

    def __init__(
        self, evaluate: Evaluate, positive: list[tuple[_Scheduled, float]], negative: _Scheduled, cfg_scale: float
    ) -> None:
        self.evaluate, self.positive, self.negative = evaluate, positive, negative
        self.factors = [weight * cfg_scale for _, weight in positive]
        self.step = 0

    def __call__(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        texts = _same_length([part.at(self.step) for part, _ in self.positive])
        negative = self.negative.at(self.step)
        self.step += 1
        if self.factors == [1.0]:
            return self._run(x, level, texts)[0]
        if negative.context.shape[1] == texts[0].context.shape[1]:
            *outs, out_negative = self._run(x, level, [*texts, negative])
        else:
            outs, (out_negative,) = self._run(x, level, texts), self._run(x, level, [negative])
        guided = out_negative
        for out, factor in zip(outs, self.factors):
            guided = guided + (out - out_negative) * factor
        return guided

    def _run(self, x: torch.Tensor, level: torch.Tensor, texts: list[Conditioning]) -> list[torch.Tensor]:
        """One output like ``x`` for each text."""
        n, batch = len(texts), len(x)
        conditioning = stack([text.expand(batch) for text in texts])
        return list(self.evaluate(x.repeat(n, 1, 1, 1), level.repeat(n), conditioning).split(batch))


def _same_length(texts: list[Conditioning]) -> list[Conditioning]:
    """Prompts joined by AND, the shorter ones filled up with their last state (the WebUI's ``stack_conds``)."""
    longest = max(text.context.shape[1] for text in texts)
    return [Conditioning(_fill_up(text.context, longest), text.pooled) for text in texts]


def _fill_up(states: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([states, states[:, -1:].expand(-1, length - states.shape[1], -1)], dim=1)
