"""The demo's VAE: Stable Diffusion 1's in small, made for the fixed latents.

The encoder is not trained at all: the fixed latents are linear, and the network can be set to compute them.
The decoder starts as the linear map that paints each 8x8 patch in its mean colour and learns the edges from
there. It learns from latents with a little noise, so it also takes small errors of the UNet away, and half
of its pictures are of anything but the world, so that a dataset of new characters goes through it as well.

Both rest on three facts. A residual branch whose last convolution is zero leaves its stream as it is. Each
group of a GroupNorm has three channels here, and when they carry (s, K - s/2, -K - s/2) with a large
constant K, the group's mean is 0 and its spread nearly K sqrt(2/3), whatever s is; so s comes through with
its absolute value. And silu(s) - silu(-s) = s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image, ImageDraw
from torch import Tensor, nn

from latents import LATENT_CHANNELS, SCALE_FACTOR, PatchComponents, picture_tensor
from training import LoopRecipe, TrainingLoop
from world import PICTURE_PX, SUPERSAMPLING, draw, random_scene

CHANNELS = 96  # three to a group: with one or two, GroupNorm loses the absolute value of a flat colour
GROUPS = 32
ENCODER_CONSTANT, DECODER_CONSTANT = 30.0, 6.0  # K: larger is more exact, smaller rounds less
LOG_VARIANCE = -12.0  # the encoder is exact, so its latents need no spread


def make_vae() -> AutoencoderKL:
    """An untrained VAE whose residual branches start at zero."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(CHANNELS,) * 4,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        sample_size=PICTURE_PX,
        scaling_factor=SCALE_FACTOR,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            clear(module)
    return vae


