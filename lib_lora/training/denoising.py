"""The objective of ordinary training: predict the noise of a picture from its caption."""

from __future__ import annotations

import dataclasses

import torch

from lib_lora.models.conditioning import Conditioning
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch, encode
from lib_lora.training.draws import Draws, StepRandom, sample_draws
from lib_lora.training.inpainting import masked_inputs
from lib_lora.training.objectives import DenoisingOptions, LossTerms, NoiseSchedule, check_weights, denoising_loss


class Denoising:
    """``Objective`` made of ``objectives.denoising_loss`` and a run's options.

    Raises:
        StudioError: options that mean nothing for the model; see ``check_weights``.
    """

    def __init__(self, config: TrainConfig, model: DiffusionModel) -> None:
        self.config = config
        names = [each.name for each in dataclasses.fields(DenoisingOptions)]
        self.options = DenoisingOptions(**{name: getattr(config, name) for name in names})
        self.schedule = NoiseSchedule(model.alphas_cumprod, model.prediction_type)
        check_weights(self.schedule, self.options, config.max_timestep)

    def __call__(self, model: DiffusionModel, batch: Batch, rng: StepRandom) -> LossTerms:
        return self.loss(model, batch, rng, self.draws(batch, rng))

    def draws(self, batch: Batch, rng: StepRandom) -> Draws:
        """The noise and the timesteps of a batch."""
        return sample_draws(
            batch.latents.shape[1:],
            rng.seed,
            rng.epoch,
            batch.sample_ids,
            self.options,
            self.config.min_timestep,
            self.config.max_timestep,
        )

    def loss(self, model: DiffusionModel, batch: Batch, rng: StepRandom, draws: Draws) -> LossTerms:
        """The loss of a batch under ``draws``."""
        latents = batch.latents.to(model.compute_dtype)
        conditioning = batch.conditioning
        if conditioning is None:
            conditioning = encode(model, batch.captions, self.config)
        conditioning = conditioning.to(latents.device, latents.dtype)
        masked = masked_inputs(model, batch, rng) if model.inpainting else None

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return model.predict(noisy, timesteps, Conditioning(context, conditioning.pooled), batch.sizes, masked)

        return denoising_loss(
            predict, latents, conditioning.context, batch.weights, draws, self.schedule, self.options, batch.mask
        )
