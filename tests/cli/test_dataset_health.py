"""``dataset health`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.cli.main import main
from lib_lora.models import clip_assets

SIZES = ["--resolution", "64", "--min_bucket_reso", "64"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    def no_vocabulary(*, local_only):
        assert local_only
        raise StudioError("no vocabulary")

    monkeypatch.setattr(clip_assets, "token_counter", no_vocabulary)
    folder = tmp_path / "2_zorb"
    folder.mkdir()
    for number in range(3):
        colours = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((64, 64)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"zorb, {'red hat' if number else 'commentary'}, smile", encoding="utf-8")
    return folder


def test_the_report_is_text_with_what_can_be_mended(folder, capsys):
    assert main(["dataset", "health", str(folder), *SIZES]) == 0
    out = capsys.readouterr().out
    assert "--fix metadata_tag: Remove them" in out
    assert "steps: 1600 in 267 epochs of 6" in out
    assert (folder / "0.txt").read_text(encoding="utf-8") == "zorb, commentary, smile"


def test_the_report_is_json(folder, capsys):
    assert main(["dataset", "health", str(folder), *SIZES, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in report["findings"]] == ["metadata_tag"]
    assert report["steps"]["steps_per_epoch"] == 6


def test_a_fix_is_made_and_taken_back(folder, capsys):
    assert main(["dataset", "health", str(folder), *SIZES, "--fix", "metadata_tag"]) == 0
    assert (folder / "0.txt").read_text(encoding="utf-8") == "zorb, smile"
    assert main(["dataset", "undo", str(folder)]) == 0
    assert (folder / "0.txt").read_text(encoding="utf-8") == "zorb, commentary, smile"


def test_a_fix_by_a_picture_tool_is_made_for_every_picture(folder, capsys):
    for number in range(2):
        Image.new("RGB", (400, 64), (number * 90, 80, 20)).save(folder / f"{number}.png")
    assert main(["dataset", "health", str(folder), *SIZES, "--fix", "extreme_aspect"]) == 0
    assert "part: 2 of 2 pictures" in capsys.readouterr().out
    assert not (folder / "0.png").exists() and (folder / "0-part-2.png").exists() and (folder / "0-part-2.txt").exists()


def test_a_wrong_setting_is_an_error_that_names_it(folder, capsys):
    assert main(["dataset", "health", str(folder), "--subject", "dog"]) == 1
    assert "subject" in capsys.readouterr().err
