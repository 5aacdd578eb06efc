"""Lists of block weights against the reference's tables written out by hand, and sd-webui-lora-block-weight's code."""

from __future__ import annotations

import random

import pytest

from lbw_reference import lbw_key, load_lbw, needs_lbw
from lib_lora.arch.blocks import BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.blocks.vector import lr_multipliers, parse_vector, to_length
from lib_lora.weights.webui_names import published_layers

SD1, SD2, SDXL = Family.SD1, Family.SD2, Family.SDXL
EVERY = ["BASE", *(f"IN{n:02d}" for n in range(12)), "M00", *(f"OUT{n:02d}" for n in range(12))]
# The blocks in which the presets of 17 are 1.
BY_HAND = {
    "NONE": "",
    "ALL": EVERY,  # the blocks without attention, too
    "INS": "BASE IN01 IN02 IN04",
    "IND": "BASE IN05 IN07 IN08",
    "INALL": "BASE IN01 IN02 IN04 IN05 IN07 IN08",
    "MIDD": "BASE IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06",
    "OUTD": "BASE OUT03 OUT04 OUT05 OUT06",
    "OUTS": "BASE OUT07 OUT08 OUT09 OUT10 OUT11",
    "OUTALL": "BASE OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
}
# SDXL's BASE, IN04, 05, 07, 08, M00, OUT00 ... OUT05.
SDXL_BY_HAND = {
    "NONE": "0 0000 0 000000",
    "ALL": "1 1111 1 111111",
    "INS": "1 1100 0 000000",
    "IND": "1 0011 0 000000",
    "INALL": "1 1111 0 000000",
    "MIDD": "1 0011 1 111000",
    "OUTD": "1 0000 0 111000",
    "OUTS": "1 0000 0 000111",
    "OUTALL": "1 0000 0 111111",
    "INX": "1 1111 1 XXXXXX",
    "OUTX": "X XXXX X 111111",
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("family", [SD1, SD2])
def test_a_preset_acts_in_its_blocks(name, family):
    words = BY_HAND[name]
    found = parse_vector(name, family).by_block
    assert list(found) == EVERY
    assert [block for block, ratio in found.items() if ratio == 1] == (
        words.split() if isinstance(words, str) else words
    )
    assert set(found.values()) <= {0, 1}


@pytest.mark.parametrize("name", SDXL_BY_HAND)
def test_a_preset_of_sd1_fits_sdxls_blocks(name):
    found = parse_vector(name, SDXL, x=0.3)
    numbers = [{"0": 0.0, "1": 1.0, "X": 0.3}[letter] for letter in SDXL_BY_HAND[name].replace(" ", "")]
    assert [found.by_block[block] for block in BLOCK_LISTS[SDXL][12]] == numbers
    if name in ("NONE", "ALL"):
        assert not found.remarks
    else:
        (remark,) = found.remarks
        assert "17 block weights" in remark and "SDXL" in remark


def test_a_list_without_base_leaves_the_text_encoders_at_1():
    found = parse_vector("LOUTX", SD1, x=0.2)
    assert found.by_block["BASE"] == 1 and "BASE" in found.remarks[0]
    assert [found.by_block[block] for block in EVERY[1:]] == [0.2] * 12 + [1] * 13
    assert parse_vector(",".join(["0.5"] * 11), SDXL).by_block == {
        "BASE": 1,
        **dict.fromkeys(BLOCK_LISTS[SDXL][20][1:], 0.5),
    }


def test_values_are_what_they_say():
    numbers = "X,X+0.3,X-.2,-1,1e-1,0.25,2,0,0,0,0,0,0,0,0,0,0"
    found = parse_vector(numbers, SD1, x=0.5).by_block
    assert [found[block] for block in ("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08")] == pytest.approx(
        [0.5, 0.8, 0.3, -1, 0.1, 0.25, 2]
    )


def test_random_values_have_three_digits_and_stay_in_their_ranges():
    text = ",".join(["R"] * 13 + ["U"] * 13)
    drawn = [list(parse_vector(text, SD1, draw=random.Random(seed).uniform).by_block.values()) for seed in range(200)]
    first, second = [row[i] for row in drawn for i in range(13)], [row[i] for row in drawn for i in range(13, 26)]
    assert 0 <= min(first) < 0.05 and 0.95 < max(first) <= 1
    assert -0.5 <= min(second) < -0.4 and 1.4 < max(second) <= 1.5
    assert all(value == round(value, 3) for row in drawn for value in row)
    assert drawn[3] == list(parse_vector(text, SD1, draw=random.Random(3).uniform).by_block.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("outd", "no block weights have this name.*OUTD"),
        ("0.5", "no block weights have this name"),
        ("", "no block weights have this name"),
        ("1,1,1", "3 block weights are no list.*17 or 26 for SD1"),
        (",".join("1" * 61), "for Flux"),
        (",".join(["1"] * 16 + ["one"]), "'one' is no number"),
        (",".join(["1"] * 16 + ["nan"]), "'nan' is no number"),
        (",".join(["1"] * 16 + ["1e999"]), "'1e999' is no number"),
        (",".join(["1"] * 16 + ["X*2"]), "'X\\*2' is no number"),
        (",".join(["1"] * 16 + [""]), "'' is no number"),
        (",".join(["1"] * 16 + ["R"]), "R and U are drawn anew"),
    ],
)
def test_what_is_no_list_is_refused(text, words):
    with pytest.raises(StudioError, match=words) as fault:
        parse_vector(text, SD1)
    assert fault.value.field == "lbw"


def test_without_a_family_the_length_tells_it():
    assert list(parse_vector(",".join("1" * 12), None).by_block) == list(BLOCK_LISTS[SDXL][20])
    assert list(parse_vector("OUTD", None).by_block) == EVERY


