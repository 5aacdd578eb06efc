from __future__ import annotations

import pytest

from lib_lora.arch.detect import detect_family
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from tiny import checkpoint_tensors

UNET = "model.diffusion_model.input_blocks.0.0.weight"
ATTENTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def test_the_tiny_checkpoint_is_sd1():
    assert detect_family({key: tuple(t.shape) for key, t in checkpoint_tensors().items()}, "x") is Family.SD1


@pytest.mark.parametrize(
    ("family", "key"),
    [
        (Family.SD1, "cond_stage_model.transformer.text_model.final_layer_norm.weight"),
        (Family.SD1, "cond_stage_model.transformer.final_layer_norm.weight"),
        (Family.SD2, "cond_stage_model.model.ln_final.weight"),
        (Family.SDXL, "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"),
    ],
)
def test_families_are_told_apart_by_their_text_encoders(family, key):
    assert detect_family({UNET: (320, 4, 3, 3), ATTENTION: (320, 768), key: (768,)}, "x") is family


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "a LoRA"),
        (["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"], "a LoRA"),
        (["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"], "a ControlNet"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"], "Flux"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "a VAE"),
        (["first_stage_model.decoder.conv_in.weight"], "a VAE"),
        (["emb_params"], "textual inversion"),
        (["down_blocks.0.resnets.0.conv1.weight"], "diffusers"),
        ([], "no tensors"),
        (["something.else"], "no model that we know"),
    ],
)
def test_other_files_are_named_for_what_they_are(keys, words):
    with pytest.raises(StudioError, match=words) as caught:
        detect_family({key: (1,) for key in keys}, "some.safetensors")
    assert "some.safetensors" in str(caught.value)


def test_a_checkpoint_without_text_encoder_is_said_to_be_one():
    with pytest.raises(StudioError, match="without a text encoder"):
        detect_family({UNET: (320, 4, 3, 3)}, "x")
