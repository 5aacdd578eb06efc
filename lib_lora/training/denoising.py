"""The objective of ordinary training: predict the noise of a picture from its caption."""

from __future__ import annotations

import torch

from lib_lora.models.conditioning import Conditioning
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch, encode
from lib_lora.training.inpainting import masked_inputs
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
        latents = batch.latents.to(model.compute_dtype)
        conditioning = batch.conditioning
        if conditioning is None:
            conditioning = encode(model, batch.captions, self.config)
        conditioning = conditioning.to(latents.device, latents.dtype)
        masked = masked_inputs(model, batch, rng) if model.inpainting else None
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
            return model.predict(noisy, timesteps, Conditioning(context, conditioning.pooled), batch.sizes, masked)

        return denoising_loss(predict, latents, conditioning.context, batch.weights, draws, self.schedule, self.options)
