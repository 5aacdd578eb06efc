"""Which files a prompt means."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.jobs.tool_form import lora_list
from lib_lora.weights.options import ResizeConfig
from lib_lora.weights.recipe import find_lora, from_files, ignored_notes
from lib_lora.weights.resize import run
from tiny_loras import write_lora


def test_what_a_page_offers_is_found(tmp_path):
    for name in ("UP.SAFETENSORS", "people/ann.safetensors"):
        write_lora(tmp_path / name)
    for name in (".hidden.safetensors", ".folder/ann.safetensors"):
        write_lora(tmp_path / name, {"ss_output_name": "hidden"})
    offered = {each["name"]: tmp_path / each["file"] for each in lora_list(tmp_path)}
    assert offered.keys() == {"UP.SAFETENSORS", "people/ann"}
    for name, path in offered.items():
        assert find_lora(name, tmp_path) == path
    assert find_lora("UP", tmp_path) == tmp_path / "UP.SAFETENSORS"
    for name in (".hidden", "hidden"):
        with pytest.raises(StudioError, match="no LoRA has this name"):
            find_lora(name, tmp_path)


def test_a_resized_file_does_not_take_its_sources_name(tmp_path):
    source = write_lora(tmp_path / "file.safetensors", {"ss_output_name": "zorb"})
    values = {"model": source, "output": tmp_path / "small.safetensors", "new_rank": 2}
    list(run(from_mapping(ResizeConfig, values), Control()))
    assert find_lora("zorb", tmp_path) == source


def test_a_file_in_diffusers_names_is_read_and_told(tmp_path):
    own = load_file(write_lora(tmp_path / "a.safetensors"))
    name, key = "unet.mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {
        f"{name}.lora_A.weight": own[f"{key}.lora_down.weight"],
        f"{name}.lora_B.weight": own[f"{key}.lora_up.weight"],
    }
    save_file(tensors, str(tmp_path / "b.safetensors"))
    (item,) = from_files([tmp_path / "b.safetensors"], ())
    assert list(item.lora.modules) == [key]
    (note,) = ignored_notes([item], None)
    assert "names of diffusers" in note
