"""``blocks presets``, ``norms`` and ``apply`` as commands."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora.cli.main import main
from tiny_loras import POINT, TEXT, write_lora

ONES = ",".join("1" * 17)


@pytest.fixture
def presets(tmp_path, capsys):
    """``blocks presets`` on a folder of one's own: (exit code, lines by name, what was said)."""

    def call(*words: object) -> tuple[int, dict[str, str], str]:
        code = main(["blocks", "presets", "--data_dir", str(tmp_path / "own"), *map(str, words)])
        said = capsys.readouterr()
        lines = [line.partition(":") for line in said.out.splitlines()]
        return code, {name: values for name, _, values in lines}, said.out + said.err

    return call


def test_presets_are_listed_for_a_family(presets):
    _, found, _ = presets()
    assert found["ALL"] == ONES and "XL-STYLE" in found
    _, found, _ = presets("--family", "SDXL", "--x", 0.5)
    assert found["OUTX"] == "0.5,0,0,0,0,0.5,0.5,0,0.5,0.5,0.5,1,1,1,1,1,1,0,0,0"


def test_presets_of_ones_own_come_and_go(presets, tmp_path):
    _, found, _ = presets("--add", f"MINE:{ONES}", "R:R,0,0,0,0,0,0,0,0,0,0,0")
    assert found["MINE"] == f"{ONES}  # own"
    _, found, _ = presets("--family", "SD1", "--remove", "MINE", "--export_file", tmp_path / "out.txt")
    assert "MINE" not in found and found["R"].startswith("R,0")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "R:R,0,0,0,0,0,0,0,0,0,0,0\n"
    code, _, said = presets("--export_file", tmp_path / "out.txt")
    assert code == 1 and "export_file: exists already" in said
    code, _, said = presets("--add", "MINE:1,1")
    assert code == 1 and said.startswith("error: lbw: 2 block weights are no list")


def test_the_established_extensions_presets_are_taken_over(presets, tmp_path):
    lines = [f"ALL:{ONES}", f"MINE:{ONES}", f"FLUXALL:{','.join('1' * 61)}"]
    (tmp_path / "lbwpresets.txt").write_text("\n".join(lines), encoding="utf-8")
    _, found, said = presets("--import_file", tmp_path / "lbwpresets.txt")
    assert found["MINE"] == f"{ONES}  # own" and found["ALL"] == ONES  # what is there already is not taken twice
    assert "left out: line 3: FLUXALL" in said
    zeros = ONES.replace("1", "0")
    (tmp_path / "lbwpresets.txt").write_text(f"MINE:{zeros}\nALL:{zeros}\n", encoding="utf-8")
    _, found, said = presets("--import_file", tmp_path / "lbwpresets.txt")
    assert found["MINE"] == f"{ONES}  # own" and "left out: MINE: a preset of your own has this name" in said
    assert found["ALL"] == f"{zeros}  # own"


def test_norms_are_said_per_block(tmp_path, capsys):
    file = write_lora(tmp_path / "a.safetensors")
    assert main(["blocks", "norms", "--model", str(file)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("BASE") and second.startswith("M00") and "%" in first and "#" in first
    assert main(["blocks", "norms", "--model", str(file), "--json"]) == 0
    assert [row["block"] for row in json.loads(capsys.readouterr().out)] == ["BASE", "M00"]


def test_norms_that_need_the_checkpoint_have_no_bar(tmp_path, capsys):
    save_file(
        {f"{POINT}.weight": torch.ones(64), f"{POINT}.on_input": torch.tensor(0)}, str(tmp_path / "a.safetensors")
    )
    assert main(["blocks", "norms", "--model", str(tmp_path / "a.safetensors")]) == 0
    line = capsys.readouterr().out.rstrip()
    assert line.startswith("M00") and line.endswith("-") and "%" not in line


def test_apply_writes_the_weighted_file(tmp_path, capsys):
    file, out = write_lora(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    words = ["blocks", "apply", "--model", str(file), "--output", str(out)]
    assert main([*words, "--lbw", "0.5,0,0,0,0,0,0,2,0,0,0,0,0,0,0,0,0"]) == 0
    assert "BASE   x 0.5" in capsys.readouterr().out
    before, after = load_file(file), load_file(out)
    assert {key: float(after[f"{key}.alpha"] / before[f"{key}.alpha"]) for key in (POINT, TEXT)} == {
        POINT: 2,
        TEXT: 0.5,
    }
    assert main([*words, "--overwrite", "--lbw", "NOBODYS"]) == 1
    assert "lbw: no block weights have this name" in capsys.readouterr().err
