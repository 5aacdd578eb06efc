"""The names and configurations that diffusers' own converter gives are the independent reference."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders import single_file_utils

from lib_lora.arch import ldm
from tiny import HEADS, SHAPES, checkpoint_tensors


@pytest.fixture(scope="module")
def checkpoints():
    return {name: checkpoint_tensors(shape=shape) for name, shape in SHAPES.items()}


@pytest.fixture
def tensors(checkpoints):
    return checkpoints["SD1"]


def without_prefix(tensors, prefix):
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def shapes(tensors):
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


@pytest.mark.parametrize("family", SHAPES)
def test_unet_names_are_those_of_diffusers_converter(checkpoints, family):
    unet = without_prefix(checkpoints[family], "model.diffusion_model.")
    embedding = "text_time" if family == "SDXL" else None
    expected = single_file_utils.convert_ldm_unet_checkpoint(
        dict(checkpoints[family]),
        config={"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": embedding},
    )
    ours = {ldm.unet_key(key, 2): tensor for key, tensor in unet.items()}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


def test_vae_names_are_those_of_diffusers_converter(tensors):
    vae = without_prefix(tensors, "first_stage_model.")
    config = ldm.vae_config(shapes(vae), 0.18215)
    expected = single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), config=config)
    ours = {ldm.vae_key(key, 4): tensor for key, tensor in vae.items()}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key].reshape(expected[key].shape), expected[key]) for key in expected)


@pytest.mark.parametrize(("family", "prefix"), [("SD2", "cond_stage_model."), ("SDXL", "conditioner.embedders.1.")])
def test_open_clip_names_are_those_of_diffusers_converter(checkpoints, family, prefix):
    text = without_prefix(checkpoints[family], prefix)
    model = SimpleNamespace(config=SimpleNamespace(projection_dim=48))
    # Under this prefix, for the converter leaves out some of SD2's keys by their whole names.
    renamed = {f"some.{key}": tensor for key, tensor in text.items()}
    expected = single_file_utils.convert_open_clip_checkpoint(model, renamed, prefix="some.model.")
    ours = {name for key in text if "logit_scale" not in key for name in ldm.text_keys(key)}
    assert ours == {key for key in expected if "position_ids" not in key}


def test_unet_config_is_read_off_the_shapes(tensors):
    config = ldm.unet_config(shapes(without_prefix(tensors, "model.diffusion_model.")), HEADS)
    assert config["block_out_channels"] == (32, 32, 64, 64)
    assert config["down_block_types"] == (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    assert config["cross_attention_dim"] == 32
    assert config["use_linear_projection"] is False
    assert "addition_embed_type" not in config


def test_sdxls_config_is_read_off_the_shapes(checkpoints):
    unet = without_prefix(checkpoints["SDXL"], "model.diffusion_model.")
    config = ldm.unet_config(shapes(unet), [2, 4, 4], pooled_width=24)
    assert config["down_block_types"] == ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    assert config["up_block_types"] == ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    assert config["transformer_layers_per_block"] == [1, 1, 2]
    assert config["attention_head_dim"] == (2, 4, 4)
    assert config["cross_attention_dim"] == 80
    assert config["use_linear_projection"] is True
    assert config["addition_embed_type"] == "text_time"
    assert config["addition_time_embed_dim"] == 8
    assert config["projection_class_embeddings_input_dim"] == 24 + 6 * 8


@pytest.mark.parametrize(
    "key",
    [
        "transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "transformer.encoder.layers.0.mlp.fc1.weight",
        "model.transformer.resblocks.0.mlp.c_fc.weight",
    ],
)
def test_text_encoder_keys_of_every_layout_become_one(key):
    assert ldm.text_keys(key) == ("text_model.encoder.layers.0.mlp.fc1.weight",)


def test_a_fused_projection_has_three_names():
    assert ldm.text_keys("model.transformer.resblocks.7.attn.in_proj_bias") == (
        "text_model.encoder.layers.7.self_attn.q_proj.bias",
        "text_model.encoder.layers.7.self_attn.k_proj.bias",
        "text_model.encoder.layers.7.self_attn.v_proj.bias",
    )


def test_layouts_are_told_apart(checkpoints):
    assert ldm.is_open_clip(without_prefix(checkpoints["SD2"], "cond_stage_model."))
    assert not ldm.is_open_clip(without_prefix(checkpoints["SD1"], "cond_stage_model."))


@pytest.mark.parametrize("key", ["loss.discriminator.main.0.weight", "input_blocks.1.2.foo"])
def test_foreign_keys_are_refused(key):
    with pytest.raises(KeyError):
        ldm.unet_key(key, 2)


@pytest.mark.parametrize("key", ["model.logit_scale", "model.visual.proj", "tokenizer.x"])
def test_what_is_no_text_encoder_is_refused(key):
    with pytest.raises(KeyError):
        ldm.text_keys(key)


def test_sdxls_module_names_go_back_to_where_they_came_from(checkpoints):
    unet = without_prefix(checkpoints["SDXL"], "model.diffusion_model.")
    layers = [key[: -len(".weight")] for key in unet if key.endswith(".weight") and unet[key].dim() > 1]
    assert len(layers) > 100
    for layer in layers:
        assert ldm.sdxl_module_name(ldm.unet_key(f"{layer}.", 2)[:-1]) == layer
    with pytest.raises(KeyError):
        ldm.sdxl_module_name("text_model.encoder")
