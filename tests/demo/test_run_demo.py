"""The README's first command, a step long."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[2] / "demo"))

import run_demo


@pytest.mark.slow
def test_the_demo_trains_and_shows_what_it_has_learnt(tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(run_demo.read_config(["--max_train_steps", "1"]), output_dir=tmp_path)
    monkeypatch.setattr(run_demo, "read_config", lambda arguments: config)
    monkeypatch.setattr(run_demo, "PROMPTS", run_demo.PROMPTS[:1])
    assert run_demo.main([]) == 0
    assert (tmp_path / "demo.safetensors").is_file()
    with Image.open(tmp_path / "demo.png") as page:
        assert page.width > 256
    assert str(tmp_path / "demo.safetensors") in capsys.readouterr().out
