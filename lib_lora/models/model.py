"""A loaded model: frozen modules, and what one must know to use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib_lora.arch.family import Family
from lib_lora.arch.prediction import ASSUMED
from lib_lora.models.conditioning import Conditioning
from lib_lora.models.noise_schedule import zero_terminal_snr


@dataclass
class DiffusionModel:
    """The parts of a checkpoint as modules.

    Every parameter is frozen and may share its storage with a file's memory map or with another program's
    live module: nothing here may be written to. Adapters are attached from outside, by hooks.

    Attributes:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL, in ``compute_dtype``.
        text_encoders: transformers' CLIPTextModels, in the family's order.
        tokenizers: one per text encoder.
        base_alphas_cumprod: float64 [1000], the product of (1 - beta) up to each timestep, before
            ``zero_terminal_snr`` changes it.
        prediction_type: "epsilon" or "v_prediction": what the UNet predicts.
        prediction_source: who said so, in words for a person; "assumed" when nobody did.
        zero_terminal_snr: the last timestep is noise alone (arXiv 2305.08891).
        borrowed: the parameters are another program's: they stay as and where they are.
        resting: of a borrowed model that waits in main memory, the parameters of each of ``modules()`` by name: a part
            that is needed on the card is copied there, and these are its parameters again afterwards.
        randn_source: where the noise of pictures comes from, as in ``models.noise``.
        clip_l_skip: SDXL's first text encoder obeys clip skip (a setting of the WebUI, off by default).
        compute_dtype: what activations are computed in.
        name: the checkpoint's name, for metadata and messages.
        path: its file, when there is one.
        vae_path: the file of a VAE that replaced the checkpoint's own.
        notes: what a person should know of how it was read.
    """

    family: Family
    unet: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    base_alphas_cumprod: torch.Tensor
    prediction_type: str
    device: torch.device
    compute_dtype: torch.dtype
    name: str
    path: Path | None = None
    vae_path: Path | None = None
    prediction_source: str = ASSUMED
    zero_terminal_snr: bool = False
    clip_l_skip: bool = False
    notes: tuple[str, ...] = ()
    borrowed: bool = False
    resting: list[dict[str, torch.Tensor]] | None = None
    randn_source: str = "CPU"

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """float64 [1000], the schedule to train and sample with."""
        return zero_terminal_snr(self.base_alphas_cumprod) if self.zero_terminal_snr else self.base_alphas_cumprod

    @property
    def inpainting(self) -> bool:
        """Whether the UNet is also shown a mask (1 channel) and the masked picture's latents."""
        return self.unet.config.in_channels == 2 * self.latent_channels + 1

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        sizes: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the UNet makes of noisy latents: noise or v, [B, C, h, w].

        Args:
            noisy: [B, C, h, w].
            timesteps: [B].
            conditioning: of B texts, on the device and in the type of ``noisy``.
            sizes: [B, 6], SDXL's original height and width, crop top and left, target height and width in px.
            masked: [B, 1 + C, h, w] for inpainting: 1 where the picture is to be made anew, then the latents of
                the picture without that place.
        """
        added = None if conditioning.pooled is None else {"text_embeds": conditioning.pooled, "time_ids": sizes}
        x = noisy if masked is None else torch.cat([noisy, masked.to(noisy)], dim=1)
        return self.unet(
            x, timesteps, encoder_hidden_states=conditioning.context, added_cond_kwargs=added, return_dict=False
        )[0]

    def modules(self) -> list[torch.nn.Module]:
        return [self.unet, self.vae, *self.text_encoders]
