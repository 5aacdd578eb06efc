"""Files are named for what they are. Where diffusers has the model, its own module says what the keys are called."""

from __future__ import annotations

import diffusers
import pytest
import torch
import transformers

from lib_lora.arch.detect import check_vae, describe, detect_family
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from tiny import checkpoint_tensors

UNET = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
}
VAE = {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}
CLIP_L = {"cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,)}
OPEN_CLIP = {"cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024)}
SDXL_TEXT = {
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
}


def shapes_of(tensors):
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def test_the_tiny_checkpoint_is_sd1():
    assert detect_family(shapes_of(checkpoint_tensors()), "x") is Family.SD1


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (Family.SD1, CLIP_L),
        (Family.SD1, {"cond_stage_model.transformer.final_layer_norm.weight": (768,)}),
        (Family.SD2, OPEN_CLIP),
        (Family.SDXL, SDXL_TEXT),
        (Family.SDXL, SDXL_TEXT | {"v_pred": (0,), "ztsnr": (0,)}),
    ],
)
@pytest.mark.parametrize("inputs", [4, 9], ids=["pictures", "inpainting"])
def test_families_are_told_apart_by_their_text_encoders(family, text, inputs):
    shapes = UNET | VAE | text | {"model.diffusion_model.input_blocks.0.0.weight": (320, inputs, 3, 3)}
    assert detect_family(shapes, "x") is family


