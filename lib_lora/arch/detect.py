"""What a model file is, from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError

Shapes = Mapping[str, tuple[int, ...]]
Test = Callable[[Shapes], bool]

_UNET = "model.diffusion_model."
_CONV_IN = f"{_UNET}input_blocks.0.0.weight"
_ALLOWED = "a whole checkpoint of Stable Diffusion 1, 2 or XL, for pictures or for inpainting"
_LATENT_CHANNELS = 4
_INPUTS = (_LATENT_CHANNELS, 2 * _LATENT_CHANNELS + 1)


def detect_family(shapes: Shapes, file: object) -> Family:
    """The family of a checkpoint.

    Args:
        shapes: every key of the file with its shape.
        file: named in the error.

    Raises:
        StudioError: not a checkpoint that can be trained; the message says what it is instead.
    """
    if not any(key.startswith(f"{_UNET}input_blocks.") for key in shapes):
        raise StudioError(f"this file holds {describe(shapes)}", file=file, allowed=_ALLOWED)
    for words, is_it in _RELATIVES:
        if is_it(shapes):
            raise StudioError(f"this is {words}", file=file, allowed=_ALLOWED)
    if any(key.startswith("conditioner.embedders.") for key in shapes):
        return Family.SDXL
    if any(key.startswith("cond_stage_model.model.") for key in shapes):
        return Family.SD2
    if any(key.startswith("cond_stage_model.transformer.") for key in shapes):
        return Family.SD1
    what = "a checkpoint" if any(key.startswith("first_stage_model.") for key in shapes) else "a UNet alone: a file"
    raise StudioError(f"{what} without a text encoder", file=file, allowed=_ALLOWED)


def check_vae(shapes: Shapes, file: object) -> None:
    """Whether the tensors (LDM's names without prefix) are a VAE that Stable Diffusion can work with.

    Raises:
        StudioError: they are not; the message says what they are instead.
    """
    latents = shapes.get("decoder.conv_in.weight", (0, 0))
    if latents[1:2] != (_LATENT_CHANNELS,) or "encoder.down.0.block.0.conv1.weight" not in shapes:
        raise StudioError(
            f"this file holds {describe(shapes)}",
            field="vae",
            file=file,
            allowed="a VAE of Stable Diffusion 1, 2 or XL, with encoder and decoder",
        )


def describe(shapes: Shapes) -> str:
    """What the tensors of a file that is no Stable Diffusion checkpoint are, in a few words."""
    inner = {key[len(_UNET) :] if key.startswith(_UNET) else key: shape for key, shape in shapes.items()}
    return next((words for words, is_it in _OTHERS if is_it(inner)), "no model that we know")


def _has(*patterns: str) -> Test:
    """Each pattern is found in the beginning of some key, or anywhere where it says ``.*``."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda shapes: all(any(pattern.match(key) for key in shapes) for pattern in compiled)


def _conv_in(count: int) -> Test:
    return lambda shapes: shapes.get(_CONV_IN, (0, 0))[1:2] == (count,)


def _is_embedding(shapes: Shapes) -> bool:
    """SDXL's ``clip_l`` and ``clip_g``, or diffusers' one tensor [tokens, width] under the token's own name."""
    widths = (768, 1024, 1280)
    return 0 < len(shapes) <= 2 and all(
        key in ("clip_l", "clip_g") or ("." not in key and 1 <= len(shape) <= 2 and shape[-1] in widths)
        for key, shape in shapes.items()
    )


# Checkpoints with Stable Diffusion's UNet that cannot be trained here.
# Names: A1111 v1.10.1, sd_models_config.py; diffusers 0.42, single_file_utils.py; ComfyUI, supported_models.py.
_RELATIVES: list[tuple[str, Test]] = [
    (
        "a checkpoint quantised with bitsandbytes: give the one that it was made from",
        _has(r".*\.quant_state\.bitsandbytes"),
    ),
    (
        "the refiner of SDXL, which has no CLIP-L text encoder: give the base",
        _has(r"conditioner\.embedders\.0\.model\."),
    ),
    ("Stable Video Diffusion, a model for videos", _has(r".*\.time_stack\.")),
    ("Playground v2.5, which has a noise schedule of its own (EDM)", _has(r"edm_mean$|edm_std$")),
    ("a CosXL checkpoint, which has a noise schedule of its own (EDM)", _has(r"edm_vpred\.")),
    ("a depth-to-image checkpoint of SD2", _has(r"depth_model\.")),
    ("an unCLIP checkpoint of SD2", _has(r"embedder\.model\.|noise_augmentor\.")),
    (
        "an AltDiffusion checkpoint, whose text encoder is not CLIP",
        _has(r"cond_stage_model\.(roberta|transformation)\."),
    ),
    ("an InstructPix2Pix checkpoint, which changes pictures by instructions", _conv_in(8)),
    ("the x4 upscaler of SD2", _conv_in(7)),
    (
        "a checkpoint with an unknown kind of input",
        lambda shapes: shapes.get(_CONV_IN, (0, 4))[1] not in _INPUTS,
    ),
]

# Everything else, in the order of asking: an adapter of some model names that model's layers too, and a file that
# holds a whole pipeline names its VAE and text encoders. Names without the prefix "model.diffusion_model.".
_OTHERS: list[tuple[str, Test]] = [
    ("no tensors at all", lambda shapes: not shapes),
    # adapters
    ("a LoRA of the type LoHa (LyCORIS), not a checkpoint", _has(r".*\.hada_w[12]_[ab]$")),
    ("a LoRA of the type LoKr (LyCORIS), not a checkpoint", _has(r".*\.lokr_w[12](_[ab])?$")),
    ("a LoRA of the type OFT (LyCORIS), not a checkpoint", _has(r".*\.oft_(blocks|diag|R|r)(\.|$)")),
    ("a LoRA of the type GLoRA (LyCORIS), not a checkpoint", _has(r"(lora|lycoris)_.*\.b1\.weight$")),
    ("a LoRA of the type IA3 (LyCORIS), not a checkpoint", _has(r".*\.on_input$")),
    ("a LoRA in diffusers' or PEFT's names, not a checkpoint", _has(r".*(\.lora_[AB]\b|lora\d?\.(down|up)\.)")),
    ("a LoRA, not a checkpoint", _has(r".*\.lora_(down|up|mid)\.")),
    ("a LoRA of the type Full (LyCORIS), not a checkpoint", _has(r"(lora|lycoris)_.*\.(diff|diff_b|w_norm|b_norm)$")),
    ("a LoRA, not a checkpoint", _has(r"(lora_(unet|te\d?|prior_unet|transformer)|lycoris)_")),
    ("an IP-Adapter, not a checkpoint", _has(r"(image_proj|image_proj_model)\.|ip_adapter\.")),
    ("a PhotoMaker adapter, not a checkpoint", _has(r"id_encoder\.")),
    ("a ControlNet-LLLite, not a checkpoint", _has(r"lllite_")),
    (
        "a ControlNet, not a checkpoint",
        _has(
            r"(control_model|input_hint_block|zero_convs|controlnet_(cond_embedding|down_blocks|blocks|x_embedder))\b"
        ),
    ),
    (
        "a T2I-Adapter, not a checkpoint",
        _has(r"(adapter\.)?(body\.\d+\.(block1|in_conv|resnets\.\d+\.block1)|conv_in)\.", r"(adapter\.)?body\.\d+\."),
    ),
    ("a motion module of AnimateDiff, not a checkpoint", _has(r".*motion_modules\.")),
    (
        "a textual inversion embedding, not a checkpoint",
        lambda shapes: _has(r"emb_params$|string_to_(param|token)\.")(shapes) or _is_embedding(shapes),
    ),
    ("a hypernetwork, not a checkpoint", _has(r"\d+\.\d+\.linear\d?\.")),
    # other families
    ("a Flux.2 model", _has(r"(single_stream_modulation|double_stream_modulation_img)\.")),
    ("a Chroma model", _has(r"distilled_guidance_layer\.")),
    (
        "a HunyuanVideo or HunyuanImage model",
        _has(r"(txt_in\.individual_token_refiner|context_embedder\.token_refiner)\."),
    ),
    ("a HiDream model", _has(r"double_stream_blocks\.")),
    ("a Qwen-Image model", _has(r"transformer_blocks\.\d+\.img_mod\.")),
    ("an AuraFlow model", _has(r"(double_layers|joint_transformer_blocks)\.")),
    ("a Flux model", _has(r"double_blocks\.\d+\.img_attn|single_transformer_blocks\.\d+\.(attn|norm)")),
    (
        "a Stable Diffusion 3 model",
        lambda shapes: (
            _has(r"joint_blocks\.")(shapes)
            or _has(r"transformer_blocks\.\d+\.attn\.add_q_proj\.", r"pos_embed\.proj\.")(shapes)
        ),
    ),
    ("a Stable Cascade model (stage B)", _has(r"effnet_mapper\.")),
    ("a Stable Cascade model (stage C)", _has(r"clip_txt_(pooled_)?mapper\.")),
    ("a Stable Cascade model (stage A, its VAE)", _has(r"(stage_a\.)?vquantizer\.")),
    ("a Stable Cascade model", _has(r"down_blocks\.\d+\.\d+\.channelwise\.")),
    ("a Sana model", _has(r".*(ff\.conv_inverted|mlp\.inverted_conv)\.")),
    (
        "an LTX-Video model",
        lambda shapes: (
            _has(r"patchify_proj\.|.*per_channel_statistics\.")(shapes)
            or _has(r"time_embed\.emb\.", r"proj_in\.", r"caption_projection\.")(shapes)
        ),
    ),
    ("a HunyuanDiT model", _has(r"mlp_t5\.|text_embedding_padding$")),
    ("a PixArt model", _has(r"y_embedder\.|adaln_single\.emb\.", r"t_block\.|pos_embed\.proj\.")),
    ("a Wan model", _has(r"head\.modulation$|condition_embedder\.time_embedder\.")),
    ("a Z-Image model", _has(r"layers\.\d+\.adaLN_modulation\.0\.")),
    ("a Lumina model", _has(r"(cap_embedder|time_caption_embed)\.")),
    ("a Mochi model", _has(r".*\.attn\.qkv_x\.|time_embed\.pooler\.")),
    ("a CogVideoX or CogView model", _has(r"patch_embed\.text_proj\.")),
    (
        "a Kandinsky model",
        _has(
            r"(encoder_hid_proj\.image_embeds|add_embedding\.image_(proj|norm)|to_model_dim_n|clip_to_seq)\."
            r"|prd_embedding|(visual|text)_transformer_blocks\."
        ),
    ),
    # parts of pipelines, and helpers
    ("the image decoder of Kandinsky (MoVQ)", _has(r"decoder\..*\.(conv_y|spatial_norm)\b")),
    ("a TAESD, a small VAE for previews", _has(r"(taesd_)?((en|de)coder\.(layers\.)?)?\d+\.conv\.0\.weight$")),
    ("the VAE of Wan or Qwen-Image", _has(r"decoder\.(middle\.0\.residual\.|mid_block\.resnets\.0\.norm1\.gamma)")),
    (
        "the VAE of Flux, Stable Diffusion 3 or the like, whose latents have 16 channels",
        lambda shapes: any(
            re.match(r"(first_stage_model\.|vae\.)?decoder\.conv_in\.weight$", key) and shape[1:2] == (16,)
            for key, shape in shapes.items()
        ),
    ),
    (
        "a VAE, not a checkpoint",
        _has(r"(first_stage_model\.|vae\.)?decoder\.conv_in\."),
    ),
    ("a UNet alone, without VAE and text encoder", _has(r"input_blocks\.\d+\.")),
    (
        "a UNet alone in diffusers' names (give the pipeline's folder)",
        _has(r"down_blocks\.\d+\.(resnets|attentions)\."),
    ),
    (
        "an upscaler of pictures",
        _has(r"(params(_ema)?\.)?(conv_first|model\.1\.sub\.0|body\.0\.(weight|rdb1)|layers\.0\.residual_group)\b"),
    ),
    ("a T5 text encoder", _has(r".*\bencoder\.block\.\d+\.layer\.\d+\.")),
    ("an image encoder of CLIP, or a whole CLIP model", _has(r"vision_model\.|visual\.")),
    (
        "a text encoder only",
        _has(r"(transformer\.)?(text_model|resblocks)\.|(cond_stage_model|conditioner\.embedders|text_encoders)\."),
    ),
    ("a language model", _has(r"(model\.)?layers\.\d+\.(self_attn|mlp)\.")),
    ("the state of a training run, not its result", _has(r".*\.exp_avg(_sq)?$")),
]
