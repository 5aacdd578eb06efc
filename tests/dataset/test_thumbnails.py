"""Small copies of pictures, and what becomes of them on disk."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.thumbnails import SIZE_PX, prune, thumbnail


def test_a_copy_has_the_pictures_shape_and_is_made_once(tmp_path):
    Image.new("RGB", (1600, 800), (200, 30, 30)).save(tmp_path / "a.jpg")
    small = thumbnail(tmp_path / "a.jpg", tmp_path / "small")
    with Image.open(small) as image:
        assert image.size == (SIZE_PX, SIZE_PX // 2) and image.format == "JPEG"
        assert max(abs(a - b) for a, b in zip(image.getpixel((9, 9)), (200, 30, 30))) < 8
    before = small.stat().st_mtime_ns
    assert thumbnail(tmp_path / "a.jpg", tmp_path / "small") == small and small.stat().st_mtime_ns == before
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_a_small_picture_is_not_enlarged_and_a_sideways_one_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(thumbnail(tmp_path / "a.jpg", tmp_path / "small")) as image:
        assert image.size == (32, 64)


def test_a_changed_picture_has_another_copy(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(path)
    first = thumbnail(path, tmp_path / "small")
    Image.new("RGB", (40, 20)).save(path)
    os.utime(path, ns=(1, 1))
    second = thumbnail(path, tmp_path / "small")
    with Image.open(second) as image:
        assert first != second and image.size == (40, 20)


def test_what_is_no_picture_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(StudioError, match="not a PNG"):
        thumbnail(tmp_path / "a.png", tmp_path / "small")


def test_the_oldest_copies_go_when_there_are_too_many(tmp_path):
    for number in range(8):
        path = tmp_path / f"{number:02}" / "x.jpg"
        path.parent.mkdir()
        path.write_bytes(b"x" * 100)
        os.utime(path, (number, number))
    assert prune(tmp_path, 800) == 0
    assert prune(tmp_path, 700) == 3
    assert sorted(path.parent.name for path in tmp_path.rglob("*.jpg")) == ["03", "04", "05", "06", "07"]
    assert prune(tmp_path / "nowhere") == 0
