"""Preprocessing, against a computation of its own: loops over pixels, and Pillow's filter on a square made here."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lib_lora.dataset.images import load_image
from lib_lora.tagging.form import Form, pixels, probabilities


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = len(mode)
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values, mode) if channels > 1 else Image.fromarray(values[..., 0], mode)


def reference(picture: Image.Image, size: int) -> np.ndarray:
    """WD14's, by the description: alpha on white, a centred white square, bicubic, BGR, 0 to 255, float32 NHWC."""
    rgba = np.asarray(picture.convert("RGBA"), dtype=np.float64)
    height, width = rgba.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255.0)
    top, left = (side - height) // 2, (side - width) // 2
    for row in range(height):
        for column in range(width):
            opacity = rgba[row, column, 3] / 255
            square[top + row, left + column] = rgba[row, column, :3] * opacity + 255 * (1 - opacity)
    whole = Image.fromarray(np.rint(square).astype(np.uint8))
    resized = np.asarray(whole.resize((size, size), Image.BICUBIC), dtype=np.float32)
    return np.stack([resized[..., 2], resized[..., 1], resized[..., 0]], axis=-1)


@pytest.mark.parametrize("width, height", [(20, 12), (11, 24), (16, 16), (40, 37)])
def test_wd14_gets_a_centred_white_square_in_bgr(width, height):
    picture = noise(width, height)
    made = pixels(picture, Form(), 16, channels_first=False)
    assert made.dtype == np.float32 and made.shape == (16, 16, 3) and made.flags.c_contiguous
    assert np.array_equal(made, reference(picture, 16))


def test_transparency_lies_on_white(tmp_path):
    noise(20, 12, "RGBA").save(tmp_path / "a.png")
    made = pixels(load_image(tmp_path / "a.png"), Form(), 16, channels_first=False)
    # Blending in whole numbers may differ from floating point by one level.
    assert np.abs(made - reference(Image.open(tmp_path / "a.png"), 16)).max() <= 1


def test_an_upright_picture_is_what_a_tagger_sees(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(20, 12).save(tmp_path / "a.png", exif=exif)
    turned = noise(20, 12).transpose(Image.Transpose.ROTATE_270)
    made = pixels(load_image(tmp_path / "a.png"), Form(), 16, channels_first=False)
    assert np.array_equal(made, reference(turned, 16))


def test_cl_tagger_gets_channels_first_from_minus_one_to_one():
    picture = noise(20, 12)
    made = pixels(picture, Form(values="-1..1"), 16, channels_first=True)
    expected = reference(picture, 16).transpose(2, 0, 1) / 127.5 - 1
    assert made.shape == (3, 16, 16)
    assert np.allclose(made, expected, atol=1e-6)


def test_ml_danbooru_gets_a_stretched_picture_in_rgb_from_zero_to_one():
    picture = noise(20, 12)
    form = Form(channels="RGB", values="0..1", fit="stretch", resample="bilinear")
    expected = np.asarray(picture.resize((16, 16), Image.BILINEAR), np.float32) / 255
    assert np.allclose(pixels(picture, form, 16, channels_first=False), expected, atol=1e-6)


def test_logits_become_probabilities_without_overflow():
    logits = np.array([[-1000.0, -2.0, 0.0, 3.0, 1000.0]], np.float32)
    expected = [0, 1 / (1 + np.exp(2.0)), 0.5, 1 / (1 + np.exp(-3.0)), 1]
    with np.errstate(all="raise", under="ignore"):
        assert np.allclose(probabilities(logits, Form(output="logits"))[0], expected, atol=1e-6)
    assert np.array_equal(probabilities(logits, Form()), logits)
