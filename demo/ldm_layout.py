"""The demo's weights under the names of Stable Diffusion 1 files, and the yaml that describes them.

The names are the inverse of what diffusers' `convert_ldm_unet_checkpoint` and `convert_ldm_vae_checkpoint`
read."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from unet import BETA_END, BETA_START, TRAIN_STEPS

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."

LEVELS = 4
RESNETS_PER_LEVEL = 2

UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
UNET_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
VAE_PARTS = {
    "conv_norm_out.": "norm_out.",
    "conv_shortcut.": "nin_shortcut.",
    "downsamplers.0.": "downsample.",
    "upsamplers.0.": "upsample.",
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
    ".resnets.": ".block.",
}


def replace_all(name: str, table: dict[str, str]) -> str:
    """The name with each key of the table replaced by its value."""
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def unet_name(name: str) -> str:
    """Stable Diffusion 1's name of a diffusers UNet parameter."""
    for start, ldm_start in UNET_ENDS.items():
        if name.startswith(start):
            return ldm_start + name.removeprefix(start)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, index, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{unet_rest(kind, rest)}"
    match = re.match(
        r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name
    )
    if match is None:
        raise ValueError(f"no Stable Diffusion 1 name for the UNet parameter {name!r}")
    way, level, kind, index, rest = match.groups()
    return f"{unet_slot(way, int(level), kind, int(index))}.{unet_rest(kind, rest)}"


def unet_slot(way: str, level: int, kind: str, index: int) -> str:
    """Where a module sits in `input_blocks` or `output_blocks`.

    A level's three slots are two resnets and a downsampler on the way down, and three resnets on the way up,
    the last of them with an upsampler behind its attention.
    """
    slot = level * (RESNETS_PER_LEVEL + 1)
    if way == "down":
        offset = RESNETS_PER_LEVEL if kind == "downsamplers" else index
        return f"input_blocks.{1 + slot + offset}.{int(kind == 'attentions')}"
    if kind == "upsamplers":
        # Only the first level up has no attention before its upsampler.
        return f"output_blocks.{slot + RESNETS_PER_LEVEL}.{1 if level == 0 else 2}"
    return f"output_blocks.{slot + index}.{int(kind == 'attentions')}"


def unet_rest(kind: str, rest: str) -> str:
    """The part of a UNet parameter's name inside its module."""
    if kind == "resnets":
        return replace_all(rest, UNET_RESNET)
    if kind == "downsamplers":
        return rest.replace("conv.", "op.")
    return rest


def vae_name(name: str) -> str:
    """Stable Diffusion 1's name of a diffusers VAE parameter."""
    name = replace_all(name, VAE_PARTS)
    name = re.sub(r"encoder\.down_blocks\.(\d)", r"encoder.down.\1", name)
    # The decoder's levels are counted from the finest.
    return re.sub(r"decoder\.up_blocks\.(\d)", lambda m: f"decoder.up.{LEVELS - 1 - int(m[1])}", name)


def vae_tensor(name: str, weight: Tensor) -> Tensor:
    """The weight under its Stable Diffusion 1 name: the attention's linears [c, c] are 1x1 convolutions."""
    return weight[:, :, None, None] if "mid.attn_1." in name and weight.ndim == 2 else weight


def schedule_buffers() -> dict[str, Tensor]:
    """The schedule's buffers [1000] in float32, as Stable Diffusion 1 files carry them."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, dim=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    buffers = {
        "betas": betas,
        "alphas_cumprod": signal,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": signal.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - signal).sqrt(),
    }
    return {name: values.float() for name, values in buffers.items()}


def ldm_state_dict(
    unet: dict[str, Tensor], vae: dict[str, Tensor], text: dict[str, Tensor]
) -> dict[str, Tensor]:
    """All weights in fp16 under Stable Diffusion 1's names, from the libraries' own state dicts."""
    weights = {UNET_PREFIX + unet_name(name): weight for name, weight in unet.items()}
    for name, weight in vae.items():
        ldm_name = vae_name(name)
        weights[VAE_PREFIX + ldm_name] = vae_tensor(ldm_name, weight)
    weights |= {TEXT_PREFIX + name.removeprefix("text_model."): weight for name, weight in text.items()}
    expected = len(unet) + len(vae) + len(text)
    if len(weights) != expected:
        raise ValueError(f"two parameters share a name: {expected} parameters, {len(weights)} names")
    return {name: weight.half().contiguous() for name, weight in weights.items()} | schedule_buffers()


YAML = """\
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: 16
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: 0.18215
    use_ema: False

    scheduler_config:
      target: ldm.lr_scheduler.LambdaLinearScheduler
      params:
        warm_up_steps: [ 10000 ]
        cycle_lengths: [ 10000000000000 ]
        f_start: [ 1.e-6 ]
        f_max: [ 1. ]
        f_min: [ 1. ]

    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 16
        in_channels: 4
        out_channels: 4
        model_channels: 96
        attention_resolutions: [ 4, 2, 1 ]
        num_res_blocks: 2
        channel_mult: [ 1, 1, 1, 1 ]
        num_heads: 2
        use_spatial_transformer: True
        transformer_depth: 1
        context_dim: 128
        use_checkpoint: True
        legacy: False

    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 128
          in_channels: 3
          out_ch: 3
          ch: 96
          ch_mult:
          - 1
          - 1
          - 1
          - 1
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity

    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {clip_folder}
"""