# Keys: A1111 v1.10.1, modules/sd_models_config.py, and diffusers 0.42, loaders/single_file_utils.py, except SVD
# (generative-models, sgm/modules/diffusionmodules/video_model.py) and CosXL (ComfyUI, comfy/supported_models.py).
RELATIVES = [
    ({"conditioner.embedders.0.model.ln_final.weight": (1280,)}, "refiner of SDXL"),
    (
        {"model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight": (320,)} | CLIP_L,
        "Stable Video Diffusion",
    ),
    ({"edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1)} | SDXL_TEXT, "Playground"),
    ({"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()} | SDXL_TEXT, "CosXL"),
    ({"depth_model.model.pretrained.act_postprocess3.0.project.0.bias": (768,)} | OPEN_CLIP, "depth-to-image"),
    ({"embedder.model.ln_final.weight": (1024,)} | OPEN_CLIP, "unCLIP"),
    ({"cond_stage_model.roberta.embeddings.word_embeddings.weight": (250002, 1024)}, "AltDiffusion"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)} | CLIP_L, "InstructPix2Pix"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (320, 7, 3, 3)} | OPEN_CLIP, "x4 upscaler"),
    ({"model.diffusion_model.input_blocks.0.0.weight": (320, 5, 3, 3)} | CLIP_L, "unknown kind of input"),
    (
        {"model.diffusion_model.middle_block.1.proj_in.weight.quant_state.bitsandbytes__nf4": (90,)} | SDXL_TEXT,
        "quantised with bitsandbytes",
    ),
]


@pytest.mark.parametrize(("more", "words"), RELATIVES)
def test_relatives_that_cannot_be_trained_are_named(more, words):
    with pytest.raises(StudioError, match=words):
        detect_family(UNET | VAE | more, "x")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        # adapters: kohya-ss/sd-scripts networks/lora.py, LyCORIS, PEFT, diffusers' loaders
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "a LoRA, not"),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"], "a LoRA, not"),
        (["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"], "LoHa"),
        (["lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "lycoris_x.lokr_w2_a"], "LoKr"),
        (["lycoris_mid_block_attentions_0_proj_in.oft_diag"], "OFT"),
        (["lora_unet_mid_block_attentions_0_proj_in.oft_blocks"], "OFT"),
        (["lora_unet_mid_block_attentions_0_proj_in.a1.weight", "lora_unet_x.b1.weight"], "GLoRA"),
        (["lora_unet_mid_block_attentions_0_to_k.on_input", "lora_unet_x.weight"], "IA3"),
        (["lora_unet_mid_block_attentions_0_proj_in.diff"], "Full"),
        (["lora_unet_mid_block_attentions_0_norm.w_norm", "lora_unet_x.lora_up.weight"], "a LoRA, not"),
        (["unet.down_blocks.0.attentions.0.to_k.lora_A.weight"], "diffusers' or PEFT's"),
        (["unet.down_blocks.0.attn1.processor.to_q_lora.down.weight"], "diffusers' or PEFT's"),
        (["base_model.model.text_model.encoder.layers.0.self_attn.k_proj.lora_B.default.weight"], "PEFT"),
        (["double_blocks.0.processor.qkv_lora1.down.weight"], "a LoRA"),
        (["transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"], "a LoRA"),
        (["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"], "a ControlNet, not"),
        (["input_hint_block.0.weight", "input_blocks.0.0.weight", "lora_controlnet"], "a ControlNet, not"),
        (["lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight"], "LLLite"),
        (["adapter.body.0.resnets.0.block1.weight", "adapter.conv_in.weight"], "T2I-Adapter"),
        (["body.0.block1.weight", "body.0.in_conv.weight", "conv_in.weight"], "T2I-Adapter"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "IP-Adapter"),
        (["emb_params"], "textual inversion"),
        (["string_to_param.*"], "textual inversion"),
        (["768.0.linear.0.weight", "768.1.linear.0.weight", "320.0.linear.0.weight"], "hypernetwork"),
        # other families, as their makers' files name them
        (["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"], "a Flux model"),
        (["model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "vae.decoder.conv_in.weight"], "Flux"),
        (["distilled_guidance_layer.in_proj.bias", "double_blocks.0.img_attn.qkv.weight"], "Chroma"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight"], r"Cascade model \(stage C"),
        (["effnet_mapper.0.weight", "down_blocks.1.0.channelwise.0.weight"], r"Cascade model \(stage B"),
        (["vquantizer.codebook.weight", "up_blocks.0.0.depthwise.1.weight"], r"Cascade model \(stage A"),
        (["x_embedder.proj.weight", "y_embedder.y_proj.fc1.weight", "t_block.1.weight"], "PixArt"),
        (["mlp_t5.0.weight", "text_embedding_padding", "pooler.positional_embedding"], "HunyuanDiT"),
        (
            ["txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias", "double_blocks.0.img_attn_qkv.bias"],
            "HunyuanVideo",
        ),
        (["model.diffusion_model.head.modulation", "model.diffusion_model.blocks.0.cross_attn.k.weight"], "Wan"),
        (["cap_embedder.0.weight", "layers.0.adaLN_modulation.1.weight"], "Lumina"),
        (["layers.0.adaLN_modulation.0.weight", "cap_embedder.0.weight"], "Z-Image"),
        (["double_layers.0.attn.w2q.weight", "cond_seq_linear.weight"], "AuraFlow"),
        (["to_model_dim_n.weight", "clip_to_seq.weight", "input_blocks.0.0.weight"], "Kandinsky"),
        (["patchify_proj.weight", "transformer_blocks.27.scale_shift_table"], "LTX"),
        # parts and helpers
        (["encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.up.0.block.0.conv1.weight"], "a VAE"),
        (list(VAE), "a VAE"),
        (["1.weight", "3.conv.0.weight"], "TAESD"),
        (["model.diffusion_model.input_blocks.0.0.weight".replace("model.diffusion_model.", "")], "a UNet alone"),
        (["cond_stage_model.transformer.text_model.final_layer_norm.weight"], "a text encoder only"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "a text encoder only"),
        (["transformer.resblocks.0.attn.in_proj_weight", "ln_final.weight"], "a text encoder only"),
        (["visual.conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"], "CLIP"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight"], "T5"),
        (["model.layers.0.self_attn.q_proj.weight"], "language model"),
        # BasicSR's RRDBNet and SRVGGNetCompact, the old ESRGAN, SwinIR
        (["params_ema.conv_first.weight", "params_ema.body.0.rdb1.conv1.weight"], "upscaler"),
        (["params.body.0.weight", "params.body.1.weight"], "upscaler"),
        (["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"], "upscaler"),
        (["conv_first.weight", "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"], "upscaler"),
        ([], "no tensors"),
        (["something.else"], "no model that we know"),
    ],
)
def test_other_files_are_named_for_what_they_are(keys, words):
    with pytest.raises(StudioError, match=words) as caught:
        detect_family({key: (1,) for key in keys}, "some.safetensors")
    assert "some.safetensors" in str(caught.value)


DIFFUSERS = [
    ("FluxTransformer2DModel", {"num_layers": 1, "num_single_layers": 1}, "a Flux model"),
    ("Flux2Transformer2DModel", {"num_layers": 1, "num_single_layers": 1}, "Flux.2"),
    ("ChromaTransformer2DModel", {"num_layers": 1, "num_single_layers": 1}, "Chroma"),
    ("SD3Transformer2DModel", {"num_layers": 1}, "Stable Diffusion 3"),
    ("StableCascadeUNet", {}, "stage C"),
    ("StableCascadeUNet", {"effnet_in_channels": 16}, "stage B"),
    ("PixArtTransformer2DModel", {"num_layers": 1}, "PixArt"),
    ("HunyuanVideoTransformer3DModel", {"num_layers": 1, "num_single_layers": 1}, "HunyuanVideo"),
    ("HunyuanImageTransformer2DModel", {"num_layers": 1, "num_single_layers": 1}, "HunyuanImage"),
    ("WanTransformer3DModel", {"num_layers": 1}, "Wan"),
    ("Lumina2Transformer2DModel", {"num_layers": 1}, "Lumina"),
    ("ZImageTransformer2DModel", {"n_layers": 1}, "Z-Image"),
    ("QwenImageTransformer2DModel", {"num_layers": 1}, "Qwen-Image"),
    ("AuraFlowTransformer2DModel", {"num_mmdit_layers": 1, "num_single_dit_layers": 1}, "AuraFlow"),
    ("SanaTransformer2DModel", {"num_layers": 1}, "Sana"),
    ("LTXVideoTransformer3DModel", {"num_layers": 1}, "LTX"),
    ("MochiTransformer3DModel", {"num_layers": 1}, "Mochi"),
    ("CogVideoXTransformer3DModel", {"num_layers": 1}, "CogVideoX"),
    ("ControlNetModel", {}, "a ControlNet"),
    ("FluxControlNetModel", {"num_layers": 1, "num_single_layers": 1}, "a ControlNet"),
    ("SD3ControlNetModel", {"num_layers": 1}, "a ControlNet"),
    ("T2IAdapter", {}, "T2I-Adapter"),
    ("MotionAdapter", {}, "motion module"),
    ("AutoencoderTiny", {}, "TAESD"),
    ("AutoencoderKL", {}, "a VAE, not"),
    ("AutoencoderKL", {"latent_channels": 16}, "16 channels"),
    ("AutoencoderKLWan", {}, "VAE of Wan"),
    ("VQModel", {"norm_type": "spatial"}, "Kandinsky"),
    ("PriorTransformer", {"num_layers": 1}, "Kandinsky"),
    ("UNet2DConditionModel", {"encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 8}, "Kandinsky"),
    ("UNet2DConditionModel", {}, "a UNet alone in diffusers' names"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), DIFFUSERS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_diffusers_own_models_are_named(name, arguments, words):
    if not hasattr(diffusers, name):
        pytest.skip("this diffusers has no such model")
    with torch.device("meta"):
        model = getattr(diffusers, name)(**arguments)
    assert words in describe(shapes_of(model.state_dict()))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("T5EncoderModel", {"num_layers": 1, "d_model": 8, "d_ff": 8, "vocab_size": 9}, "T5"),
        ("CLIPTextModelWithProjection", {"num_hidden_layers": 1, "vocab_size": 9}, "a text encoder only"),
        ("CLIPVisionModelWithProjection", {"num_hidden_layers": 1}, "image encoder of CLIP"),
    ],
)
def test_transformers_own_encoders_are_named(name, arguments, words):
    kind = getattr(transformers, name)
    with torch.device("meta"):
        model = kind(kind.config_class(**arguments))
    keys = model.state_dict()
    # transformers 5 dropped a level of names that every file has.
    named = {
        key
        if key.startswith(("text_", "vision_", "visual_", "encoder.block", "shared"))
        else f"text_model.{key}": value
        for key, value in keys.items()
    }
    assert words in describe(shapes_of(named))


@pytest.mark.parametrize("token", ["<cat-toy>", "my_style"])
def test_diffusers_textual_inversion_has_its_token_as_key(token):
    assert "textual inversion" in describe({token: (2, 768)})


def test_sdxls_textual_inversion_is_named():
    assert "textual inversion" in describe({"clip_l": (2, 768), "clip_g": (2, 1280)})


def test_a_checkpoint_without_text_encoder_is_said_to_be_one():
    with pytest.raises(StudioError, match="a checkpoint without a text encoder"):
        detect_family(UNET | VAE, "x")
    with pytest.raises(StudioError, match="a UNet alone"):
        detect_family(UNET, "x")


def test_a_vae_for_stable_diffusion_passes():
    check_vae({"decoder.conv_in.weight": (512, 4, 3, 3), "encoder.down.0.block.0.conv1.weight": (128, 128, 3, 3)}, "x")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"decoder.conv_in.weight": (512, 16, 3, 3), "encoder.down.0.block.0.conv1.weight": (1,)}, "16 channels"),
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "a VAE.*encoder and decoder"),
        ({"decoder.layers.3.conv.0.weight": (64, 64, 3, 3)}, "TAESD"),
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "a LoRA"),
    ],
)
def test_what_is_given_as_vae_and_is_none_is_named(shapes, words):
    with pytest.raises(StudioError, match=words) as caught:
        check_vae(shapes, "x")
    assert caught.value.field == "vae"
