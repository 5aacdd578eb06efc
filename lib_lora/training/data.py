"""From a plan to batches: latents and encoded captions, each made once where that can be, in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_lora.base.events import Note, Progress
from lib_lora.base.seeds import Owner
from lib_lora.base.signals import Control
from lib_lora.dataset.augment import draw_crop, draw_tone
from lib_lora.dataset.images import middle_crop
from lib_lora.dataset.plan import Entry, Plan, epoch_batches
from lib_lora.models.conditioning import Conditioning, stack
from lib_lora.models.model import DiffusionModel
from lib_lora.models.prompt import encode_captions
from lib_lora.text.captions import caption_texts, vary_caption
from lib_lora.text.chunks import CHUNK_TOKENS, chunk_caption
from lib_lora.training.cache import TensorCache, make_key, weights_identity
from lib_lora.training.config import TrainConfig
from lib_lora.training.folder_settings import FolderSettings, caption_rules
from lib_lora.training.latents import LatentStore, NoLatents, Side
from lib_lora.training.masks import MaskStore
from lib_lora.training.objective_checks import prompts_of
from lib_lora.training.planning import cache_folder


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees.

    Attributes:
        latents: [B,4,h,w] float32 on the model's device, scaled to about unit variance.
        captions: B texts.
        conditioning: the encoded captions where they were encoded beforehand, else None.
        sizes: [B,6] float32, SDXL's size conditions in px: original height and width, crop top and left, height
            and width of the crop.
        pixels: [B,3,8h,8w] uint8 on the CPU, for inpainting, whose masked pictures are encoded at each step; else None.
        weights: [B] float32, the weight of each sample's loss.
        sample_ids: B places in the plan; with the epoch they own every random draw of the sample.
        mask: [B,1,h,w] float32 from 0 to 1, what each place's loss is multiplied by; None without masks.
    """

    latents: torch.Tensor
    captions: tuple[str, ...]
    conditioning: Conditioning | None
    sizes: torch.Tensor
    weights: torch.Tensor
    sample_ids: tuple[int, ...]
    pixels: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)


