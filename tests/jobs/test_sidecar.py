from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.jobs.options import TrainJobOptions
from lib_lora.jobs.sidecar import picture_of, read_card, write_card, write_job_card, write_picture


@pytest.fixture
def lora(tmp_path) -> Path:
    path = tmp_path / "zorb-v1.2.safetensors"
    path.write_bytes(b"lora")
    return path


@pytest.fixture
def png(tmp_path) -> Path:
    path = tmp_path / "sample" / "1.png"
    path.parent.mkdir()
    Image.new("RGB", (4, 4), "red").save(path)
    return path


def test_a_jobs_card_is_what_the_webui_reads(lora):
    write_job_card(lora, TrainJobOptions(activation_text="zorb, ü", preferred_weight=0.8, notes="n"), "SDXL")
    card = json.loads((lora.parent / "zorb-v1.2.json").read_text(encoding="utf-8"))
    assert card == {"sd version": "SDXL", "activation text": "zorb, ü", "preferred weight": 0.8, "notes": "n"}


def test_fields_of_others_stay(lora):
    before = {"description": "mine", "notes": "old", "another tool": {"a": [1]}}
    lora.with_suffix(".json").write_text(json.dumps(before), encoding="utf-8")
    write_job_card(lora, TrainJobOptions(activation_text="zorb"), "SD1")
    assert read_card(lora) == {**before, "sd version": "SD1", "activation text": "zorb"}
    write_card(lora, {"notes": ""})
    assert read_card(lora)["notes"] == "" and read_card(lora)["another tool"] == {"a": [1]}


def test_a_card_that_cannot_be_read_is_not_written_over(lora):
    for text in ("{", "[1]"):
        lora.with_suffix(".json").write_text(text, encoding="utf-8")
        with pytest.raises(StudioError):
            write_card(lora, {"notes": "n"})
        assert lora.with_suffix(".json").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("name", "value"), [("notes", 3), ("preferred weight", "much"), ("preferred weight", float("nan")), ("x", "y")]
)
def test_values_and_fields_are_checked(lora, name, value):
    with pytest.raises(StudioError) as caught:
        write_card(lora, {name: value})
    assert caught.value.field == name and not lora.with_suffix(".json").exists()


def test_a_picture_is_written_beside_the_file(lora, png):
    assert picture_of(lora) is None
    assert write_picture(lora, png) == lora.parent / "zorb-v1.2.png"
    assert picture_of(lora) == lora.parent / "zorb-v1.2.png"
    assert (lora.parent / "zorb-v1.2.png").read_bytes() == png.read_bytes()


@pytest.mark.parametrize(
    "name", ["zorb-v1.2.png", "zorb-v1.2.preview.png", "zorb-v1.2.jpg", "zorb-v1.2.preview.webp", "zorb-v1.2.gif"]
)
def test_a_persons_own_picture_is_replaced_only_when_that_was_said(lora, png, name):
    own = lora.parent / name
    own.write_bytes(b"mine")
    assert picture_of(lora) == own
    with pytest.raises(StudioError, match="has a picture"):
        write_picture(lora, png)
    assert own.read_bytes() == b"mine"
    write_picture(lora, png, replace=True)
    assert picture_of(lora) == lora.parent / "zorb-v1.2.png"  # or the WebUI might show the other one
    assert picture_of(lora).read_bytes() == png.read_bytes() and (name == "zorb-v1.2.png" or not own.exists())


def test_another_loras_picture_is_not_this_ones(lora):
    (lora.parent / "zorb-v1.png").write_bytes(b"x")
    (lora.parent / "zorb-v1.2-000004.png").write_bytes(b"x")
    assert picture_of(lora) is None


def test_what_is_no_png_is_refused(lora, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    for path in (tmp_path / "a.jpg", tmp_path / "none.png"):
        with pytest.raises(StudioError):
            write_picture(lora, path)
    assert picture_of(lora) is None