def clear(module: nn.Module) -> None:
    """Set weight and bias to zero."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)


def carry(
    weight: Tensor, bias: Tensor, group: int, kernel: Tensor, constant: float, offset: float = 0.0
) -> None:
    """Write a signal s into the three channels of a group of a convolution, as (s, K - s/2, -K - s/2).

    `kernel` [in, kh, kw] and `offset` compute s; `weight` [out, in, 3, 3] is filled from its corner.
    """
    for channel, (share, level) in enumerate(
        ((1.0, 0.0), (-0.5, constant), (-0.5, -constant)), start=3 * group
    ):
        weight[channel, : kernel.shape[0], : kernel.shape[1], : kernel.shape[2]] = share * kernel
        bias[channel] = share * offset + level


def pass_signals(norm: nn.GroupNorm, constant: float) -> None:
    """Let a GroupNorm give the signals of `carry` their own size back, and keep the constants to itself.

    Behind it they would be hundreds of equal inputs, which each training step would move all at once.
    """
    norm.weight.zero_()
    norm.weight[::3] = constant * math.sqrt(2 / 3)
    norm.bias.zero_()


def centred(row: Tensor) -> Tensor:
    """A 3x3 kernel [in, 3, 3] that is `row` [in] in its middle and zero around."""
    kernel = torch.zeros(len(row), 3, 3)
    kernel[:, 1, 1] = row
    return kernel


@torch.no_grad()
def set_encoder(vae: AutoencoderKL, components: PatchComponents) -> None:
    """Make the encoder compute the components: two downsamplings gather pixels, the third projects them."""
    encoder = vae.encoder
    downsamplers = [block.downsamplers[0].conv for block in encoder.down_blocks[:3]]
    for module in (encoder.conv_in, *downsamplers, encoder.conv_out, vae.quant_conv):
        clear(module)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1
    for gather, n_channels in zip(downsamplers[:2], (3, 12)):
        for channel in range(n_channels):
            for corner in range(4):
                gather.weight[4 * channel + corner, channel, corner // 2, corner % 2] = 1
    kernels = patch_kernels(components.directions / components.spread)
    offsets = -components.mean @ components.directions / components.spread
    project, out = downsamplers[2], encoder.conv_out
    for k in range(LATENT_CHANNELS):
        for group, sign in ((k, 1), (k + LATENT_CHANNELS, -1)):
            offset = sign * offsets[k].item()
            carry(project.weight, project.bias, group, sign * kernels[k], ENCODER_CONSTANT, offset)
            out.weight[k, 3 * group, 1, 1] = sign / SCALE_FACTOR
        vae.quant_conv.weight[k, k] = 1
    pass_signals(encoder.conv_norm_out, ENCODER_CONSTANT)
    vae.quant_conv.bias[LATENT_CHANNELS:] = LOG_VARIANCE


def patch_kernels(columns: Tensor) -> Tensor:
    """Functions of a patch [192, n] as kernels [n, 48, 2, 2] on pixels gathered twice from 2x2 corners.

    A pixel's row in its patch is, from the lowest bit, its row among the first, second and third 2x2 corners.
    """
    rows = columns.T.reshape(-1, 3, 2, 2, 2, 2, 2, 2)  # n, colour, y3, y2, y1, x3, x2, x1
    return rows.permute(0, 1, 4, 7, 3, 6, 2, 5).reshape(-1, 48, 2, 2)


@torch.no_grad()
def start_decoder(vae: AutoencoderKL, components: PatchComponents) -> None:
    """Make the decoder paint each patch in its mean colour, with random smooth signals to learn from."""
    decoder = vae.decoder
    upsamplers = [block.upsamplers[0].conv for block in decoder.up_blocks[:3]]
    for module in (decoder.conv_in, *upsamplers, decoder.conv_out, vae.post_quant_conv):
        clear(module)
    for k in range(LATENT_CHANNELS):
        vae.post_quant_conv.weight[k, k] = SCALE_FACTOR
    mean_colours = components.directions.reshape(3, -1, LATENT_CHANNELS).mean(1) * components.spread
    offsets = components.mean.reshape(3, -1).mean(1)
    smooth = torch.tensor([0.25, 0.5, 0.25])
    for group in range(GROUPS):
        colour, sign = group % 3, 1 if group < 3 else -1
        is_colour = group < 6
        kernel = torch.randn(LATENT_CHANNELS, 3, 3) / 6
        if is_colour:
            kernel = sign * centred(mean_colours[colour])
            decoder.conv_out.weight[colour, 3 * group, 1, 1] = sign
        offset = sign * offsets[colour].item() if is_colour else 0.0
        carry(decoder.conv_in.weight, decoder.conv_in.bias, group, kernel, DECODER_CONSTANT, offset)
        for conv in upsamplers:
            kernel = torch.zeros(CHANNELS, 3, 3)
            # Smoothing darkens the picture's edge, so the colours stay as they are.
            kernel[3 * group] = centred(torch.ones(1)) if is_colour else smooth[:, None] * smooth
            carry(conv.weight, conv.bias, group, kernel, DECODER_CONSTANT)
    for name, module in decoder.named_modules():
        if name.endswith(("norm1", "conv_norm_out")):
            pass_signals(module, DECODER_CONSTANT)


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pixels [n, 3, h, w] of latents [n, 4, h/8, w/8] of unit variance."""
    return vae.decode(latents / SCALE_FACTOR).sample


