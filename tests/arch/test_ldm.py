"""The names and configurations that diffusers' own converter gives are the independent reference."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders import single_file_utils

from lib_lora.arch import ldm
from tiny import HEADS, checkpoint_tensors


@pytest.fixture(scope="module")
def tensors():
    return checkpoint_tensors()


def without_prefix(tensors, prefix):
    return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def shapes(tensors):
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def test_unet_names_are_those_of_diffusers_converter(tensors):
    unet = without_prefix(tensors, "model.diffusion_model.")
    config = ldm.unet_config(shapes(unet), HEADS)
    expected = single_file_utils.convert_ldm_unet_checkpoint(
        dict(tensors), config={"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None}
    )
    ours = {ldm.unet_key(key, config["layers_per_block"]): tensor for key, tensor in unet.items()}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


def test_vae_names_are_those_of_diffusers_converter(tensors):
    vae = without_prefix(tensors, "first_stage_model.")
    config = ldm.vae_config(shapes(vae), 0.18215)
    expected = single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), config=config)
    ours = {ldm.vae_key(key, 4): tensor for key, tensor in vae.items()}
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key].reshape(expected[key].shape), expected[key]) for key in expected)


def test_unet_config_is_read_off_the_shapes(tensors):
    config = ldm.unet_config(shapes(without_prefix(tensors, "model.diffusion_model.")), 2)
    assert config["block_out_channels"] == (32, 32, 64, 64)
    assert config["down_block_types"] == (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")
    assert config["cross_attention_dim"] == 32
    assert config["use_linear_projection"] is False


@pytest.mark.parametrize(
    "key",
    [
        "transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "transformer.encoder.layers.0.mlp.fc1.weight",
    ],
)
def test_text_encoder_keys_of_every_layout_become_one(key):
    assert ldm.text_key(key) == "text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize("key", ["loss.discriminator.main.0.weight", "input_blocks.1.2.foo"])
def test_foreign_keys_are_refused(key):
    with pytest.raises(KeyError):
        ldm.unet_key(key, 2)
