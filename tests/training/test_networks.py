"""Every network type in a run, and the options that choose, begin and refuse one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.events import StateSaved, StepDone
from lib_lora.base.options import from_mapping
from lib_lora.models.loader import load_model
from lib_lora.training.block_ranks import block_ranks
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.earlier_loras import merge_base_weights, network_to_train
from lib_lora.training.network_metadata import network_metadata
from lib_lora.training.parts import network_spec
from lib_lora.training.rates import LearningRates
from lib_lora.training.run import Run
from training_results import lora

TYPES = {
    "LoHa": {"network_type": "LoHa"},
    "LoKr": {"network_type": "LoKr", "factor": 4},
    "IA3": {"network_type": "IA3"},
    "DyLoRA": {"network_type": "DyLoRA", "unit": 1},
    "GLoRA": {"network_type": "GLoRA"},
    "Diag-OFT": {"network_type": "Diag-OFT", "network_dim": 4, "constraint": 0.01},
    "BOFT": {"network_type": "BOFT", "network_dim": 4},
    "Full": {"network_type": "Full"},
    "DoRA": {"dora_wd": True},
    "DoRA on LoHa": {"network_type": "LoHa", "dora_wd": True},
    "norms and a factor": {"train_norm": True, "use_scalar": True, "network_targets": "mid_block.*(attn2|norm)"},
    "Tucker": {"conv_dim": 2, "use_tucker": True, "network_targets": r"mid_block\.resnets"},
    "LoRA+": {"loraplus_lr_ratio": 4.0, "rs_lora": True},
}


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    """One for all: a run leaves it as it was."""
    return load_model(tiny_checkpoint)


def run(options, model=None, **more):
    config = from_mapping(TrainConfig, {**options, **more})
    check(config)
    job = Run(config)
    job.model = model
    return job


def metadata_of(options):
    with safe_open(options["output_dir"] / "zorb.safetensors", "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", TYPES)
def test_every_type_learns_and_goes_on_bit_for_bit_from_a_state(train_options, model, name):
    options = {
        **train_options,
        "network_train_unet_only": True,
        "network_targets": r"mid_block.*(attn2|proj_in|ff)",
        **TYPES[name],
    }
    before = {key: tensor.clone() for key, tensor in model.unet.state_dict().items()}
    events = list(run(options, model, output_name="whole", save_state_every_n_steps=2).events())
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(steps) == 3 and all(step.loss == step.loss for step in steps)
    (state,) = [event.path for event in events if isinstance(event, StateSaved)]
    resumed = run(options, model, resume=state)
    assert [event.step for event in resumed.events() if isinstance(event, StepDone)] == [3]
    whole = lora(options, "whole")
    again = lora(options)
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.unet.state_dict().items())
    network = Network.from_file_tensors(model.unet, model.text_encoders, whole)
    assert all(float(adapter.dense_delta().detach().abs().max()) > 0 for adapter in network)


REFUSED = [
    ("network_dropout", {"network_type": "LoHa", "network_dropout": 0.1}),
    ("rank_dropout", {"network_type": "LoKr", "rank_dropout": 0.1}),
    ("network_dropout", {"dora_wd": True, "network_dropout": 0.1}),
    ("dora_wd", {"network_type": "Full", "dora_wd": True}),
    ("rs_lora", {"network_type": "IA3", "rs_lora": True}),
    ("use_tucker", {"use_tucker": True}),
    ("use_tucker", {"use_tucker": True, "conv_dim": 4, "network_type": "GLoRA"}),
    ("use_scalar", {"use_scalar": True, "network_type": "BOFT"}),
    ("factor", {"factor": 8}),
    ("factor", {"factor": 0, "network_type": "LoKr"}),
    ("decompose_both", {"decompose_both": True}),
    ("decompose_both", {"decompose_both": True, "full_matrix": True, "network_type": "LoKr"}),
    ("constraint", {"constraint": 0.1}),
    ("unit", {"network_type": "DyLoRA", "network_dim": 6, "unit": 4}),
    ("loraplus_lr_ratio", {"network_type": "LoHa", "loraplus_lr_ratio": 16}),
    ("block_alphas", {"block_alphas": [1] * 25}),
    ("block_alphas", {"block_dims": [1] * 25, "block_alphas": [1]}),
    ("block_dims", {"block_dims": [1.5] * 25}),
    ("block_dims", {"block_dims": [1] * 25, "network_type": "Full"}),
    ("dim_from_weights", {"dim_from_weights": True}),
    ("network_weights", {"network_weights": "nowhere.safetensors"}),
    ("base_weights_multiplier", {"base_weights_multiplier": [1.0]}),
    ("network_type", {"network_type": "LoRa-Deluxe"}),
]


@pytest.mark.parametrize("field, more", REFUSED)
def test_what_means_nothing_together_is_refused_by_name(train_options, field, more):
    with pytest.raises(StudioError) as caught:
        check(from_mapping(TrainConfig, {**train_options, **more}))
    assert caught.value.field == field


# -- ranks of blocks --


def config_of(options, **more) -> TrainConfig:
    config = from_mapping(TrainConfig, {**options, **more})
    check(config)
    return config


def test_each_block_has_its_rank_and_those_of_rank_0_are_left_out(train_options, model):
    dims = [0] * 12 + [3] + [2] * 12
    config = config_of(train_options, block_dims=dims, block_alphas=[1.5] * 25, conv_dim=1, conv_block_dims=[1] * 25)
    network = Network.create(model.unet, model.text_encoders, network_spec(config, Family.SD1), 0)
    ranks: dict[str, set] = {}
    for adapter in network:
        place = "text" if adapter.target.part == "text_encoder" else adapter.target.module_name.split("_")[0]
        ranks.setdefault(f"{place}{' 3x3' if adapter.target.is_spatial else ''}", set()).add(
            (adapter.rank, adapter.alpha)
        )
    assert ranks.pop("text") == {(2, 2.0)}  # network_dim and network_alpha
    assert ranks == {
        "down 3x3": {(1, 2.0)},
        "mid": {(3, 1.5)},
        "mid 3x3": {(1, 2.0)},
        "up": {(2, 1.5)},
        "up 3x3": {(1, 2.0)},
    }


def test_sdxl_takes_its_own_list_and_sd_scripts(train_options):
    own = block_ranks(config_of(train_options, block_dims=range_list(19)), Family.SDXL)
    assert (own["IN00"].rank, own["M00"].rank, own["OUT08"].rank) == (0, 9, 18)
    theirs = block_ranks(config_of(train_options, block_dims=range_list(23)), Family.SDXL)
    places = {"IN00": 1, "M00.0": 10, "M00.1": 11, "M00.2": 12, "OUT00": 13, "OUT08": 21}
    assert {name: theirs[name].rank for name in places} == places
    for family, length in ((Family.SDXL, 25), (Family.SD1, 23)):
        with pytest.raises(StudioError, match="block_dims"):
            block_ranks(config_of(train_options, block_dims=range_list(length)), family)


def range_list(length: int) -> list[int]:
    return list(range(length))


# -- LoRA+ --


def test_lora_plus_multiplies_the_rate_of_lora_up(train_options, model):
    config = config_of(
        train_options, learning_rate=1e-3, loraplus_lr_ratio=16, loraplus_text_encoder_lr_ratio=4, conv_dim=1
    )
    rates = LearningRates(config, Family.SD1)
    network = Network.create(model.unet, model.text_encoders, network_spec(config, Family.SD1), 0)
    by_group = rates.groups(network)
    assert by_group == pytest.approx({"unet": 1e-3, "unet x16": 16e-3, "text_encoder": 1e-3, "text_encoder x4": 4e-3})
    groups = network.parameter_groups(rates.group)
    assert groups.keys() == by_group.keys()
    ups = {id(adapter.lora_up) for adapter in network if adapter.target.part == "unet"}
    assert {id(parameter) for parameter in groups["unet x16"]} == ups


# -- earlier LoRAs --


@pytest.fixture
def first(train_options, model):
    """A LoRA of another run, trained on the UNet alone."""
    options = {**train_options, "network_train_unet_only": True, "network_targets": "mid_block.*attn2"}
    list(run(options, model, output_name="first", network_dim=3, network_alpha=1.5).events())
    return options, options["output_dir"] / "first.safetensors"


def test_a_run_trains_on_from_a_file(first, model):
    options, path = first
    options = {**options, "network_weights": path, "unet_lr": 1e-12}
    list(run(options, model, network_dim=3, network_alpha=1.5, optimizer_args=["weight_decay=0"]).events())
    before, after = load_file(path), lora(options)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    with pytest.raises(StudioError, match="network_weights.*another rank"):
        list(run(options, model, output_name="other", network_dim=2).events())


def test_ranks_may_come_from_that_file(first, model):
    options, path = first
    options = {**options, "network_weights": path, "dim_from_weights": True, "network_dim": 7, "network_targets": "all"}
    list(run(options, model).events())
    before, after = load_file(path), lora(options)
    assert {key: each.shape for key, each in before.items()} == {key: each.shape for key, each in after.items()}
    assert all(torch.equal(before[key], after[key]) for key in before if key.endswith("alpha"))
    assert not all(torch.equal(before[key], after[key]) for key in before)
    metadata = metadata_of(options)
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("3", "1.5")
    assert metadata["ss_trained_on_from"] == "first.safetensors"
    options |= {"network_train_unet_only": False, "network_train_text_encoder_only": True}
    with pytest.raises(StudioError, match="network_weights.*leave as they are"):
        list(run(options, model, output_name="other").events())


def test_of_a_file_s_network_the_metadata_know_its_type(train_options, model, tmp_path):
    spec = NetworkSpec(4, 2.0, conv_rank=2, network_type="LoHa", dora=True, targets="mid_block", train_norm=True)
    path = tmp_path / "first.safetensors"
    save_file(Network.create(model.unet, model.text_encoders, spec, 0).state_tensors(), path)
    options = {**train_options, "network_weights": path, "dim_from_weights": True, "base_weights": ["a/b.pt", "c.pt"]}
    config = from_mapping(TrainConfig, options)
    found = network_metadata(config, network_to_train(config, model, network_spec(config, Family.SD1), bool))
    assert (found["ss_network_module"], found["ss_network_dim"], found["ss_network_alpha"]) == ("lycoris.kohya", 4, 2.0)
    assert found["ss_network_args"] == {
        "algo": "loha",
        "train_norm": True,
        "dora_wd": True,
        "conv_dim": 2,
        "conv_alpha": 2.0,
    }
    assert found["ss_merged_first"] == [["b.pt", 1.0], ["c.pt", 1.0]]
    for field in ("network_dropout", "loraplus_lr_ratio"):
        config = from_mapping(TrainConfig, {**options, field: 0.5 if "drop" in field else 4})
        with pytest.raises(StudioError, match=field):
            network_to_train(config, model, network_spec(config, Family.SD1), bool)


def test_base_weights_are_merged_first_at_their_strength(first, tiny_model):
    options, path = first
    before = {key: tensor.clone() for key, tensor in tiny_model.unet.state_dict().items()}
    config = config_of(options, base_weights=[str(path)], base_weights_multiplier=[0.5])
    merge_base_weights(config, tiny_model)
    merged = tiny_model.unet.state_dict()
    network = Network.from_file_tensors(tiny_model.unet, [], load_file(path))
    changes = {f"{adapter.target.module_name}.weight": 0.5 * adapter.dense_delta() for adapter in network}
    for key, tensor in merged.items():
        expected = before[key] + changes[key] if key in changes else before[key]
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-7)


def test_a_model_that_was_lent_is_never_merged_into(first, model):
    options, path = first
    with pytest.raises(StudioError, match="base_weights"):
        list(run(options, model, base_weights=[str(path)], output_name="second").events())


def test_a_file_for_another_model_is_named(train_options, tmp_path, model):
    path = tmp_path / "other.safetensors"
    save_file({"lora_unet_nowhere.lora_up.weight": torch.ones(2, 2)}, str(path))
    with pytest.raises(StudioError) as caught:
        merge_base_weights(config_of(train_options, base_weights=[str(path)]), model)
    assert (caught.value.field, caught.value.file) == ("base_weights", str(path))
    for more in ({}, {"dim_from_weights": True}):
        config = config_of(train_options, network_weights=path, **more)
        with pytest.raises(StudioError) as caught:
            network_to_train(config, model, network_spec(config, Family.SD1), lambda target: True)
        assert (caught.value.field, caught.value.file) == ("network_weights", str(path))


# -- metadata --


@pytest.mark.parametrize(
    "more, module, arguments",
    [
        ({}, "networks.lora", {}),
        ({"network_type": "LoKr", "factor": 8}, "lycoris.kohya", {"algo": "lokr", "factor": 8}),
        ({"network_type": "DyLoRA", "unit": 1}, "networks.dylora", {"algo": "dylora", "unit": 1}),
        ({"dora_wd": True}, "lycoris.kohya", {"dora_wd": True}),
        ({"rs_lora": True, "conv_dim": 1}, "lycoris.kohya", {"conv_dim": 1, "conv_alpha": 2.0, "rs_lora": True}),
    ],
)
def test_metadata_name_the_type_as_sd_scripts_and_lycoris_do(train_options, model, more, module, arguments):
    options = {**train_options, "network_targets": "mid_block.*to_k", "max_train_steps": 1, **more}
    list(run(options, model).events())
    metadata = metadata_of(options)
    assert metadata["ss_network_module"] == module
    assert json.loads(metadata["ss_network_args"]) == arguments
