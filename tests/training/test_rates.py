"""Learning rates by group, and who is left out. Weights by sd-scripts' own numbers."""

from __future__ import annotations

from collections import Counter

import pytest

from lib_lora.adapters.network import Network
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.models.loader import load_model
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.parts import make_optimizers, network_spec
from lib_lora.training.rates import LearningRates, block_weights
from tiny import SDXL, write_checkpoint

BASIC = {
    "pretrained_model_name_or_path": "x",
    "train_data_dir": "x",
    "output_name": "x",
    "learning_rate": 1e-4,
    "network_dim": 2,
    "network_alpha": 2,
}


def a_config(**more) -> TrainConfig:
    config = from_mapping(TrainConfig, {**BASIC, **more})
    check(config)
    return config


def a_network(model, config):
    rates = LearningRates(config, model.family)
    return Network.create(model.unet, model.text_encoders, network_spec(config, model.family), 0, rates.wants), rates


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return load_model(write_checkpoint(tmp_path_factory.mktemp("sdxl"), shape=SDXL))


def test_one_rate_is_everybodys(tiny_model):
    network, rates = a_network(tiny_model, a_config())
    assert rates.groups(network) == {"text_encoder": 1e-4, "unet": 1e-4}
    assert rates.of_parts() == {"unet": 1e-4, "text_encoder": 1e-4}


@pytest.mark.parametrize("given", ["1e-4 5e-5", "1e-4, 5e-5", [1e-4, 5e-5]])
def test_each_of_sdxls_text_encoders_may_have_its_rate(sdxl, given):
    config = a_config(text_encoder_lr=given, learning_rate=3e-4)
    network, rates = a_network(sdxl, config)
    assert rates.groups(network) == {"text_encoder_1": 1e-4, "text_encoder_2": 5e-5, "unet": 3e-4}
    assert rates.of_parts()["text_encoder"] == [1e-4, 5e-5]
    optimizers = make_optimizers(config, network, rates)
    assert optimizers.learning_rates() == pytest.approx({"unet": 3e-4, "text_encoder_1": 1e-4, "text_encoder_2": 5e-5})
    counts = Counter(adapter.key.split("_")[1] for adapter in network)
    for name, prefix in (("text_encoder_1", "te1"), ("text_encoder_2", "te2"), ("unet", "unet")):
        group = optimizers.optimizers[optimizers.names.index(name)].param_groups[0]["params"]
        assert len(group) == 2 * counts[prefix] > 0


def test_one_rate_for_sdxls_text_encoders_is_one_group(sdxl):
    network, rates = a_network(sdxl, a_config(text_encoder_lr=5e-5))
    assert rates.groups(network) == {"text_encoder": 5e-5, "unet": 1e-4}


def test_a_text_encoder_with_rate_0_gets_no_adapter(sdxl):
    network, rates = a_network(sdxl, a_config(text_encoder_lr="0 5e-5"))
    assert rates.groups(network) == {"text_encoder_2": 5e-5, "unet": 1e-4}
    assert not [adapter.key for adapter in network if adapter.key.startswith("lora_te1_")]


def test_two_rates_for_one_text_encoder_are_refused():
    with pytest.raises(StudioError, match="text_encoder_lr"):
        LearningRates(a_config(text_encoder_lr="1e-4 5e-5"), Family.SD1)


# networks/lora.py: get_block_lr_weight for SD1 (12 blocks each way) and SDXL (9 and a middle of 3).
def test_curves_are_sd_scripts_curves():
    weights = block_weights(a_config(down_lr_weight="sine", mid_lr_weight=0.5, up_lr_weight="cosine+.25"), Family.SD1)
    assert weights.by_block["IN00"] == 0 and weights.by_block["IN11"] == pytest.approx(1)
    assert weights.by_block["IN04"] == pytest.approx(0.5406408)  # sin(pi/2 * 4/11)
    assert weights.by_block["M00"] == 0.5
    assert weights.by_block["OUT00"] == pytest.approx(1.25) and weights.by_block["OUT11"] == pytest.approx(0.25)
    line = block_weights(a_config(down_lr_weight="linear", up_lr_weight="reverse_linear"), Family.SDXL).by_block
    assert [line[f"IN{index:02d}"] for index in range(9)] == pytest.approx([index / 8 for index in range(9)])
    assert [line[f"OUT{index:02d}"] for index in range(9)] == pytest.approx([1 - index / 8 for index in range(9)])
    assert "M00" not in line