@pytest.mark.parametrize(
    ("key", "block"),
    [
        # So the WebUI calls SDXL's first upsampler; by diffusers' name it looks for 2_1, which is not there.
        ("lora_unet_output_blocks_2_2_conv", "OUT02"),
        ("lora_unet_output_blocks_2_1_conv", "OUT02"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "OUT02"),
        ("lora_unet_input_blocks_3_0_op", "IN03"),
        ("lora_unet_down_blocks_2_attentions_1_transformer_blocks_9_ff_net_2", "IN08"),
        ("oft_unet_input_blocks_4_1_proj_in", "IN04"),
        ("diffusion_model_input_blocks_4_1_proj_in", "IN04"),
        ("transformer_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("0_transformer_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("1_model_transformer_resblocks_0_mlp_c_fc", "BASE"),
        ("model_transformer_resblocks_0_mlp_c_fc", "BASE"),
        ("lora_unet_middle_block_1_proj_in", "M00"),
        ("lora_te1_text_model_encoder_layers_3_mlp_fc1", "BASE"),
        ("lora_te2_text_model_encoder_layers_30_self_attn_q_proj", "BASE"),
    ],
)
def test_a_module_has_the_ratio_of_its_block(key, block):
    names = BLOCK_LISTS[SDXL][20]
    for one in names:
        ratios = parse_vector(",".join("1" if name == one else "0" for name in names), SDXL)
        assert ratios.of(key) == (one == block)


@pytest.mark.parametrize(
    "name",
    [
        *("time_embedding_linear_1", "time_embed_0", "label_emb_0_0", "add_embedding_linear_2"),
        *("conv_out", "out_2", "conv_norm_out", "out_0"),
    ],
)
def test_what_is_in_no_block_keeps_its_strength_unless_the_whole_unet_has_one_weight(name):
    ratios = {text: parse_vector(text, SDXL).of(f"lora_unet_{name}") for text in ("OUTD", "XL-STYLE", "NONE", "ALL0.5")}
    assert ratios == {"OUTD": 1, "XL-STYLE": 1, "NONE": 0, "ALL0.5": 0.5}
    assert parse_vector("0.3" + ",0" * 25, SD1).of(f"lora_unet_{name}") == 0


@pytest.mark.parametrize("family", Family)
def test_a_list_of_a_length_is_read_as_it_was_written(family):
    for length, names in BLOCK_LISTS[family].items():
        values = [round(0.1 * index - 0.3, 3) for index in range(length)]
        ratios = parse_vector(",".join(map(str, values)), family)
        assert to_length(ratios, family, length) == values
        assert to_length(ratios, family, length - 1) == values[1:]
        assert [ratios.by_block[name] for name in names] == values
        assert parse_vector(ratios.text, family) == ratios


def test_a_list_for_the_other_kind_of_model_says_the_same_when_it_comes_back():
    ratios = parse_vector("0.3,1,0.5,0,-1,0.2,1,1,0.4,0.6,0.7,0.8", SDXL)
    for length in (17, 26):
        values = to_length(ratios, SDXL, length)
        assert len(values) == length
        assert to_length(parse_vector(",".join(map(str, values)), SDXL), SDXL, 12) == to_length(ratios, SDXL, 12)
    with pytest.raises(StudioError, match="13 block weights are no list"):
        to_length(ratios, SDXL, 13)


def test_ratios_become_factors_of_learning_rates():
    assert lr_multipliers(parse_vector("OUTS", SD1), SD1) == {
        "block_lr_weight": tuple(float(block in BY_HAND["OUTS"].split()) for block in EVERY)
    }
    assert len(lr_multipliers(parse_vector("OUTS", SDXL), SDXL)["block_lr_weight"]) == 20
    with pytest.raises(StudioError, match="no factor below 0"):
        lr_multipliers(parse_vector(",".join(["-1"] * 12), SDXL), SDXL)


@needs_lbw
@pytest.mark.parametrize("length", [12, 17, 20, 26])
def test_a_list_is_what_the_established_extension_makes_of_it(length):
    lbw, family = load_lbw(), SDXL if length in (12, 20) else SD1
    values = [str(round(0.07 * index - 0.2, 2)) for index in range(length)]
    values[3], values[5] = "X+0.25", "X"
    tag = ["a", "1", f"lbw={','.join(values)}", "x=0.5"]
    found = parse_vector(",".join(values), family, x=0.5).by_block
    assert [found.get(block, 0) for block in lbw.BLOCKID26] == pytest.approx(lbw.read(tag)[2])


@needs_lbw
def test_its_presets_are_ours_and_act_alike_in_the_blocks_that_they_name():
    lbw = load_lbw()
    for name, values in lbw.presets.items():
        if values.count(",") == 16:
            theirs = dict(zip(lbw.BLOCKID26, lbw.read(["a", "1", f"lbw={name}"])[2]))
            found = parse_vector(name, SD1)
            assert [found.by_block[block] for block in lbw.BLOCKID17] == [theirs[block] for block in lbw.BLOCKID17]
            assert parse_vector(values, SD1) == found


@needs_lbw
def test_every_layer_of_sdxl_has_the_ratio_that_it_gives():
    lbw = load_lbw()
    values = [round(0.1 + 0.03 * index, 2) for index in range(20)]
    ratios = parse_vector(",".join(map(str, values)), SDXL)
    keys = [key for key in published_layers(SDXL) if "lora_te2" not in key and "final_layer" not in key]
    assert len(keys) > 1000
    for key in keys:
        assert ratios.of(key) == lbw.ratiodealer(lbw_key(key), lbw.to26(values), "")[0], key
