from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.base.errors import StudioError
from lib_lora.hosts.standalone.host import StandaloneHost
from lib_lora.hosts.standalone.lora_check import check_lora
from lib_lora.jobs.train_form import read_form

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def host(tmp_path):
    return StandaloneHost(
        tmp_path / "data",
        models_dir=tmp_path / "models",
        lora_dir=tmp_path / "models" / "Lora",
        dataset_dirs=[tmp_path / "datasets"],
        demo=None,
    )


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_checkpoints_are_files_and_diffusers_folders_by_their_names_within_the_folder(host, tmp_path):
    folder = tmp_path / "models" / "Stable-diffusion"
    touch(folder / "b.safetensors")
    touch(folder / "anime" / "A.ckpt")
    touch(folder / "readme.txt")
    touch(folder / ".hidden" / "c.safetensors")
    touch(folder / "pipeline" / "model_index.json")
    touch(folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    touch(tmp_path / "models" / "VAE" / "vae.pt")
    found = host.checkpoints()
    assert [each.name for each in found] == ["anime/A.ckpt", "b.safetensors", "pipeline"]
    assert found[2].path == folder / "pipeline" and not any(each.loaded for each in found)
    assert [each.name for each in host.vaes()] == ["vae.pt"]


def test_folders_that_are_not_there_hold_nothing(host):
    assert host.checkpoints() == [] and host.vaes() == [] and host.train_defaults() == {}


def test_the_demo_is_ready_where_there_is_no_other_checkpoint(tmp_path):
    host = StandaloneHost(tmp_path / "data", models_dir=tmp_path / "models", lora_dir=tmp_path / "models" / "Lora")
    assert [each.path for each in host.checkpoints()] == [ROOT / "demo" / "model" / "lora-studio-demo.safetensors"]
    config, _ = read_form({}, host)
    assert config.pretrained_model_name_or_path.is_file() and config.train_data_dir == ROOT / "demo" / "dataset"
    assert config.max_train_steps == 850 and not config.overwrite
    assert config.output_dir == tmp_path / "models" / "Lora"
    touch(tmp_path / "models" / "Stable-diffusion" / "own.safetensors")
    assert host.train_defaults() == {}


def test_it_lends_and_switches_nothing_and_says_so(host, tmp_path):
    assert not host.lends()
    with pytest.raises(StudioError, match="model_source"):
        host.lend(None)
    with pytest.raises(StudioError, match="no WebUI"):
        host.switch_to(tmp_path / "x.safetensors")


def test_a_task_prints_nothing(host, capsys):
    with host.model_unloaded() as waiting, host.task("training") as task:
        assert not waiting.somebody_waits()
        task.step(1, 2, "text")
        assert not task.interrupted()
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def lora(tiny_model, tiny_checkpoint, host):
    """A LoRA of the tiny checkpoint that changes something, in the host's folder; the host knows the checkpoint."""
    network = Network.create(tiny_model.unet, tiny_model.text_encoders, NetworkSpec(rank=2, alpha=2), seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    path = host.lora_dir() / "zorb.safetensors"
    path.parent.mkdir(parents=True)
    save_network(path, network, "float", {"ss_sd_model_name": tiny_checkpoint.name})
    return path


def test_a_check_counts_keys_and_measures_the_change_of_a_prediction(lora, tiny_model):
    before = {name: value.clone() for name, value in tiny_model.unet.state_dict().items()}
    check = check_lora(tiny_model, lora)
    assert check.matched == check.keys > 100 and list(check.unmatched) == []
    # The same by hand: the weights changed in place by strength * up @ down.
    assert check.change == pytest.approx(change_by_merging(tiny_model, lora), rel=1e-4)
    after = tiny_model.unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def change_by_merging(model, lora):
    """|with - without| / |without|, with another way to apply a LoRA: its products added to the weights."""
    from safetensors.torch import load_file

    from lib_lora.adapters.targets import all_targets
    from lib_lora.hosts.standalone.lora_check import _prediction

    without, tensors = _prediction(model), load_file(lora)
    weights = [(target.layer.weight, key) for key, target in all_targets(model.unet, model.text_encoders).items()]
    kept = [(weight, weight.clone()) for weight, _ in weights]
    try:
        with torch.no_grad():
            for weight, key in weights:
                if f"{key}.lora_down.weight" in tensors:
                    down, up = (tensors[f"{key}.lora_{part}.weight"].flatten(1) for part in ("down", "up"))
                    weight += (tensors[f"{key}.alpha"] / len(down) * up @ down).view_as(weight)
        return float((_prediction(model) - without).norm() / without.norm())
    finally:
        with torch.no_grad():
            for weight, value in kept:
                weight.copy_(value)


def test_keys_without_a_place_are_named(lora, tiny_model):
    from safetensors.torch import load_file, save_file

    save_file({**load_file(lora), "lora_unet_nowhere.alpha": torch.tensor(1.0)}, str(lora))
    check = check_lora(tiny_model, lora)
    assert check.unmatched == ["lora_unet_nowhere.alpha"] and check.matched == check.keys - 1


def test_the_host_checks_in_a_process_of_its_own(lora, host, tiny_checkpoint, tmp_path):
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(tiny_checkpoint.parent, target_is_directory=True)
    check = host.check_lora(lora)
    assert check.matched == check.keys and check.change > 0
    lora.write_bytes(b"broken")
    with pytest.raises(StudioError, match="safetensors"):
        host.check_lora(lora)


def test_a_lora_of_a_checkpoint_that_the_host_does_not_know(lora, host, tiny_checkpoint):
    with pytest.raises(StudioError, match="not among those known"):
        host.check_lora(lora)
    check = host.check_lora(lora, tiny_checkpoint)
    assert check.matched == check.keys and check.change > 0