def test_small_weights_count_as_zero():
    weights = block_weights(
        a_config(down_lr_weight="linear", block_lr_zero_threshold=0.25, mid_lr_weight="0.2, 0.5, 1"), Family.SDXL
    )
    assert [weights.by_block[f"IN{index:02d}"] for index in range(9)] == [0, 0, 0, 0.375, 0.5, 0.625, 0.75, 0.875, 1]
    assert weights.middle == (0, 0.5, 1)


def test_blocks_have_groups_and_weight_0_leaves_a_block_out(tiny_model):
    down = "0,0,1,1,0.5,1,1,1,1,1,1,1"
    config = a_config(down_lr_weight=down, mid_lr_weight=0, conv_dim=2, network_train_unet_only=True)
    network, rates = a_network(tiny_model, config)
    assert rates.groups(network) == {"unet": 1e-4, "unet x0.5": 5e-5}
    names = [adapter.target.module_name for adapter in network]
    assert not [
        name
        for name in names
        if name.startswith(("mid_block", "down_blocks.0.resnets.0", "down_blocks.0.attentions.0"))
    ]
    assert [name for name in names if name.startswith("down_blocks.0.attentions.1")]
    half = {adapter.target.module_name for adapter in network if rates.group(adapter.target) == "unet x0.5"}
    assert half and all(name.startswith(("down_blocks.1.resnets.0", "down_blocks.1.attentions.0")) for name in half)
    assert {
        name for name in names if name.startswith(("down_blocks.1.resnets.0", "down_blocks.1.attentions.0"))
    } == half


def test_one_list_weighs_text_encoders_and_blocks(sdxl):
    config = a_config(block_lr_weight=[0.5, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1])
    network, rates = a_network(sdxl, config)
    assert rates.groups(network) == pytest.approx({"text_encoder x0.5": 5e-5, "unet": 1e-4, "unet x2": 2e-4})
    doubled = {adapter.key for adapter in network if rates.group(adapter.target) == "unet x2"}
    assert doubled and all(key.startswith("lora_unet_middle_block_1_") for key in doubled)


def test_adaptive_optimizers_have_one_instance_per_rate(tiny_model):
    pytest.importorskip("prodigyopt")
    config = a_config(optimizer_type="Prodigy", learning_rate=None, mid_lr_weight=0.5, network_train_unet_only=True)
    network, rates = a_network(tiny_model, config)
    optimizers = make_optimizers(config, network, rates)
    assert dict(zip(optimizers.names, optimizers.base_lrs)) == {"unet": 1.0, "unet x0.5": 0.5}


@pytest.mark.parametrize(
    ("more", "family", "field"),
    [
        ({"down_lr_weight": "1,1"}, Family.SD1, "down_lr_weight"),
        ({"up_lr_weight": "hyperbola"}, Family.SD1, "up_lr_weight"),
        ({"up_lr_weight": "sine+x"}, Family.SD1, "up_lr_weight"),
        ({"down_lr_weight": "1,1,1,1,1,1,1,1,1,1,1,-1"}, Family.SD1, "down_lr_weight"),
        ({"down_lr_weight": "1,1,1,1,1,1,1,1,1,1,1,1"}, Family.SDXL, "down_lr_weight"),
        ({"mid_lr_weight": "1,1,1"}, Family.SD1, "mid_lr_weight"),
        ({"block_lr_weight": [1.0] * 17}, Family.SDXL, "block_lr_weight"),
        ({"block_lr_weight": [1.0] * 12}, Family.SD2, "block_lr_weight"),
        ({"block_lr_weight": [1.0] * 13}, Family.SD1, "block_lr_weight"),
        ({"block_lr_weight": [1.0] * 26, "mid_lr_weight": 1}, Family.SD1, "mid_lr_weight"),
    ],
)
def test_lists_that_do_not_fit_are_named(more, family, field):
    with pytest.raises(StudioError) as fault:
        LearningRates(a_config(**more), family)
    assert fault.value.field == field


def test_block_weights_need_a_rate_to_multiply(tiny_model):
    config = a_config(optimizer_type="AdaFactor", learning_rate=None, mid_lr_weight=0.5)
    network, rates = a_network(tiny_model, config)
    with pytest.raises(StudioError, match="learning_rate"):
        rates.groups(network)


def test_leaving_out_everything_is_an_error(tiny_model):
    with pytest.raises(StudioError, match="block_lr_weight"):
        a_network(tiny_model, a_config(block_lr_weight=[0.0] * 26))
