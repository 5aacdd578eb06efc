"""The demo's UNet: Stable Diffusion 1's, 96 channels wide, trained on the fixed latents with a frozen text
encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from latents import LATENT_CHANNELS, LatentSet
from text_encoder import CONTEXT_DIM, CaptionMaker, encode
from training import LoopRecipe, TrainingLoop

CHANNELS = 96  # with 32 groups on 64 channels GroupNorm loses absolute scale, which shows as grain
HEADS = 2
TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


def alphas_cumprod() -> Tensor:
    """Stable Diffusion 1's scaled-linear schedule: the signal's share of the variance [1000], float64."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def make_unet() -> UNet2DConditionModel:
    """An untrained UNet whose residual branches start at zero."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(CHANNELS,) * 4,
        layers_per_block=2,
        norm_num_groups=32,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=HEADS,  # diffusers' name for the number of heads in this model
        cross_attention_dim=CONTEXT_DIM,
    )
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")) or name == "conv_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


@dataclass(frozen=True)
class UNetRecipe(LoopRecipe):
    """How the UNet is trained."""

    batch: int = 16
    learning_rate: float = 7e-4
    seed: int = 1
    cross_attention_rate: float = 2.5  # times the learning rate
    noise_play: float = 0.06
    snr_floor: float = 0.05  # smaller gives the noisy end more weight
    snr_limit: float = 50.0  # 5, the usual value, starves t < 150, which shows as grain


def loss_weights(snr_limit: float, snr_floor: float) -> Tensor:
    """Weight [1000] of the epsilon loss at each t: min(limit / snr, 1) (1 + snr) / (snr + floor).

    The second factor turns the epsilon loss into the v loss, kept from growing without bound at the noisy
    end. The mean is 1.
    """
    signal = alphas_cumprod()
    snr = signal / (1 - signal)
    weights = (snr_limit / snr).clamp(max=1) * (1 + snr) / (snr + snr_floor)
    return (weights / weights.mean()).float()


def stratified_timesteps(n: int, generator: torch.Generator) -> Tensor:
    """Timesteps [n], one from each n-th of the schedule, in random order."""
    strata = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return (strata * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)


def add_noise(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """sqrt(a_t) latents + sqrt(1 - a_t) noise, all [n, 4, h, w], t [n] (DDPM, equation 4)."""
    signal = alphas_cumprod()[t].view(-1, 1, 1, 1)
    return (signal.sqrt() * latents + (1 - signal).sqrt() * noise).float()


def draw_noise(shape: torch.Size, play: float, generator: torch.Generator) -> Tensor:
    """Normal noise [n, 4, h, w] whose amplitude varies by `play` (one standard deviation) between pictures.

    Noise of 16x16 latents varies by 2 % on its own. GroupNorm hides that from the UNet, and at the start of
    sampling 2 % are a third of a finished picture's contrast, which stays in it as grain.
    """
    amplitude = 1 + play * torch.randn(shape[0], 1, 1, 1, generator=generator)
    return amplitude * torch.randn(shape, generator=generator)


def epsilon_losses(
    unet: UNet2DConditionModel, latents: Tensor, noise: Tensor, t: Tensor, context: Tensor
) -> Tensor:
    """Mean squared error [n] of the predicted noise."""
    predicted = unet(add_noise(latents, noise, t), t, context).sample
    return F.mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))


def make_optimizer(unet: UNet2DConditionModel, recipe: UNetRecipe) -> torch.optim.Optimizer:
    """AdamW with a higher rate for the cross-attention."""
    cross = [p for name, p in unet.named_parameters() if ".attn2." in name]
    rest = [p for name, p in unet.named_parameters() if ".attn2." not in name]
    groups = [{"params": rest, "rate": 1.0}, {"params": cross, "rate": recipe.cross_attention_rate}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.01, foreach=True)


class CaptionGap:
    """How much the right captions lower the loss against wrong ones at t = 550-800, on fixed pictures.

    It shows that the prompt is being followed well before the pictures do.
    """

    def __init__(self, latents: Tensor, context: Tensor) -> None:
        self.latents, self.context = latents, context
        self.noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
        self.t = torch.linspace(550, 800, len(latents)).long()

    @torch.no_grad()
    def describe(self, unet: UNet2DConditionModel) -> str:
        """Mean loss with the right and with a wrong caption."""
        right = epsilon_losses(unet, self.latents, self.noise, self.t, self.context).mean()
        wrong = epsilon_losses(unet, self.latents, self.noise, self.t, self.context.roll(1, 0)).mean()
        return f"loss with the right caption {right:.4f}, with a wrong one {wrong:.4f}"


def train_unet(
    data: LatentSet, encoder: CLIPTextModel, maker: CaptionMaker, recipe: UNetRecipe, work: Path
) -> None:
    """Train to `recipe.steps`, going on from what is in the work folder."""
    torch.manual_seed(recipe.seed)
    unet = make_unet()
    loop = TrainingLoop("unet", unet, make_optimizer(unet, recipe), recipe, work)
    rng = np.random.default_rng([recipe.seed, loop.step])
    generator = torch.Generator().manual_seed(recipe.seed * 100_003 + loop.step)
    weights = loss_weights(recipe.snr_limit, recipe.snr_floor)

    def contexts(picked: list[int]) -> Tensor:
        ids = [maker.draw(data.scene(i).tags(), rng)[0] for i in picked]
        with torch.no_grad():
            return encode(encoder, torch.tensor(ids))

    def draw_loss() -> Tensor:
        picked = torch.randint(len(data.latents), (recipe.batch,), generator=generator)
        latents = data.latents[picked]
        t = stratified_timesteps(recipe.batch, generator)
        noise = draw_noise(latents.shape, recipe.noise_play, generator)
        return (weights[t] * epsilon_losses(unet, latents, noise, t, contexts(picked.tolist()))).mean()

    gap = CaptionGap(data.latents[:24], contexts(list(range(24))))
    loop.run(draw_loss, after_update=lambda: None, note=lambda: gap.describe(loop.ema))
