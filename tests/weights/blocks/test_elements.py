"""Elemental filters against rules worked out by hand, and sd-webui-lora-block-weight's code."""

from __future__ import annotations

import pytest

from lbw_reference import lbw_key, load_lbw, needs_lbw
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.blocks.elements import Elements, find_elements, parse_elements, read_elements, webui_name
from lib_lora.weights.webui_names import published_layers

TO_K = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"  # IN04
CONV = "lora_unet_up_blocks_1_resnets_0_conv1"  # OUT03
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_k_proj"
TIME = "lora_unet_time_embedding_linear_1"


@pytest.mark.parametrize(
    ("rules", "weights"),
    [
        ("::0.5", (0.5, 0.5, 0.5, 0.5)),
        ("IN04::0.5", (0.5, None, None, None)),
        ("IN00-M00::0.5", (0.5, None, None, None)),
        ("OUT05-IN04::0.5", (0.5, 0.5, None, None)),
        ("BASE IN04::2", (2, None, 2, None)),
        ("NOT IN00-IN11::-1", (None, -1, -1, -1)),
        (":attn:0.5", (0.5, None, 0.5, None)),
        (":attn1:0.5", (None, None, None, None)),
        (":attn2 in_layers:0.5", (0.5, 0.5, None, None)),
        (":NOT attn2 in_layers:0.5", (None, None, 0.5, 0.5)),
        ("IN04:NOT to_k:0.5", (None, None, None, None)),
        ("encoder::0.5", (None, None, 0.5, None)),
        (":attn:0.5,:to_k:0.25", (0.25, None, 0.5, None)),
        ("::1;IN04:attn:0.5\nBASE::0", (0.5, 1, 0, 1)),
    ],
)
def test_the_last_rule_that_fits_counts(rules, weights):
    found = parse_elements(rules, "mine")
    assert tuple(found.of(key) for key in (TO_K, CONV, TEXT, TIME)) == weights


def test_a_layer_is_called_as_the_webui_does_whatever_the_file_calls_it():
    for key in (TO_K, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"):
        assert webui_name(key) == "diffusion_model_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    assert webui_name(CONV) == "diffusion_model_output_blocks_3_0_in_layers_2"
    assert webui_name(TEXT) == "transformer_text_model_encoder_layers_0_self_attn_k_proj"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("IN04:attn", "is no rule"),
        ("IN04:attn:much", "'much' is no number"),
        ("IN04:attn:inf", "'inf' is no number"),
        ("IN04-OUT19::1", "'OUT19' is no block"),
        ("IN5::1", "'IN5' is no block"),
        ("NOT OUT12::1", "'OUT12' is no block"),
        (" ", "has no rule"),
    ],
)
def test_what_is_no_rule_is_refused(rules, words):
    with pytest.raises(StudioError, match=words) as fault:
        find_elements("mine", {"mine": rules})
    assert fault.value.field == "lbwe"


def test_a_file_has_filters_apart_by_empty_lines(tmp_path):
    path = tmp_path / "block_elements.txt"
    text = "# mine\nDEEP:IN05-OUT05:attn:1\nBASE:attn:0.5\n\n  \nOFF:::0\n"
    path.write_text(text, encoding="utf-8")
    assert read_elements(path) == {"DEEP": "IN05-OUT05:attn:1\nBASE:attn:0.5", "OFF": "::0"}
    loaded = Elements.load(tmp_path)
    assert loaded.own == {"DEEP", "OFF"} and "ATTNDEEPON" in loaded
    assert find_elements("DEEP", loaded).of(TEXT) == 0.5
    path.write_text("DEEP\n", encoding="utf-8")
    with pytest.raises(StudioError, match="filter without a name"):
        read_elements(path)
    assert "without a name" in Elements.load(tmp_path).notes[0]
    with pytest.raises(StudioError, match="no elemental filter has this name; block_elements.txt: .*without a name"):
        find_elements("DEEP", Elements.load(tmp_path))


def test_a_filter_that_is_not_there_is_named():
    with pytest.raises(StudioError, match="no elemental filter has this name.*NOBODYS.*ATTNDEEPON"):
        find_elements("NOBODYS", Elements({"ATTNDEEPON": "::1"}))


@needs_lbw
@pytest.mark.parametrize(
    "rules",
    [
        "IN05-OUT05:attn:0.5",
        "OUT02-IN04:NOT attn1:0.25",
        "NOT M00:proj ff:-1",
        ":NOT to_q to_k:2",
        "::1,IN04 OUT03:attn:0.5,BASE:mlp:0",
        "encoder::0.5",
    ],
)
def test_every_layer_of_sdxl_has_the_weight_that_the_established_extension_gives(rules):
    lbw, found = load_lbw(), parse_elements(rules, "mine")
    marks = [7.0] * 26  # where no rule fits
    for key in published_layers(Family.SDXL):
        if "lora_te2" in key or "final_layer" in key:
            continue  # it knows open_clip's by other names
        own = found.of(key)
        theirs = lbw.ratiodealer(lbw_key(key), marks, rules)[0]
        in_no_block = theirs == 1 and lbw.ratiodealer(lbw_key(key), marks, "")[0] == 1
        assert (theirs if own is None else own) == theirs, key
        assert in_no_block or (own is None) == (theirs == 7.0), key
