import pytest

from lib_lora.arch.keys import (
    TEXT_PREFIX,
    UNET_PREFIX,
    kohya_key,
    module_name,
    split_key,
    split_prefix,
    text_module_name,
    text_prefix,
    unet_file_name,
)

# Left: the model's own names; right: keys of a LoRA file made with sd-scripts.
PAIRS = [
    (
        UNET_PREFIX,
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_out_0",
    ),
    (
        UNET_PREFIX,
        "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj",
    ),
    (UNET_PREFIX, "mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in"),
    (UNET_PREFIX, "down_blocks.1.resnets.0.conv_shortcut", "lora_unet_down_blocks_1_resnets_0_conv_shortcut"),
    (UNET_PREFIX, "down_blocks.1.resnets.0.time_emb_proj", "lora_unet_down_blocks_1_resnets_0_time_emb_proj"),
    (UNET_PREFIX, "down_blocks.1.downsamplers.0.conv", "lora_unet_down_blocks_1_downsamplers_0_conv"),
    (
        TEXT_PREFIX,
        "text_model.encoder.layers.11.self_attn.out_proj",
        "lora_te_text_model_encoder_layers_11_self_attn_out_proj",
    ),
    ("lora_te2_", "text_model.encoder.layers.31.mlp.fc2", "lora_te2_text_model_encoder_layers_31_mlp_fc2"),
]


@pytest.mark.parametrize("prefix, name, key", PAIRS)
def test_names_go_both_ways(prefix, name, key):
    assert kohya_key(prefix, name) == key
    assert module_name(key) == name
    assert split_prefix(key)[0] == prefix


# Left: diffusers' names; right: keys of SDXL files made with sd-scripts, whose SDXL UNet has sgm's names.
SDXL_PAIRS = [
    (
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0",
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0",
    ),
    ("mid_block.attentions.0.proj_in", "lora_unet_middle_block_1_proj_in"),
    ("mid_block.resnets.1.conv2", "lora_unet_middle_block_2_out_layers_3"),
    (
        "up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj",
        "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_0_proj",
    ),
    ("down_blocks.0.resnets.1.conv1", "lora_unet_input_blocks_2_0_in_layers_2"),
    ("down_blocks.1.resnets.0.time_emb_proj", "lora_unet_input_blocks_4_0_emb_layers_1"),
    ("down_blocks.1.resnets.0.conv_shortcut", "lora_unet_input_blocks_4_0_skip_connection"),
    ("down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
    ("up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv"),
    ("up_blocks.2.resnets.2.conv1", "lora_unet_output_blocks_8_0_in_layers_2"),
    ("conv_in", "lora_unet_input_blocks_0_0"),
    ("add_embedding.linear_2", "lora_unet_label_emb_0_2"),
]


@pytest.mark.parametrize("name, key", SDXL_PAIRS)
def test_sdxls_unet_has_its_original_names_in_files(name, key):
    assert kohya_key(UNET_PREFIX, unet_file_name(name, is_sdxl=True)) == key
    assert module_name(key) == name
    assert unet_file_name(name, is_sdxl=False) == name


@pytest.mark.parametrize("name", ["encoder.layers.0.mlp.fc1", "text_model.encoder.layers.0.mlp.fc1"])
def test_text_encoder_names_hold_text_model_in_every_transformers(name):
    assert text_module_name(name) == "text_model.encoder.layers.0.mlp.fc1"


def test_the_projection_stands_beside_the_text_model():
    assert text_module_name("text_projection") == "text_projection"


def test_prefixes_count_only_where_there_are_two_text_encoders():
    assert text_prefix(0, 1) == "lora_te_"
    assert [text_prefix(index, 2) for index in range(2)] == ["lora_te1_", "lora_te2_"]


def test_split_key():
    assert split_key("lora_unet_a_b.lora_up.weight") == ("lora_unet_a_b", "lora_up.weight")
    assert split_key("lora_unet_a_b.alpha") == ("lora_unet_a_b", "alpha")
    assert split_key("nothing") == ("nothing", "")


def test_other_names_are_no_kohya_names():
    with pytest.raises(KeyError):
        module_name("unet.down_blocks.0")