def encode_mean(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Latents [n, 4, h/8, w/8] of unit variance of pixels [n, 3, h, w]."""
    return vae.encode(pixels).latent_dist.mean * SCALE_FACTOR


def draw_anything(rng: np.random.Generator) -> Image.Image:
    """A picture of one to five flat ellipses and polygons in any colours, large enough for 8x8 patches."""
    side = PICTURE_PX * SUPERSAMPLING
    picture = Image.new("RGB", (side, side), random_colour(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(1, 6)):
        middle = rng.uniform(0.1, 0.9, 2) * side
        radius = rng.uniform(0.08, 0.4) * side
        if rng.random() < 0.4:
            box = radius * rng.uniform(0.6, 1.0, 2)
            pen.ellipse([*(middle - box), *(middle + box)], fill=random_colour(rng))
        else:
            angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 7)))
            points = middle + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            pen.polygon([tuple(point) for point in points.tolist()], fill=random_colour(rng))
    return picture.reduce(SUPERSAMPLING)


def random_colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any RGB colour."""
    return tuple(rng.integers(0, 256, 3).tolist())


def vae_batch(n: int, rng: np.random.Generator) -> Tensor:
    """Pixels [n, 3, 128, 128], half of the world and half of anything."""
    world = [draw(random_scene(rng), rng) for _ in range(n - n // 2)]
    return picture_tensor(world + [draw_anything(rng) for _ in range(n // 2)])


@dataclass(frozen=True)
class VaeRecipe(LoopRecipe):
    """How the decoder is fitted."""

    batch: int = 2
    learning_rate: float = 1e-3
    seed: int = 2
    ema_decay: float = 0.995
    latent_noise: float = 0.2  # largest standard deviation of the noise that the decoder takes away


def decoder_loss(vae: AutoencoderKL, pixels: Tensor, latents: Tensor, noise: float) -> Tensor:
    """Mean squared error of pictures decoded from noisy latents.

    An absolute error would pull at each flat pixel with the same force, however small its error.
    """
    amount = torch.rand(len(latents), 1, 1, 1) * noise
    decoded = decode(vae, latents + amount * torch.randn_like(latents))
    return F.mse_loss(decoded, pixels)


def trained_parameters(vae: AutoencoderKL) -> list[nn.Parameter]:
    """The decoder's residual branches; everything else stays as `start_decoder` set it."""
    resnets = [module for module in vae.decoder.modules() if isinstance(module, ResnetBlock2D)]
    parts = [part for resnet in resnets for part in (resnet.norm1, resnet.conv1, resnet.norm2)]
    return [p for part in parts for p in part.parameters()] + [resnet.conv2.weight for resnet in resnets]


@torch.no_grad()
def keep_flats(vae: AutoencoderKL) -> None:
    """Take from the branches' last convolutions what would move flat colours or the large constants.

    A kernel whose sum is zero answers to edges alone. Without this, each step of the optimizer shifts all
    flat pixels at once, through hundreds of weights of the same sign, and the colours never settle.
    """
    for name, module in vae.decoder.named_modules():
        if name.endswith("conv2"):
            module.weight -= module.weight.mean(dim=(2, 3), keepdim=True)
            module.weight[1::3] = 0
            module.weight[2::3] = 0


def fit_vae(components: PatchComponents, recipe: VaeRecipe, work: Path) -> None:
    """Fit the decoder to `recipe.steps`, going on from what is in the work folder."""
    torch.manual_seed(recipe.seed)
    vae = make_vae()
    set_encoder(vae, components)
    start_decoder(vae, components)
    trained = trained_parameters(vae.requires_grad_(False))
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0, foreach=True)
    loop = TrainingLoop("vae", vae, optimizer, recipe, work)
    rng = np.random.default_rng([recipe.seed, loop.step])
    torch.manual_seed(recipe.seed * 100_003 + loop.step)
    fixed = vae_batch(16, np.random.default_rng(7))

    def draw_loss() -> Tensor:
        pixels = vae_batch(recipe.batch, rng)
        return decoder_loss(vae, pixels, components.encode(pixels), recipe.latent_noise)

    loop.run(
        draw_loss, after_update=lambda: keep_flats(vae), note=lambda: describe_round_trip(loop.ema, fixed)
    )


@torch.no_grad()
def describe_round_trip(vae: AutoencoderKL, pixels: Tensor) -> str:
    """How well pixels [n, 3, h, w] come back from the encoder and decoder."""
    errors = (decode(vae, encode_mean(vae, pixels)) - pixels).square().mean(dim=(1, 2, 3))
    return f"round trip {(10 * torch.log10(4 / errors)).mean():.1f} dB"
