"""The tools' commands as a user meets them: a process of its own, its output and its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora.weights.tools import TOOLS

ROOT = Path(__file__).parents[2]
KEY = "lora_unet_mid_block_attentions_0_proj_in"


def lora(*arguments):
    command = [sys.executable, "-m", "lib_lora", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def file(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{KEY}.lora_up.weight": torch.randn(24, 4, generator=generator),
        f"{KEY}.lora_down.weight": torch.randn(4, 20, generator=generator),
        f"{KEY}.alpha": torch.tensor(4.0),
    }
    save_file(tensors, str(tmp_path / "in.safetensors"))
    return tmp_path / "in.safetensors"


def test_resize_writes_a_file_and_tells_each_layer(file, tmp_path):
    done = lora("resize", "--model", file, "--output", tmp_path / "out.safetensors", "--new_rank", 2)
    assert done.returncode == 0, done.stderr
    assert KEY in done.stdout and "rank    4 ->    2" in done.stdout
    assert load_file(tmp_path / "out.safetensors")[f"{KEY}.lora_down.weight"].shape == (2, 20)


def test_a_mistake_is_told_in_a_line_and_the_exit_code(file, tmp_path):
    done = lora("resize", "--model", file, "--output", tmp_path / "out.safetensors")
    assert done.returncode == 1 and done.stderr.startswith("error: new_rank")
    assert "Traceback" not in done.stderr and not (tmp_path / "out.safetensors").exists()


def test_inspect_shows_and_edits(file):
    done = lora("inspect", "--model", file, "--set", "modelspec.title=A, b", "ss_output_name=c")
    assert done.returncode == 0, done.stderr
    assert "M00" in done.stdout and "modelspec.title = A, b" in done.stdout and "ss_output_name = c" in done.stdout


def test_every_tool_says_its_options():
    for name, tool in TOOLS.items():
        done = lora(*(tool.command or name).split(), "--help")
        assert done.returncode == 0 and tool.help in done.stdout


def test_merge_takes_files_with_strengths_and_verify_looks_at_the_result(file, tmp_path):
    done = lora("merge", "--models", file, "--ratios", "-0.5", "--output", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    assert f"{KEY} " in done.stdout and "LoRA of rank 4" in done.stdout
    done = lora("verify", "--model", tmp_path / "out.safetensors")
    assert done.returncode == 0 and "no errors" in done.stdout


def test_verify_of_a_file_that_does_not_work_ends_with_1(tmp_path):
    save_file({f"{KEY}.magic": torch.ones(2)}, str(tmp_path / "in.safetensors"))
    done = lora("verify", "--model", tmp_path / "in.safetensors")
    assert done.returncode == 1 and "this file does not work as it should" in done.stdout
    assert "error" not in done.stderr


def test_bake_names_the_file_that_is_no_checkpoint(file, tmp_path):
    done = lora("bake", "--checkpoint", file, "--models", file, "--output", tmp_path / "out.safetensors")
    assert done.returncode == 1 and "this file holds a LoRA" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()
