from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.models.loader import load_model
from lib_lora.training import sizes
from lib_lora.training.config import TrainConfig
from lib_lora.training.parts import network_spec
from lib_lora.training.rates import LearningRates
from lib_lora.training.sizes import network_size


@pytest.fixture
def config(train_options) -> TrainConfig:
    return from_mapping(TrainConfig, train_options)


def saved_size(config, path) -> tuple[int, int, int]:
    """(layers, parameters, bytes) of the network that a run makes, and of its file without metadata."""
    model = load_model(config.pretrained_model_name_or_path)
    wants = LearningRates(config, model.family).wants
    network = Network.create(model.unet, model.text_encoders, network_spec(config, model.family), 0, wants)
    save_network(path, network, config.save_precision, {})
    return len(network), sum(parameter.numel() for parameter in network.parameters()), path.stat().st_size


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL", "SD1 inpainting"])
def test_the_size_is_that_of_the_runs_file(config, tiny_checkpoints, tmp_path, family):
    config = replace(config, pretrained_model_name_or_path=tiny_checkpoints[family])
    layers, parameters, file_bytes = saved_size(config, tmp_path / "x.safetensors")
    size = network_size(config)
    assert (size.layers, size.parameters) == (layers, parameters)
    assert size.file_bytes == pytest.approx(file_bytes + 6000, abs=500)


@pytest.mark.parametrize(
    "change",
    [
        {"conv_dim": 3},
        {"network_train_unet_only": True},
        {"save_precision": "fp16"},
        {"network_targets": "cross-attention"},
        {"down_lr_weight": ("0",) * 12},
        {"text_encoder_lr": (0.0,)},
    ],
)
def test_every_option_that_matters_is_counted(config, tmp_path, change):
    config = replace(config, **change)
    layers, parameters, file_bytes = saved_size(config, tmp_path / "x.safetensors")
    size = network_size(config)
    assert (size.layers, size.parameters) == (layers, parameters)
    assert size.file_bytes == pytest.approx(file_bytes + 6000, abs=500)


def test_what_does_not_matter_is_not_worked_out_again(config, monkeypatch):
    first = network_size(config)
    monkeypatch.setattr(sizes, "build_model", None)
    monkeypatch.setattr(Network, "create", None)
    assert network_size(replace(config, output_name="other", resolution="128", max_train_steps=9)) == first


def test_another_file_under_the_same_name_is_measured_anew(config, tiny_checkpoints, tmp_path):
    path = tmp_path / "one.safetensors"
    found = []
    for family in ("SD1", "SD2"):
        shutil.copytree(tiny_checkpoints[family].parent, tmp_path, dirs_exist_ok=True)
        os.replace(tmp_path / "tiny.safetensors", path)
        os.replace(tmp_path / "tiny.yaml", path.with_suffix(".yaml"))
        found.append(network_size(replace(config, pretrained_model_name_or_path=path)).parameters)
    assert found[0] != found[1]


def test_no_vocabulary_is_needed(config, tiny_checkpoint, tmp_path):
    """It may have to be downloaded, which a look at the plan must not wait for."""
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "copy")
    for file in (tmp_path / "copy").rglob("vocab.json"):
        file.unlink()
    found = network_size(replace(config, pretrained_model_name_or_path=tmp_path / "copy" / tiny_checkpoint.name))
    assert found == network_size(config)


def test_what_cannot_be_trained_is_told(config, tmp_path):
    with pytest.raises(StudioError):
        network_size(replace(config, pretrained_model_name_or_path=tmp_path / "none.safetensors"))
    with pytest.raises(StudioError) as caught:
        network_size(replace(config, network_targets="no such layer"))
    assert caught.value.field == "network_targets"
