"""Pictures as latents: read ahead by threads, encoded in batches, kept in memory or on disk.

What is kept of a picture is the mean and the standard deviation of the VAE's posterior; a run draws one sample of it.
So the kept numbers serve every seed.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Progress
from lib_lora.base.seeds import derive_seed
from lib_lora.base.signals import Control
from lib_lora.dataset.augment import Tone, apply_tone
from lib_lora.dataset.images import Crop, FittedImage, load_fitted
from lib_lora.dataset.plan import Plan, PlannedImage
from lib_lora.models.model import DiffusionModel
from lib_lora.training.cache import TensorCache, file_identity, make_key, weights_identity

READERS = 4
LATENT_PX = 8  # a cell of the latents is 8 x 8 pixels
T, R = TypeVar("T"), TypeVar("R")


class Side(NamedTuple):
    """A picture of the plan by its place, or its mirror image.

    Attributes:
        crop: where it is cut before it is mirrored, in place of the middle; such a one is not kept.
        tone: another colour; such a one is not kept.
    """

    image: int
    flipped: bool
    crop: Crop | None = None
    tone: Tone | None = None


class LatentStore:
    """The latents of a plan's pictures.

    Args:
        seed: owns the draw of each latent.
        flips: mirror images are wanted as well.
        batch_size: pictures that the VAE encodes at once.
        half: the VAE computes in bfloat16; otherwise in single precision.
        cache: where the posteriors are kept; without it the latents are kept in memory.
        readers: threads that read pictures; the numbers do not depend on it.
    """

    def __init__(
        self,
        plan: Plan,
        seed: int,
        *,
        flips: bool = False,
        batch_size: int = 1,
        half: bool = False,
        cache: TensorCache | None = None,
        readers: int = READERS,
    ) -> None:
        self.plan = plan
        self.seed = seed
        self.cache = cache
        self._flips, self._batch_size, self._half, self._readers = flips, batch_size, half, readers
        self._latents: dict[Side, torch.Tensor] = {}
        self._keys: dict[Side, str] = {}
        self._scale = 1.0

    def fill(self, model: DiffusionModel, control: Control) -> Iterator[Progress]:
        """Encode what is not yet kept. A generator of progress; stops early when asked to.

        Pictures go through the VAE in groups that follow from the plan alone. A group is encoded whole even where
        the cache has a part of it: else the last digits would depend on what the cache happens to hold.

        Raises:
            StudioError: a picture cannot be read, has changed since it was planned, or its latent is not finite.
        """
        self._scale = model.vae.config.scaling_factor
        vae = _vae_identity(model) if self.cache else ""
        groups = self._groups()
        total, done = sum(map(len, groups)), 0
        ahead = max(1, 2 * self._readers // self._batch_size)  # groups, so that few pictures wait in memory
        for group, keys, pictures in _ahead(lambda group: self._read(group, vae), groups, self._readers, ahead):
            if control.stopping:
                return
            if pictures:
                moments = self._encode(model, group, pictures)
                for side, key, own in zip(group, keys, moments):
                    self._keep(side, key, own)
            self._keys.update(zip(group, keys) if self.cache else ())
            done += len(group)
            yield Progress("latents", done, total)

    def encode(self, model: DiffusionModel, sides: Sequence[Side]) -> list[torch.Tensor]:
        """Latents [4,h,w] of pictures of one bucket, encoded at once and not kept."""
        self._scale = model.vae.config.scaling_factor
        moments = self._encode(model, sides, [self._load(side) for side in sides])
        return [self._draw(side, own) for side, own in zip(sides, moments)]

    def latent(self, side: Side) -> torch.Tensor:
        """float32 [4,h,w] on the CPU, scaled to about unit variance.

        Raises:
            StudioError: its file in the cache has gone or is broken.
        """
        if self.cache is None:
            return self._latents[side]
        return self._draw(side, self.cache.take(self._keys[side], "a latent")["moments"])

    def pixels(self, side: Side) -> torch.Tensor:
        """uint8 [3,8h,8w], the picture as the VAE sees it."""
        return torch.from_numpy(self._load(side).pixels).permute(2, 0, 1)

    def _groups(self) -> list[list[Side]]:
        """Every picture and, where wanted, its mirror image, in portions of one bucket each."""
        by_bucket: dict[tuple[int, int], list[Side]] = {}
        for index, image in enumerate(self.plan.images):
            sides = by_bucket.setdefault(image.bucket.resolution, [])
            sides += [Side(index, flipped) for flipped in ((False, True) if self._flips else (False,))]
        return [
            sides[start : start + self._batch_size]
            for sides in by_bucket.values()
            for start in range(0, len(sides), self._batch_size)
        ]

    def _read(self, group: list[Side], vae: str) -> tuple[list[Side], list[str], list[FittedImage]]:
        """Keys of a group and its pictures; no pictures where the cache has all of them."""
        if self.cache is None:
            return group, [""] * len(group), [self._load(side) for side in group]
        keys = [self._key(side, vae, len(group)) for side in group]
        if all(self.cache.get(key) is not None for key in keys):
            return group, keys, []
        return group, keys, [self._load(side) for side in group]

    def _load(self, side: Side) -> FittedImage:
        image = self.plan.images[side.image]
        fitted = load_fitted(image.record, image.bucket, crop=side.crop, flipped=side.flipped)
        return fitted if side.tone is None else fitted._replace(pixels=apply_tone(fitted.pixels, side.tone))

    def _key(self, side: Side, vae: str, together: int) -> str:
        image = self.plan.images[side.image]
        return make_key(
            what="latent",
            picture=file_identity(image.record.path),
            vae=vae,
            resolution=image.bucket.resolution,
            resized=image.bucket.resized,
            flipped=side.flipped,
            half=self._half,
            together=together,  # how many the VAE encodes at once decides the last digits
        )

    def _keep(self, side: Side, key: str, moments: torch.Tensor) -> None:
        if self.cache is None:
            self._latents[side] = self._draw(side, moments)
        else:
            self.cache.put(key, {"moments": moments})

    @torch.no_grad()
    def _encode(self, model: DiffusionModel, sides: Sequence[Side], pictures: list[FittedImage]) -> torch.Tensor:
        """Mean and standard deviation of the posteriors, float32 [B, 2 x 4, h, w] on the CPU."""
        pixels = torch.stack([torch.from_numpy(picture.pixels) for picture in pictures])
        pixels = vae_input(pixels.permute(0, 3, 1, 2))
        # Whatever the step that asks for it computes in: many VAEs give no numbers in float16.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self._half):
            posterior = model.vae.encode(pixels.to(model.device, model.compute_dtype)).latent_dist
        moments = torch.cat([posterior.mean, posterior.std], dim=1).float().cpu()
        for side, own in zip(sides, moments):
            if not torch.isfinite(own).all():
                raise StudioError(
                    "the VAE gives no finite numbers for this picture",
                    file=self.plan.images[side.image].record.path,
                    allowed="another VAE, or no_half_vae",
                )
        return moments

    def _draw(self, side: Side, moments: torch.Tensor) -> torch.Tensor:
        """z = scale (mean + std eps): one sample of the posterior, the same whenever this seed draws it."""
        mean, std = moments.chunk(2)
        generator = torch.Generator("cpu").manual_seed(_latent_seed(self.seed, self.plan.images[side.image], side))
        return (mean + std * torch.randn(mean.shape, generator=generator)) * self._scale


class NoLatents:
    """In the place of latents where samples are noise alone: zeros in the bucket's size."""

    cache = None

    def __init__(self, plan: Plan, channels: int) -> None:
        self._plan = plan
        self._channels = channels

    def fill(self, model: DiffusionModel, control: Control) -> Iterator[Progress]:
        """Nothing to encode."""
        yield from ()

    def latent(self, side: Side) -> torch.Tensor:
        width, height = self._plan.images[side.image].bucket.resolution
        return torch.zeros(self._channels, height // LATENT_PX, width // LATENT_PX)


def vae_input(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as float32 from -1 to 1."""
    return pixels.float() / 127.5 - 1.0


def _latent_seed(seed: int, image: PlannedImage, side: Side) -> int:
    # The owner is the picture's place in the dataset, not on the disk: moving the folder changes nothing.
    owner = f"{image.record.path.parent.name}/{image.record.path.name}"
    return derive_seed(seed, "latent", owner, *image.bucket.resolution, *(["flipped"] if side.flipped else []))


def _vae_identity(model: DiffusionModel) -> str:
    """Of the half that encodes."""
    halves = (model.vae.encoder, getattr(model.vae, "quant_conv", None))
    return weights_identity(half for half in halves if half is not None)


def _ahead(work: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """Results in the order of ``items``, worked out by threads, up to ``ahead`` before they are asked for."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="pictures") as pool, contextlib.ExitStack() as stack:
        # Whoever leaves early leaves nothing to be worked out in vain.
        stack.callback(lambda: [future.cancel() for future in waiting])
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
