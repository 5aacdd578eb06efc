"""The hashes of checkpoints of every format. What a whole run writes is in test_run.py."""

from __future__ import annotations

import hashlib
import json

import torch
from safetensors.torch import load_file

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.base.events import Progress
from lib_lora.base.options import from_mapping
from lib_lora.files.lora_file import model_hash_legacy
from lib_lora.models.loader import load_model
from lib_lora.training.config import TrainConfig
from lib_lora.training.metadata import model_hashes, run_metadata
from lib_lora.training.planning import make_plan
from tiny_folders import TinyPipeline


def run(work):
    """(result, events)."""
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return end.value, events


def test_a_ckpt_and_its_vae_have_the_hashes_that_the_webui_shows(tiny_checkpoint, tmp_path):
    path, vae = tmp_path / "tiny.ckpt", tmp_path / "vae.pt"
    tensors = load_file(tiny_checkpoint)
    torch.save({"state_dict": tensors}, path)
    torch.save({key: tensor for key, tensor in tensors.items() if key.startswith("first_stage_model.")}, vae)
    model = load_model(tiny_checkpoint, vae_path=vae)
    model.path = path
    hashes, events = run(model_hashes(model, tmp_path / "hashes.json"))
    assert hashes == {
        "ss_sd_model_hash": model_hash_legacy(path),
        "ss_new_sd_model_hash": hashlib.sha256(path.read_bytes()).hexdigest(),
        "ss_vae_hash": model_hash_legacy(vae),
        "ss_new_vae_hash": hashlib.sha256(vae.read_bytes()).hexdigest(),
    }
    assert {event.what for event in events} == {"hash of tiny.ckpt", "hash of vae.pt"}
    assert all(isinstance(event, Progress) for event in events)


def test_a_folder_has_no_hash(tmp_path):
    model = load_model(TinyPipeline.make("SD1").write(tmp_path / "folder"))
    assert run(model_hashes(model, tmp_path / "hashes.json")) == ({}, [])


def metadata_of(config, model, processes=1):
    network = Network.create(model.unet, model.text_encoders, NetworkSpec(2, 2), 0)
    return run_metadata(config, make_plan(config, processes=processes), model, network, {}, {})


def test_what_the_optimizer_chose_is_said(train_options, tiny_model):
    options = {key: value for key, value in train_options.items() if key not in ("learning_rate", "lr_scheduler")}
    metadata = metadata_of(from_mapping(TrainConfig, {**options, "optimizer_type": "Prodigy"}), tiny_model)
    assert (metadata["ss_learning_rate"], metadata["ss_lr_scheduler"]) == ("1.0", "constant")


def test_tags_are_counted_between_the_separators_that_are_given(train_options, tiny_model):
    for path in train_options["train_data_dir"].rglob("*.txt"):
        path.write_text("zorb; a dog, running", encoding="utf-8")
    metadata = metadata_of(from_mapping(TrainConfig, {**train_options, "caption_separator": ";"}), tiny_model)
    assert set(json.loads(metadata["ss_tag_frequency"])["2_zorb"]) == {"zorb", "a dog, running"}


def test_the_total_batch_counts_processes_and_accumulation(train_options, tiny_model):
    # sd-scripts, train_network.py: per device batch size times processes times gradient_accumulation_steps.
    config = from_mapping(TrainConfig, {**train_options, "train_batch_size": 2, "gradient_accumulation_steps": 3})
    metadata = metadata_of(config, tiny_model, processes=4)
    assert metadata["ss_batch_size_per_device"] == "2" and metadata["ss_total_batch_size"] == "24"
