"""diffusers' names to LDM's, held against diffusers' own modules and its own conversion."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as diffusers_own

from lib_lora.arch.diffusers_keys import ldm_unet_keys, ldm_vae_keys

SD1 = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (32, 32, 64, 64),
}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}


def unet(arguments):
    return UNet2DConditionModel(cross_attention_dim=32, attention_head_dim=2, layers_per_block=2, **arguments)


def vae():
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
    )


@pytest.mark.parametrize("arguments", [SD1, SDXL], ids=["SD1", "SDXL"])
def test_diffusers_own_conversion_brings_every_unet_key_back(arguments):
    model = unet(arguments)
    state = model.state_dict()
    renamed = {new: state[old] for old, new in ldm_unet_keys(state).items()}
    assert len(renamed) == len(state)
    checkpoint = {f"model.diffusion_model.{key}": tensor for key, tensor in renamed.items()}
    back = diffusers_own.convert_ldm_unet_checkpoint(checkpoint, model.config)
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)


def test_diffusers_own_conversion_brings_every_vae_key_back():
    model = vae()
    state = model.state_dict()
    renamed = {f"first_stage_model.{new}": state[old] for old, new in ldm_vae_keys(state).items()}
    back = diffusers_own.convert_ldm_vae_checkpoint(renamed, model.config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_upsamplers_stand_behind_the_attention_where_there_is_one():
    names = ldm_unet_keys(unet(SD1).state_dict())
    # openaimodel.py: output_blocks[2] = [ResBlock, Upsample], output_blocks[5] = [ResBlock, Transformer, Upsample]
    assert names["up_blocks.0.upsamplers.0.conv.weight"] == "output_blocks.2.1.conv.weight"
    assert names["up_blocks.1.upsamplers.0.conv.weight"] == "output_blocks.5.2.conv.weight"


@pytest.mark.parametrize(
    ("old", "current"), [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")]
)
def test_old_vae_names_mean_the_same(old, current):
    keys = list(vae().state_dict())
    names = [key.replace(f".{current}.", f".{old}.") for key in keys]
    assert list(ldm_vae_keys(names).values()) == list(ldm_vae_keys(keys).values())


def test_a_key_of_another_model_is_refused():
    with pytest.raises(KeyError, match="class_embedding"):
        ldm_unet_keys([*unet(SD1).state_dict(), "class_embedding.weight"])
    with pytest.raises(KeyError, match="decoder.time_conv"):
        ldm_vae_keys([*vae().state_dict(), "decoder.time_conv_out.weight"])
