from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.options import convert, options_of
from lib_lora.base.protocols import ModelFile
from lib_lora.jobs.options import CHILD, LIVE, TrainJobOptions, is_loaded, way_needed
from lib_lora.training.config import TrainConfig


@pytest.fixture
def config(host) -> TrainConfig:
    return TrainConfig(pretrained_model_name_or_path=host.loaded, train_data_dir=Path("x"), output_name="x")


def way(config, host, **options) -> str:
    return way_needed(config, TrainJobOptions(**options), host)[0]


def test_every_default_is_itself_allowed_and_no_name_is_a_runs():
    names = {info.name for info in options_of(TrainConfig)}
    for info in options_of(TrainJobOptions):
        assert convert(info, info.default) == info.default
        assert info.help and not info.help.endswith(".") and info.name not in names


def test_the_loaded_checkpoint_is_trained_live(config, host):
    assert way_needed(config, TrainJobOptions(), host) == (LIVE, "the checkpoint is the WebUI's loaded one")


def test_a_checkpoint_is_known_through_a_link(config, host, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(host.loaded)
    assert is_loaded(link, host)
    assert way(replace(config, pretrained_model_name_or_path=link), host) == LIVE


def test_another_checkpoint_goes_to_a_child_or_is_switched_to(config, host, tmp_path):
    other = replace(config, pretrained_model_name_or_path=tmp_path / "other.safetensors")
    assert way_needed(other, TrainJobOptions(), host) == (CHILD, "other.safetensors is not the loaded checkpoint")
    assert way_needed(other, TrainJobOptions(model_source="switch"), host) == (
        LIVE,
        "the WebUI loads the checkpoint first",
    )


def test_the_file_may_be_asked_for_and_so_may_a_child(config, host):
    assert way(config, host, model_source="file") == CHILD
    assert way_needed(config, TrainJobOptions(way="child"), host) == (CHILD, "asked for")


@pytest.mark.parametrize(("change", "name"), [({"torch_compile": True}, "torch_compile")])
def test_options_that_need_a_process_say_so_in_their_definition(config, host, change, name):
    assert way_needed(replace(config, **change), TrainJobOptions(), host) == (
        CHILD,
        f"{name} needs a process of its own",
    )


def test_several_cards_need_processes_of_their_own(config, host):
    assert way(config, host, num_processes=2) == CHILD


def test_a_host_without_a_model_always_needs_a_child(config, host):
    host.loaded = None
    assert way_needed(config, TrainJobOptions(), host)[0] == CHILD


def test_a_vae_that_is_not_loaded_needs_a_child(config, host, tmp_path, monkeypatch):
    vae = tmp_path / "vae.safetensors"
    assert way(replace(config, vae=vae), host) == CHILD
    monkeypatch.setattr(host, "vaes", lambda: [ModelFile("vae", vae, loaded=True)])
    assert way(replace(config, vae=vae), host) == LIVE


def test_live_where_it_cannot_be_is_refused_with_the_reason(config, host):
    with pytest.raises(StudioError, match="torch_compile needs a process") as caught:
        way_needed(replace(config, torch_compile=True), TrainJobOptions(way="live"), host)
    assert caught.value.field == "way"
