"""Pixels of real pictures in every mode, and their fit into buckets."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from lib_lora.base.errors import StudioError
from lib_lora.dataset.images import fit_to_bucket, load_fitted, load_image
from lib_lora.dataset.plan import Bucket, make_buckets, select_bucket
from lib_lora.dataset.records import ImageRecord
from lib_lora.files.image_header import read_header

RED, BLUE = (255, 0, 0), (0, 0, 255)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards: every place and direction can be told from the colours."""
    x = np.linspace(0, 255, width, dtype=np.float64)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height, dtype=np.float64)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).round().astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_stands_upright_as_pillows_own_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    gradient(20, 10).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = load_image(path)
    np.testing.assert_array_equal(np.asarray(found), expected)
    header = read_header(path)
    assert found.size == (header.width_px, header.height_px)


def test_transparency_lies_on_the_background(tmp_path):
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*RED, alpha))
    image.save(tmp_path / "a.png")
    white = np.asarray(load_image(tmp_path / "a.png"))[0].astype(int)
    blue = np.asarray(load_image(tmp_path / "a.png", background=BLUE))[0].astype(int)
    # c = alpha * foreground + (1 - alpha) * background, alpha = 128 / 255
    np.testing.assert_allclose(white, [[255, 255, 255], [255, 127, 127], RED], atol=1)
    np.testing.assert_allclose(blue, [BLUE, [128, 0, 127], RED], atol=1)


def test_a_palette_with_a_transparent_entry_lies_on_the_background(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), [[(255, 255, 255), BLUE]])


def test_grey_with_alpha_and_grey_with_a_transparent_value(tmp_path):
    Image.new("LA", (1, 1), (10, 0)).save(tmp_path / "a.png")
    Image.new("L", (1, 1), 10).save(tmp_path / "b.png", transparency=10)
    Image.new("RGB", (1, 1), RED).save(tmp_path / "c.png", transparency=RED)
    for name in ("a.png", "b.png", "c.png"):
        assert load_image(tmp_path / name).getpixel((0, 0)) == (255, 255, 255), name


@pytest.mark.parametrize(
    ("mode", "colour"), [("1", 1), ("L", 255), ("P", 0), ("CMYK", (0, 0, 0, 0)), ("RGB", (255, 255, 255))]
)
def test_other_modes_become_rgb(tmp_path, mode, colour):
    image = Image.new(mode, (4, 4), colour)
    if mode == "P":
        image.putpalette([255, 255, 255])
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    found = load_image(path)
    assert found.mode == "RGB"
    np.testing.assert_allclose(np.asarray(found), 255, atol=2)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = [0, 1, 128, 129, 255, 256, 32767, 32768, 65406, 65407, 65535]
    _write_png16(tmp_path / "a.png", values)
    found = np.asarray(load_image(tmp_path / "a.png"))[0, :, 0]
    assert found.tolist() == [int(value * 255 / 65535 + 0.5) for value in values]


def _write_png16(path: Path, values: list[int]) -> None:
    """A one-line PNG with colour type 0 and bit depth 16, written by hand from the specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0)
    line = b"\0" + struct.pack(f">{len(values)}H", *values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert load_image(tmp_path / name).getpixel((4, 4)) == RED


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
def test_a_picture_that_was_cut_short_is_refused_by_name(tmp_path, name):
    path = tmp_path / name
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StudioError, match="cannot be read") as fault:
        load_image(path)
    assert fault.value.file == str(path)


def test_every_size_fits_its_bucket_from_the_middle():
    buckets = make_buckets((128, 128), 64, 256, 64)
    for size in [(100, 100), (300, 200), (64, 500), (511, 40), (128, 128), (1, 300), (257, 255)]:
        bucket = select_bucket(*size, buckets)
        fitted = fit_to_bucket(gradient(*size), bucket)
        width, height = bucket.resolution
        assert fitted.pixels.shape == (height, width, 3)
        assert fitted.pixels.dtype == np.uint8
        assert fitted.pixels.flags["C_CONTIGUOUS"]
        assert fitted.original_size == size
        top, left = fitted.crop
        assert abs((bucket.resized[0] - width) - 2 * left) <= 1
        assert abs((bucket.resized[1] - height) - 2 * top) <= 1


def test_the_crop_equals_resizing_the_whole_picture_and_cutting_it():
    for size, bucket in [
        ((300, 200), Bucket((64, 128), (192, 128))),
        ((50, 90), Bucket((128, 128), (128, 230))),
        ((400, 100), Bucket((128, 64), (257, 64))),
    ]:
        image = gradient(*size)
        fitted = fit_to_bucket(image, bucket)
        (top, left), (width, height) = fitted.crop, bucket.resolution
        whole = np.asarray(image.resize(bucket.resized, Image.Resampling.LANCZOS)).astype(int)
        np.testing.assert_allclose(fitted.pixels, whole[top : top + height, left : left + width], atol=1)


def test_a_picture_of_the_buckets_size_is_not_touched():
    image = Image.effect_noise((64, 128), 90).convert("RGB")
    fitted = fit_to_bucket(image, Bucket((64, 128), (64, 128)))
    np.testing.assert_array_equal(fitted.pixels, np.asarray(image))
    assert fitted.crop == (0, 0)


def test_shrinking_does_not_alias():
    """A chessboard of single pixels is grey from afar; nearest or plain cubic sampling shows a pattern."""
    board = (np.indices((300, 300)).sum(0) % 2 * 255).astype(np.uint8)
    fitted = fit_to_bucket(Image.fromarray(board).convert("RGB"), Bucket((64, 64), (64, 64)))
    np.testing.assert_allclose(fitted.pixels[4:-4, 4:-4], 127.5, atol=3)


def test_a_bucket_that_the_resized_picture_does_not_cover_is_a_mistake_of_the_code():
    with pytest.raises(ValueError, match="cover"):
        fit_to_bucket(gradient(10, 10), Bucket((64, 64), (64, 63)))


def test_a_picture_that_changed_since_the_plan_is_refused(tmp_path):
    path = tmp_path / "a.png"
    gradient(20, 10).save(path)
    bucket = Bucket((8, 8), (16, 8))
    record = ImageRecord(path, "x", 20, 10, 1, False, "x")
    assert load_fitted(record, bucket).pixels.shape == (8, 8, 3)
    gradient(30, 10).save(path)
    with pytest.raises(StudioError, match="changed") as fault:
        load_fitted(record, bucket)
    assert (fault.value.came, fault.value.allowed) == ("30x10", "20x10")
