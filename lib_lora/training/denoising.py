"""The objective of ordinary training: predict the noise of a picture from its caption."""

from __future__ import annotations

import torch

from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch, encode
from lib_lora.training.objectives import (
    LossTerms,
    NoiseOptions,
    NoiseSchedule,
    StepRandom,
    denoising_loss,
    sample_draws,
)


class Denoising:
    """``Objective`` made of ``objectives.denoising_loss`` and a run's options."""

    def __init__(self, config: TrainConfig, model: DiffusionModel) -> None:
        self.config = config
        self.options = NoiseOptions(config.noise_offset, config.adaptive_noise_scale, config.min_snr_gamma)
        self.schedule = NoiseSchedule(model.alphas_cumprod, model.prediction_type)

    def __call__(self, model: DiffusionModel, batch: Batch, rng: StepRandom) -> LossTerms:
        context = batch.context
        if context is None:
            context = encode(model, batch.captions, self.config)
        draws = sample_draws(
            batch.latents.shape[1:],
            rng.seed,
            rng.epoch,
            batch.sample_ids,
            self.options,
            self.config.min_timestep,
            self.config.max_timestep,
        )

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return model.unet(noisy, timesteps, encoder_hidden_states=context, return_dict=False)[0]

        latents = batch.latents.to(model.compute_dtype)
        return denoising_loss(predict, latents, context.to(latents), batch.weights, draws, self.schedule, self.options)