class TrainingData:
    """The latents and captions of a plan, and the batches of each epoch.

    Args:
        varied: pictures and captions change from one showing to the next as their folders' options say.
    """

    def __init__(self, plan: Plan, config: TrainConfig, model: DiffusionModel, *, varied: bool = True) -> None:
        self.plan = plan
        self.config = config
        self.model = model
        self.folders = FolderSettings(plan, config, varied=varied)
        folder = cache_folder(config)
        self.latents = NoLatents(plan, model.latent_channels) if plan.noise else self._latent_store(folder / "latents")
        self.masks = MaskStore(plan, masks=config.masked_loss, alpha=config.alpha_mask)
        self.texts = TextStore(
            config, TensorCache(folder / "texts") if config.cache_text_encoder_outputs_to_disk else None
        )

    def _latent_store(self, folder: Path) -> LatentStore:
        config = self.config
        return LatentStore(
            self.plan,
            config.seed,
            flips=self.folders.flips,
            batch_size=config.vae_batch_size,
            half=config.mixed_precision == "bf16" and not config.no_half_vae,
            cache=TensorCache(folder) if config.cache_latents_to_disk else None,
        )

    def needed_parts(self) -> list[torch.nn.Module]:
        """The model's parts that are used at each step, besides the UNet."""
        uses_vae = self.model.inpainting or not self.config.cache_latents
        return ([self.model.vae] if uses_vae else []) + ([] if self.texts else self.model.text_encoders)

    def cache_latents(self, control: Control) -> Iterator[Progress | Note]:
        """Encode every picture once. A generator of progress; stops early when asked to.

        Raises:
            StudioError: a picture's latent is not finite; the message names the picture.
        """
        if self.config.cache_latents:
            yield from self.latents.fill(self.model, control)
            yield from _notes(self.latents.cache)

    def cache_texts(self, control: Control) -> Iterator[Progress | Note]:
        """Encode every text that a caption may become once, for a run that leaves the text encoders as they are.

        Captions whose tags are shuffled or dropped have too many texts for that: they are encoded at each step, and
        the text encoders stay where they are.
        """
        if not self.config.cache_text_encoder_outputs:
            return
        if any(caption_rules(each).changes_tags for each in self.folders.all):
            yield Note("captions are encoded at each step: what is drawn of their tags makes too many to keep")
            return
        captions = {(image.record.caption, image.record.settings) for image in self.plan.images}
        texts = {text for caption, own in captions for text in caption_texts(caption, self.folders.rules(own))}
        texts.update(prompts_of(self.config))
        if self.config.max_token_length > CHUNK_TOKENS:
            texts.add("")  # what shorter texts of a batch are filled up with
        yield from self.texts.fill(self.model, sorted(texts), control)
        yield from _notes(self.texts.cache)

    def conditioning(self, texts: tuple[str, ...]) -> Conditioning:
        """Captions or an objective's prompts for the UNet: kept ones, or encoded as the text encoders are now."""
        return self.texts.conditioning(texts) if self.texts else encode(self.model, texts, self.config)

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch, as places in the plan; ``epoch`` counts from 1."""
        return epoch_batches(self.plan, seed=self.config.seed, epoch=epoch)

    def batch(self, sample_ids: list[int], device: torch.device, epoch: int, step: int = 0) -> Batch:
        """The samples of one forward pass; captions and mirror images are those of the epoch.

        Args:
            step: those that were made before it.
        """
        owners = [Owner(self.config.seed, epoch, sample) for sample in sample_ids]
        entries = [self.plan.entries[sample] for sample in sample_ids]
        sides = [self._side(entry, owner) for entry, owner in zip(entries, owners)]
        captions = tuple(
            vary_caption(
                entry.record.caption, self.folders.rules(entry.record.settings), owner, step, self.plan.total_steps
            )
            for entry, owner in zip(entries, owners)
        )
        sizes = [size_conditions(entry, side) for entry, side in zip(entries, sides)]
        weights = [self.config.prior_loss_weight if entry.record.regularisation else 1.0 for entry in entries]
        return Batch(
            latents=torch.stack(self._latents(sides)).to(device),
            captions=captions,
            conditioning=self.texts.conditioning(captions) if self.texts else None,
            sizes=torch.tensor(sizes, dtype=torch.float32, device=device),
            weights=torch.tensor(weights, dtype=torch.float32, device=device),
            sample_ids=tuple(sample_ids),
            pixels=torch.stack([self.latents.pixels(side) for side in sides]) if self.model.inpainting else None,
            mask=torch.stack([self.masks.mask(side) for side in sides]).to(device) if self.masks else None,
        )

    def _side(self, entry: Entry, owner: Owner) -> Side:
        config = self.folders.config(entry.record.settings)
        return Side(
            entry.image,
            flipped=config.flip_aug and owner.generator("flip").random() < 0.5,
            crop=draw_crop(entry.bucket, owner) if config.random_crop else None,
            tone=draw_tone(owner) if config.color_aug else None,
        )

    def _latents(self, sides: list[Side]) -> list[torch.Tensor]:
        if self.config.cache_latents:
            return [self.latents.latent(side) for side in sides]
        return self.latents.encode(self.model, sides)


class TextStore:
    """Encoded texts, in memory or in a cache on disk. False while it is empty."""

    def __init__(self, config: TrainConfig, cache: TensorCache | None) -> None:
        self.config = config
        self.cache = cache
        self._texts: dict[str, Conditioning | str] = {}  # what was encoded, or its key in the cache

    def __len__(self) -> int:
        return len(self._texts)

    def fill(self, model: DiffusionModel, texts: list[str], control: Control) -> Iterator[Progress]:
        """Encode what is not yet kept. A generator of progress; stops early when asked to."""
        encoders = weights_identity(model.text_encoders) if self.cache else ""
        for done, text in enumerate(texts):
            if control.stopping:
                return
            if self.cache is None:
                self._texts[text] = self._encode(model, text)
            else:
                key = self._texts[text] = self._key(model, text, encoders)
                if self.cache.get(key) is None:
                    self.cache.put(key, _tensors(self._encode(model, text)))
            yield Progress("captions", done + 1, len(texts))

    def conditioning(self, texts: tuple[str, ...]) -> Conditioning:
        """The texts of a batch.

        Raises:
            StudioError: a file in the cache has gone or is broken.
        """
        parts = [self._one(text) for text in texts]
        return stack(parts, self._one("") if "" in self._texts else None)

    def _one(self, text: str) -> Conditioning:
        kept = self._texts[text]
        if isinstance(kept, Conditioning):
            return kept
        return Conditioning(**self.cache.take(kept, "an encoded caption"))

    @torch.no_grad()
    def _encode(self, model: DiffusionModel, text: str) -> Conditioning:
        return encode(model, (text,), self.config)

    def _key(self, model: DiffusionModel, text: str, encoders: str) -> str:
        length, weighted = self.config.max_token_length, self.config.weighted_captions
        return make_key(
            what="text",
            encoders=encoders,
            # Tokens and not the text: so another vocabulary or another length is another key.
            tokens=[
                [(chunk.ids, chunk.weights) if weighted else chunk.ids for chunk in chunks]
                for chunks in (chunk_caption(text, each, length, weighted) for each in model.tokenizers)
            ],
            clip_skip=self.config.clip_skip,
            clip_l_skip=model.clip_l_skip,
            family=model.family.value,
            dtype=str(model.compute_dtype),
        )


def encode(model: DiffusionModel, captions: tuple[str, ...], config: TrainConfig) -> Conditioning:
    """Captions for the UNet, with gradient where adapters are attached."""
    return encode_captions(
        model,
        captions,
        clip_skip=config.clip_skip,
        max_tokens=config.max_token_length,
        weighted=config.weighted_captions,
    )


def size_conditions(entry: Entry, side: Side) -> tuple[float, ...]:
    """(original height, original width, crop top, crop left, target height, target width) in px.

    As in SDXL's paper (arXiv 2307.01952, section 2.2) and diffusers' training: the crop is what was cut off the
    resized picture's top and left, of the mirror image where that is shown.
    """
    width, height = entry.bucket.resolution
    left, top = side.crop or middle_crop(entry.bucket)
    left = entry.bucket.resized[0] - width - left if side.flipped else left
    return tuple(map(float, (entry.record.height_px, entry.record.width_px, top, left, height, width)))


def _tensors(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    named = {"context": conditioning.context, "pooled": conditioning.pooled}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def _notes(cache: TensorCache | None) -> Iterator[Note]:
    for note in cache.take_notes() if cache else []:
        yield Note(note, "warning")
