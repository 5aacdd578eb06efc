"""What all tools that write have in common."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.weights.output import common_metadata, lora_metadata
from lib_lora.weights.tools import TOOLS
from tiny import write_checkpoint
from tiny_loras import write_lora, write_tuned

# (tool, options beside its inputs, the inputs by option; the result is to replace the last one)
WRITERS = [
    ("extract", {"dim": 2}, ("model_org", "model_tuned")),
    ("extract", {"dim": 2}, ("model_tuned", "model_org")),
    ("merge", {}, ("models",)),
    ("merge", {}, ("models", "base")),
    ("bake", {}, ("checkpoint", "models")),
    ("bake", {}, ("models", "checkpoint")),
    ("resize", {"new_rank": 2}, ("model",)),
    ("convert", {"save_precision": "fp16"}, ("model",)),
    ("convert", {"save_precision": "fp16"}, ("model", "base")),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture
def files(checkpoint, tmp_path):
    base = tmp_path / "base.safetensors"
    base.write_bytes(checkpoint.read_bytes())
    lora = write_lora(tmp_path / "lora.safetensors")
    write_tuned(checkpoint, tmp_path / "tuned.safetensors")
    named = {"checkpoint": base, "base": base, "model_org": base, "model_tuned": tmp_path / "tuned.safetensors"}
    return {**named, "model": lora, "models": lora}


@pytest.mark.parametrize("name, options, inputs", WRITERS)
def test_no_tool_writes_over_its_input(files, tmp_path, name, options, inputs):
    chosen = {option: [str(files[option])] if option == "models" else files[option] for option in inputs}
    target = files[inputs[-1]]
    before = target.read_bytes()
    output = tmp_path / "sub" / ".." / target.name  # the same file under another name
    (tmp_path / "sub").mkdir()
    config = from_mapping(TOOLS[name].config, {**chosen, **options, "output": output, "overwrite": True})
    with pytest.raises(StudioError) as caught:
        list(TOOLS[name].run(config, Control()))
    assert caught.value.field == "output" and "inputs" in caught.value.problem
    assert target.read_bytes() == before


def test_an_extracted_file_says_what_it_is_in_the_words_of_modelspec(files, tmp_path):
    values = {"model_org": files["model_org"], "model_tuned": files["model_tuned"], "dim": 2}
    output = tmp_path / "new.safetensors"
    list(TOOLS["extract"].run(from_mapping(TOOLS["extract"].config, {**values, "output": output}), Control()))
    with safe_open(output, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.title"] == metadata["ss_output_name"] == "new"
    assert metadata["modelspec.sai_model_spec"] == "1.0.1" and "modelspec.resolution" not in metadata


def test_an_architecture_that_is_not_known_is_not_told():
    tensors = {"lora_unet_x.lora_down.weight": torch.ones(2, 3)}
    for family in (Family.SD2, None):
        assert not [name for name in lora_metadata("a", family, tensors) if name.startswith("modelspec.")]


def test_what_all_files_say_alike_is_what_they_have_in_common():
    first = {"ss_sd_model_name": "base", "ss_clip_skip": "1", "ss_seed": "3", "modelspec.resolution": "512x512"}
    second = {"ss_sd_model_name": "base", "ss_clip_skip": "2", "ss_seed": "3"}
    assert common_metadata([first, second]) == {"ss_sd_model_name": "base"}
    assert common_metadata([first]) == {key: value for key, value in first.items() if key != "ss_seed"}
