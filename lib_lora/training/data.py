"""From a plan to batches: latents encoded once and kept in memory, captions as text or as encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Progress
from lib_lora.base.seeds import derive_seed
from lib_lora.base.signals import Control
from lib_lora.dataset.images import load_fitted
from lib_lora.dataset.plan import Plan, PlannedImage, epoch_batches
from lib_lora.models.model import DiffusionModel
from lib_lora.models.prompt import encode_captions
from lib_lora.training.config import TrainConfig


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees.

    Attributes:
        latents: [B,4,h,w] float32 on the model's device, scaled to about unit variance.
        captions: B texts.
        context: [B,n,d] when the text encoder is not trained, else None.
        weights: [B] float32, the weight of each sample's loss.
        sample_ids: B places in the plan; with the epoch they own every random draw of the sample.
    """

    latents: torch.Tensor
    captions: tuple[str, ...]
    context: torch.Tensor | None
    weights: torch.Tensor
    sample_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.captions)


class TrainingData:
    """The latents and captions of a plan, and the batches of each epoch."""

    def __init__(self, plan: Plan, config: TrainConfig) -> None:
        self.plan = plan
        self.config = config
        self._latents: list[torch.Tensor] = []  # one per picture of the plan
        self._contexts: dict[str, torch.Tensor] = {}

    def cache_latents(self, model: DiffusionModel, control: Control) -> Iterator[Progress]:
        """Encode every picture once. A generator of progress; stops early when asked to.

        Raises:
            StudioError: a picture's latent is not finite; the message names the picture.
        """
        for done, image in enumerate(self.plan.images):
            if control.stopping:
                return
            self._latents.append(_encode(model, image, self.config.seed))
            yield Progress("latents", done + 1, len(self.plan.images))

    def cache_contexts(self, model: DiffusionModel, control: Control) -> Iterator[Progress]:
        """Encode every caption once, for a run that leaves the text encoder as it is."""
        captions = sorted({image.record.caption for image in self.plan.images})
        for done, caption in enumerate(captions):
            if control.stopping:
                return
            with torch.no_grad():
                self._contexts[caption] = encode(model, (caption,), self.config)[0]
            yield Progress("captions", done + 1, len(captions))

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch, as places in the plan; ``epoch`` counts from 1."""
        return epoch_batches(self.plan, seed=self.config.seed, epoch=epoch)

    def batch(self, sample_ids: list[int], device: torch.device) -> Batch:
        entries = [self.plan.entries[index] for index in sample_ids]
        weights = [self.config.prior_loss_weight if entry.record.regularisation else 1.0 for entry in entries]
        captions = tuple(entry.record.caption for entry in entries)
        context = None
        if self._contexts:
            context = _pad_contexts([self._contexts[caption] for caption in captions])
        return Batch(
            latents=torch.stack([self._latents[entry.image] for entry in entries]).to(device),
            captions=captions,
            context=context,
            weights=torch.tensor(weights, dtype=torch.float32, device=device),
            sample_ids=tuple(sample_ids),
        )


def encode(model: DiffusionModel, captions: tuple[str, ...], config: TrainConfig) -> torch.Tensor:
    """The context [B,n,d] of captions, with gradient where adapters are attached."""
    return encode_captions(
        model.text_encoders[0],
        model.tokenizers[0],
        list(captions),
        clip_skip=config.clip_skip,
        max_tokens=config.max_token_length,
    )


def _pad_contexts(contexts: list[torch.Tensor]) -> torch.Tensor:
    """Captions of one batch may differ in their number of chunks; the last chunk is repeated, as the WebUI does."""
    longest = max(context.shape[0] for context in contexts)
    padded = []
    for context in contexts:
        while context.shape[0] < longest:
            context = torch.cat([context, context[-77:]])
        padded.append(context)
    return torch.stack(padded)


@torch.no_grad()
def _encode(model: DiffusionModel, image: PlannedImage, seed: int) -> torch.Tensor:
    """One sample of the VAE's posterior [4,h,w] times the scaling factor, on the CPU."""
    pixels = load_fitted(image.record, image.bucket).pixels
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    posterior = model.vae.encode(pixels.to(model.device, model.vae.dtype)).latent_dist
    # The owner is the picture's place in the dataset, not on the disk: moving the folder changes nothing.
    owner = f"{image.record.path.parent.name}/{image.record.path.name}"
    generator = torch.Generator("cpu").manual_seed(derive_seed(seed, "latent", owner, *image.bucket.resolution))
    noise = torch.randn(posterior.mean.shape, generator=generator)
    latent = posterior.mean.float().cpu() + posterior.std.float().cpu() * noise
    latent = latent[0] * model.vae.config.scaling_factor
    if not torch.isfinite(latent).all():
        raise StudioError(
            "the VAE gives no finite numbers for this picture",
            file=image.record.path,
            allowed="another VAE, or a VAE in single precision",
        )
    return latent
