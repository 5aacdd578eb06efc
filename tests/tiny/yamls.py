"""The yaml beside a checkpoint, in LDM's form (SD1, SD2) and in sgm's (SDXL)."""

from __future__ import annotations

from .shapes import Shape
from .text import text_folder_name
from .vae import VAE_LEVELS


def yaml_text(shape: Shape) -> str:
    return _sgm(shape) if shape.size_width else _ldm(shape)


def _multipliers(shape: Shape) -> list[int]:
    return [channels // shape.channels for channels in shape.levels]


def _attention_at(shape: Shape) -> list[int]:
    return [2**level for level, depth in enumerate(shape.depths) if depth]


def _heads(shape: Shape) -> str:
    return f"num_heads: {shape.heads}" if shape.heads else f"num_head_channels: {shape.head_channels}"


_FIRST_STAGE = f"""embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 128
          in_channels: 3
          out_ch: 3
          ch: {VAE_LEVELS[0]}
          ch_mult: [1, 1, 2, 2]
          num_res_blocks: 2
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
"""


def _ldm(shape: Shape) -> str:
    (text,) = shape.texts
    inpainting = shape.inputs == 9
    target = "LatentInpaintDiffusion" if inpainting else "LatentDiffusion"
    more = "\n    finetune_keys: null" if inpainting else ""
    if text.open_clip:
        encoder = f"""FrozenOpenCLIPEmbedder
      params:
        arch: {arch_name(shape)}
        version: {text_folder_name(text)}
        freeze: True
        layer: penultimate"""
    else:
        encoder = f"""FrozenCLIPEmbedder
      params:
        version: {text_folder_name(text)}"""
    return f"""model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.{target}
  params:
    parameterization: {shape.parameterization}
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
    conditioning_key: {"hybrid" if inpainting else "crossattn"}
    monitor: val/loss_simple_ema
    scale_factor: {shape.scale_factor}
    use_ema: False{more}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 32
        in_channels: {shape.inputs}
        out_channels: 4
        model_channels: {shape.channels}
        attention_resolutions: {_attention_at(shape)}
        num_res_blocks: 2
        channel_mult: {_multipliers(shape)}
        {_heads(shape)}
        use_spatial_transformer: True
        use_linear_in_transformer: {shape.linear}
        transformer_depth: 1
        context_dim: {shape.context}
        use_checkpoint: False
        legacy: False
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        {_FIRST_STAGE}    cond_stage_config:
      target: ldm.modules.encoders.modules.{encoder}
"""


def _sgm(shape: Shape) -> str:
    clip, open_clip = shape.texts
    sizes = "".join(
        f"""          - is_trainable: False
            input_key: {key}
            target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
            params:
              outdim: {shape.size_width}
"""
        for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    )
    scaling = {"eps": "Eps", "v": "V"}[shape.parameterization]
    return f"""model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    scale_factor: {shape.scale_factor}
    disable_first_stage_autocast: True
    denoiser_config:
      target: sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser
      params:
        num_idx: 1000
        weighting_config:
          target: sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.{scaling}Scaling
        discretization_config:
          target: sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization
    network_config:
      target: sgm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        adm_in_channels: {shape.vector}
        num_classes: sequential
        use_checkpoint: False
        in_channels: {shape.inputs}
        out_channels: 4
        model_channels: {shape.channels}
        attention_resolutions: {_attention_at(shape)}
        num_res_blocks: 2
        channel_mult: {_multipliers(shape)}
        {_heads(shape)}
        use_spatial_transformer: True
        use_linear_in_transformer: True
        transformer_depth: {[max(depth, 1) for depth in shape.depths]}
        context_dim: {shape.context}
        spatial_transformer_attn_type: softmax
        legacy: False
    conditioner_config:
      target: sgm.modules.GeneralConditioner
      params:
        emb_models:
          - is_trainable: False
            input_key: txt
            target: sgm.modules.encoders.modules.FrozenCLIPEmbedder
            params:
              version: {text_folder_name(clip)}
              layer: hidden
              layer_idx: {clip.layers - 1}
          - is_trainable: False
            input_key: txt
            target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2
            params:
              arch: {arch_name(shape)}
              version: {text_folder_name(open_clip)}
              freeze: True
              layer: penultimate
              always_return_pooled: True
              legacy: False
{sizes}    first_stage_config:
      target: sgm.models.autoencoder.AutoencoderKLInferenceWrapper
      params:
        {_FIRST_STAGE}"""


def arch_name(shape: Shape) -> str:
    """What open_clip knows the tiny encoder as, once it was told its configuration."""
    return f"tiny-{shape.family}"


def open_clip_config(shape: Shape) -> dict:
    """open_clip's configuration of the tiny encoder; the part that sees pictures is never used."""
    text = shape.texts[-1]
    return {
        "embed_dim": text.projection,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": shape.vocabulary,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    }
