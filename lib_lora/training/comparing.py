"""Objectives that compare the model's predictions with and without the network: iLECO, concept slider and ADDifT.

In the formulas D is the network, s D the network at strength s; theta is the model without it, which is not trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.models.conditioning import Conditioning
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch, TrainingData
from lib_lora.training.denoising import Denoising
from lib_lora.training.draws import Draws, NoiseOptions, StepRandom, sample_draws
from lib_lora.training.loop import Objective
from lib_lora.training.losses import huber_threshold, per_sample_loss
from lib_lora.training.noise import add_noise, noise_of_velocity
from lib_lora.training.objective_checks import DENOISING
from lib_lora.training.objectives import LossTerms

_ADDIFT_STRENGTH = 0.25  # TrainTrain's


def make_objective(
    config: TrainConfig,
    model: DiffusionModel,
    network: Network,
    data: TrainingData,
    targets: TrainingData | None = None,
) -> Objective:
    """The objective that the options choose.

    Args:
        targets: of pairs the second pictures, sample for sample.
    """
    if config.objective == DENOISING:
        return Denoising(config, model)
    if config.objective == "ADDifT":
        return Addift(config, model, network, data, targets)
    return {"iLECO": Ileco, "slider": Slider}[config.objective](config, model, network, data)


def check_objective_of(config: TrainConfig, model: DiffusionModel) -> None:
    """
    Raises:
        StudioError: options that mean nothing for this model.
    """
    if config.objective == DENOISING:
        Denoising(config, model)
    elif model.inpainting:
        raise StudioError(
            "is not there for models for inpainting",
            field="objective",
            came=config.objective,
            allowed=f"{DENOISING}, or another checkpoint",
        )


class _Comparing:
    """What the objectives of this file share."""

    def __init__(self, config: TrainConfig, model: DiffusionModel, network: Network, data: TrainingData) -> None:
        self.config = config
        self.model = model
        self.network = network
        self.data = data

    def _draws(self, batch: Batch, rng: StepRandom) -> Draws:
        shape, config = batch.latents.shape[1:], self.config
        range_ = config.min_timestep, config.max_timestep
        return sample_draws(shape, rng.seed, rng.epoch, batch.sample_ids, NoiseOptions(), *range_)

    def _predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        encode: Callable[[], Conditioning],
        sizes: torch.Tensor,
        strength: float,
    ) -> torch.Tensor:
        """What the model predicts with the network at ``strength``; at 0, where it is its own, without gradient.

        Args:
            encode: gives the texts; where the text encoders are trained the network acts in them too.
        """
        with self.network.strength(strength, strength), nullcontext() if strength else torch.no_grad():
            conditioning = encode().to(noisy.device, noisy.dtype)
            return self.model.predict(noisy, timesteps.to(noisy.device), conditioning, sizes)

    def _cost(
        self, prediction: torch.Tensor, target: torch.Tensor, timesteps: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B]: the mean of what the errors cost."""
        config, threshold = self.config, None
        if config.loss_type in ("huber", "smooth_l1"):
            how = config.huber_schedule, config.huber_c, config.huber_scale
            threshold = huber_threshold(timesteps, self.model.alphas_cumprod, *how)
        return per_sample_loss(prediction, target, mask, config.loss_type, threshold)


class _OnNoise(_Comparing, ABC):
    """What the objectives share that need no pictures."""

    def __call__(self, model: DiffusionModel, batch: Batch, rng: StepRandom) -> LossTerms:
        draws = self._draws(batch, rng)
        z = draws.noise.to(model.device, model.compute_dtype)

        def predict(prompt: str, strength: float = 0.0) -> torch.Tensor:
            encode = partial(self.data.conditioning, (prompt,) * len(batch))
            return self._predict(z, draws.timesteps, encode, batch.sizes, strength)

        loss = self._loss(predict, draws.timesteps)
        return LossTerms(loss, loss.detach())

    @abstractmethod
    def _loss(self, predict: Callable[..., torch.Tensor], timesteps: torch.Tensor) -> torch.Tensor:
        """[B]. ``predict`` gives what the model makes of a prompt with the network at a strength, 0 if not given."""


