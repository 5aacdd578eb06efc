"""The demo's latent space, fixed before any network is trained: principal components of 8x8 patches.

A VAE trained from scratch gives latents that move while the UNet learns them. Here the latents come first, as
a linear map with a closed form, so the UNet can learn them at once while the VAE's encoder and decoder are
fitted to the same map apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from world import TAGS, Scene, draw, random_scene

PATCH_PX = 8
LATENT_CHANNELS = 4
SCALE_FACTOR = 0.18215  # Stable Diffusion 1: the UNet sees the VAE's latents times this


def picture_tensor(pictures: list[Image.Image]) -> Tensor:
    """Pictures as [n, 3, h, w] in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def tensor_pictures(pixels: Tensor) -> list[Image.Image]:
    """RGB pictures of [n, 3, h, w] in [-1, 1]."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]


def patches(pixels: Tensor) -> Tensor:
    """[n, 3, h, w] cut into 8x8 patches: [n, h/8, w/8, 192]."""
    n, c, h, w = pixels.shape
    cut = pixels.reshape(n, c, h // PATCH_PX, PATCH_PX, w // PATCH_PX, PATCH_PX)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, h // PATCH_PX, w // PATCH_PX, c * PATCH_PX**2)


def from_patches(cut: Tensor) -> Tensor:
    """Inverse of `patches`."""
    n, h, w, _ = cut.shape
    pixels = cut.reshape(n, h, w, 3, PATCH_PX, PATCH_PX).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(n, 3, h * PATCH_PX, w * PATCH_PX)


@dataclass(frozen=True)
class PatchComponents:
    """Linear latents of unit variance: mean [192], directions [192, 4] (orthonormal) and spread [4]."""

    mean: Tensor
    directions: Tensor
    spread: Tensor

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents [n, 4, h/8, w/8] of unit variance of pixels [n, 3, h, w] in [-1, 1]."""
        return (
            ((patches(pixels) - self.mean) @ self.directions / self.spread).permute(0, 3, 1, 2).contiguous()
        )

    def decode(self, latents: Tensor) -> Tensor:
        """The linear picture [n, 3, h, w] of latents [n, 4, h/8, w/8]: the right colours, coarsely."""
        return from_patches(latents.permute(0, 2, 3, 1) * self.spread @ self.directions.T + self.mean)


def fit_components(pixels: Tensor) -> PatchComponents:
    """The four strongest principal components of the 8x8 patches of pixels [n, 3, h, w]."""
    rows = patches(pixels).flatten(0, 2)
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    strongest = vectors[:, -LATENT_CHANNELS:].flip(-1)
    return PatchComponents(mean, strongest, values[-LATENT_CHANNELS:].flip(-1).sqrt())


@dataclass(frozen=True)
class LatentSet:
    """Latents [n, 4, 16, 16] of unit variance and their scenes' tags [n, fields], indices into TAGS."""

    latents: Tensor
    tags: Tensor

    def scene(self, i: int) -> Scene:
        """The scene of picture i."""
        return Scene(**{field: names[k] for (field, names), k in zip(TAGS.items(), self.tags[i].tolist())})


def draw_latents(n: int, seed: int = 0, chunk: int = 500) -> tuple[PatchComponents, LatentSet]:
    """Components fitted to world pictures, and the latents of n of them."""
    rng = np.random.default_rng(seed)
    components = fit_components(picture_tensor([draw(random_scene(rng), rng) for _ in range(3000)]))
    latents, tags = [], []
    for _ in range(0, n, chunk):
        scenes = [random_scene(rng) for _ in range(chunk)]
        latents.append(components.encode(picture_tensor([draw(scene, rng) for scene in scenes])))
        tags += [[TAGS[field].index(value) for field, value in asdict(scene).items()] for scene in scenes]
    return components, LatentSet(torch.cat(latents), torch.tensor(tags))
