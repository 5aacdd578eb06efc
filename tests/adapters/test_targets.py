"""The layers of full-size models, on the meta device.

sd-scripts 48d368f (networks/lora.py, ``LoRANetwork``) finds the same numbers on its own classes: SD1.5 192 and 72,
with conv_dim 278; SDXL 722 and 264, with conv_dim 788. Worked out:

- a transformer block has 10 linear layers (two attentions of 4, a feed-forward of 2), around its blocks a transformer
  has proj_in and proj_out: SD1.5 and SD2 have 16 transformers of one block, 16 (10 + 2) = 192; SDXL has 11
  with 70 blocks: down 2 of 2 and 2 of 10, the middle's 10, up 3 of 10 and 3 of 2; 700 + 22 = 722
- a text encoder's layer has 6: ViT-L/14 12 x 6 = 72, ViT-bigG/14 32 x 6 = 192, SD2's ViT-H/14 without its last layer
  23 x 6 = 138
- a residual block has 3, and 1 more where it changes the number of channels; a sampler has 1. SD1.5: 22 blocks, 14 of
  which change it, 6 samplers: 66 + 14 + 6 = 86. SDXL: 17 blocks, 11, 4 samplers: 51 + 11 + 4 = 66
"""

from __future__ import annotations

import pytest

from lib_lora.adapters.spec import TEXT_ENCODER, UNET, NetworkSpec
from lib_lora.adapters.targets import all_targets, find_targets
from lib_lora.models.loader import build_model
from tiny import FULL_SIZE, meta_tensors

COUNTS = {"SD1": (192, 278, 72), "SD2": (192, 278, 138), "SDXL": (722, 788, 264)}


@pytest.fixture(scope="module")
def models():
    return {
        name: build_model(meta_tensors(shape), None, name=name, file=name, tokenizers=[None] * len(shape.texts))
        for name, shape in FULL_SIZE.items()
    }


def targets(model, **spec):
    return find_targets(model.unet, model.text_encoders, NetworkSpec(4, 4, **spec))


@pytest.mark.parametrize("family", COUNTS)
def test_full_size_models_have_as_many_layers_as_in_sd_scripts(models, family):
    unet, with_convolutions, text = COUNTS[family]
    found = targets(models[family])
    assert sum(target.part == UNET for target in found) == unet
    assert sum(target.part == TEXT_ENCODER for target in found) == text
    assert sum(target.part == UNET for target in targets(models[family], conv_rank=4)) == with_convolutions


def test_sdxls_encoders_have_names_of_their_own(models):
    keys = [target.key for target in targets(models["SDXL"]) if target.part == TEXT_ENCODER]
    assert sum(key.startswith("lora_te1_text_model_encoder_layers_") for key in keys) == 72
    assert sum(key.startswith("lora_te2_text_model_encoder_layers_") for key in keys) == 192


def test_sdxls_unet_layers_are_named_as_in_sd_scripts_and_chosen_by_their_own_names(models):
    found = targets(models["SDXL"], targets=r"mid_block\..*attn2\.to_k", train_text_encoder=False)
    expected = [f"lora_unet_middle_block_1_transformer_blocks_{index}_attn2_to_k" for index in range(10)]
    assert [target.key for target in found] == expected


def test_sdxls_layers_are_found_under_both_names(models):
    model = models["SDXL"]
    found = all_targets(model.unet, model.text_encoders)
    ours = found["lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"]
    assert found["lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q"] is ours
    assert ours.key == "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"
    assert found["lora_te2_text_projection"].layer is model.text_encoders[1].text_projection


def test_full_size_models_are_built_as_published(models):
    """Stability's configurations: 64 channels a head; 77 x 2048 and 2816 numbers for SDXL."""
    unets = {family: model.unet.config for family, model in models.items()}
    assert unets["SD1"].attention_head_dim == 8
    assert tuple(unets["SD2"].attention_head_dim) == (5, 10, 20, 20)
    assert tuple(unets["SDXL"].attention_head_dim) == (5, 10, 20)
    assert [unets[family].cross_attention_dim for family in unets] == [768, 1024, 2048]
    assert unets["SDXL"].addition_time_embed_dim == 256
    assert unets["SDXL"].projection_class_embeddings_input_dim == 2816
    heads = {family: [e.config.num_attention_heads for e in model.text_encoders] for family, model in models.items()}
    assert heads == {"SD1": [12], "SD2": [16], "SDXL": [12, 20]}
    assert models["SD2"].text_encoders[0].config.num_hidden_layers == 23
    assert [model.vae.config.scaling_factor for model in models.values()] == [0.18215, 0.18215, 0.13025]