class Ileco(_OnNoise):
    """|eps_{theta + D}(z, t, original) - eps_theta(z, t, target)|^2 on noise z: one prompt comes to mean another."""

    def _loss(self, predict: Callable[..., torch.Tensor], timesteps: torch.Tensor) -> torch.Tensor:
        target = predict(self.config.target_prompt)
        return self._cost(predict(self.config.original_prompt, 1.0), target, timesteps)


class Slider(_OnNoise):
    """Concept slider (arXiv 2311.12092) on noise z, both polarities in one step:

    mean over s of +1, -1 of |eps_{theta + s D}(z, t, c) - target(s g)|^2 with ``slider_target``.
    """

    def _loss(self, predict: Callable[..., torch.Tensor], timesteps: torch.Tensor) -> torch.Tensor:
        config = self.config
        own = [predict(prompt) for prompt in (config.target_prompt, config.positive_prompt, config.negative_prompt)]
        up, down = (
            self._cost(
                predict(config.target_prompt, sign), slider_target(*own, sign * config.slider_guidance), timesteps
            )
            for sign in (1.0, -1.0)
        )
        return (up + down) / 2


def slider_target(
    neutral: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, guidance: float
) -> torch.Tensor:
    """n + g (p - neg), brought back to the length of n for each sample; [B, C, h, w], at least float32."""
    dtype = torch.promote_types(neutral.dtype, torch.float32)
    neutral, positive, negative = neutral.to(dtype), positive.to(dtype), negative.to(dtype)
    guided = neutral + guidance * (positive - negative)
    return guided * (_length(neutral) / _length(guided).clamp(min=torch.finfo(dtype).tiny))


def _length(tensor: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(tensor, dim=(1, 2, 3), keepdim=True)


class Addift(_Comparing):
    """ADDifT of pairs A, B under the same noise and timestep, with the sign of the network alternating by step:

    even |eps_{theta + D/4}(B_t) - eps_theta(A_t)|^2, odd |eps_{theta - D/4}(A_t) - eps_theta(B_t)|^2.

    Each picture is seen with its own caption. Models of velocity are compared by the noise that their prediction means.
    """

    def __init__(
        self, config: TrainConfig, model: DiffusionModel, network: Network, data: TrainingData, targets: TrainingData
    ) -> None:
        super().__init__(config, model, network, data)
        self.targets = targets

    def __call__(self, model: DiffusionModel, batch: Batch, rng: StepRandom) -> LossTerms:
        draws, step = self._draws(batch, rng), self.network.state.step
        changed = self.targets.batch(list(batch.sample_ids), model.device, rng.epoch, step)
        original, target = (self.data, batch), (self.targets, changed)
        seen, other, sign = (target, original, 1.0) if step % 2 == 0 else (original, target, -1.0)
        wanted = self._noise(*other, draws, 0.0)
        prediction = self._noise(*seen, draws, sign * _ADDIFT_STRENGTH)
        loss = self._cost(prediction, wanted, draws.timesteps, seen[1].mask)
        return LossTerms(loss, loss.detach())

    def _noise(self, data: TrainingData, batch: Batch, draws: Draws, strength: float) -> torch.Tensor:
        """The noise that the model sees in a batch of ``data``."""
        model, timesteps = self.model, draws.timesteps
        noisy = add_noise(batch.latents, draws.noise.to(batch.latents), timesteps, model.alphas_cumprod)
        encode = partial(data.conditioning, batch.captions)
        prediction = self._predict(noisy.to(model.compute_dtype), timesteps, encode, batch.sizes, strength)
        if model.prediction_type == "v_prediction":
            return noise_of_velocity(prediction.to(noisy.dtype), noisy, timesteps, model.alphas_cumprod)
        return prediction
