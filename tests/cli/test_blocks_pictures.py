"""``blocks grid``, ``analyse`` and ``knowledge`` as commands."""

from __future__ import annotations

import csv
import os

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.cli.main import main
from lib_lora.hosts.standalone.generator import StandaloneGenerator
from tiny_loras import write_lora


@pytest.fixture
def call(tmp_path, tiny_checkpoint, capsys):
    """A command on small pictures: (exit code, what was said)."""
    write_lora(tmp_path / "models" / "Lora" / "zorb.safetensors")
    places = {"models_dir": "models", "lora_dir": "models/Lora", "data_dir": "data", "output_dir": "out"}
    flags = [word for name, place in places.items() for word in (f"--{name}", str(tmp_path / place))]
    flags += ["--width", "64", "--height", "64", "--steps", "1"]

    def run(*words):
        code = main(["blocks", *words, *flags])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.mark.parametrize(
    "words, rows",
    [
        (["grid", "--loras", "zorb", "--weights", "OUTD", "MIDD", "--prompts", "a cat, red", "--checkpoints"], 3),
        (["analyse", "--lora", "zorb", "--prompts", "a cat, red", "--checkpoint"], 26),
        (["knowledge", "--tags", "dog", "1girl", "--checkpoint"], 3),
    ],
)
def test_pictures_the_whole_and_a_table_are_written(call, tmp_path, tiny_checkpoint, words, rows):
    code, said = call(*words, str(tiny_checkpoint))
    assert code == 0, said
    out = tmp_path / "out"
    assert Image.open(out / f"{words[0]}.png").width > 64 and list((out / "pictures").glob("*.png"))
    with open(out / f"{words[0]}.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == rows
    assert (out / f"{words[0]}.csv").read_text(encoding="utf-8") in said


def test_an_earlier_run_is_replaced_only_where_that_is_asked_for(call, tmp_path, tiny_checkpoint, monkeypatch):
    words = ["grid", "--loras", "zorb", "--prompts", "a cat", "--checkpoints", str(tiny_checkpoint)]
    assert call(*words)[0] == 0
    table = tmp_path / "out" / "grid.csv"
    before = table.read_bytes()
    code, said = call(*words, "--unet", "0.5")
    assert code == 1 and "output_dir: exists already" in said and table.read_bytes() == before

    def fail(self, request, **more):
        raise StudioError("cannot be made")

    with monkeypatch.context() as patch:
        patch.setattr(StandaloneGenerator, "generate", fail)
        code, said = call(*words, "--seeds", "7", "--overwrite")
    assert code == 1 and "cannot be made" in said and table.read_bytes() == before
    assert call(*words, "--unet", "0.5", "--overwrite")[0] == 0 and table.read_bytes() != before


def test_a_mistake_is_said_and_nothing_is_written(call, tmp_path):
    code, said = call("grid", "--loras", "nobody", "--prompts", "a cat")
    assert code == 1 and "loras: no such LoRA" in said and not os.path.exists(tmp_path / "out")
