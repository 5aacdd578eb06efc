from __future__ import annotations

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.training.samples import contact_sheet, parse_sample_prompt, read_sample_prompts


def test_flags_follow_the_prompt_as_in_sd_scripts():
    line = "1girl, (red:1.2) --n lowres, bad -- hands --w 384 --h 640 --d 7 --s 28 --l 5.5"
    with pytest.raises(StudioError):
        parse_sample_prompt(line)  # " -- " is no flag
    line = "1girl, (red:1.2) --n lowres, bad --w 384 --h 640 --d 7 --s 28 --l 5.5"
    assert parse_sample_prompt(line) == PictureRequest(
        "1girl, (red:1.2)", "lowres, bad", 7, 28, cfg_scale=5.5, width=384, height=640
    )


def test_a_prompt_without_flags_has_the_training_size():
    assert parse_sample_prompt("a cat") == PictureRequest("a cat", seed=42)
    usual = PictureRequest("", seed=3, sampler="DDIM", width=768)
    expected = PictureRequest("a cat", seed=3, steps=5, sampler="DDIM", width=768)
    assert parse_sample_prompt("a cat --s 5", usual) == expected


def test_comments_and_empty_lines_are_skipped(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\n\na cat\na dog --d 3\n", encoding="utf-8")
    assert [p.prompt for p in read_sample_prompts(path)] == ["a cat", "a dog"]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "a cat --z 3", "a cat --d many", "a cat <lora:x:1>"])
def test_unreadable_prompts_are_refused(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    with pytest.raises(StudioError, match="sample_prompts"):
        read_sample_prompts(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StudioError, match="nowhere.txt"):
        read_sample_prompts(tmp_path / "nowhere.txt")


def test_a_contact_sheet_shows_every_picture_in_its_place():
    rows = [[Image.new("RGB", (8, 8), colour) for colour in row] for row in (("red", "lime"), ("blue",))]
    sheet = contact_sheet(rows, gap_px=2)
    assert sheet.size == (22, 22)
    assert [sheet.getpixel(at) for at in ((3, 3), (13, 3), (3, 13))] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert sheet.getpixel((13, 13)) == (255, 255, 255)
