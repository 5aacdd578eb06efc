"""Boxes of pictures: where they lie and what they give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lib_lora.base.errors import StudioError
from lib_lora.dataset.cuts import (
    Cut,
    bucket_cut,
    checked_box,
    largest_box,
    middle_box,
    smart_box,
    split_boxes,
    whole,
)
from lib_lora.dataset.images import fit_to_bucket
from lib_lora.dataset.plan import make_buckets, select_bucket


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def figure(size: tuple[int, int], at: tuple[int, int], radius: int = 20) -> Image.Image:
    """A red figure on grey."""
    image = Image.new("RGB", size, (128, 128, 128))
    x, y = at
    ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=(220, 30, 30), outline="black")
    return image


def test_a_cut_without_a_size_gives_the_very_pixels():
    image = noise(40, 30)
    cut = Cut((5, 7, 25, 17)).of(image)
    assert np.array_equal(np.asarray(cut), np.asarray(image)[7:17, 5:25])


def test_a_cut_may_mirror():
    image = noise(8, 6)
    assert np.array_equal(np.asarray(Cut(whole(image.size), mirror="horizontal").of(image)), np.asarray(image)[:, ::-1])
    assert np.array_equal(np.asarray(Cut(whole(image.size), mirror="vertical").of(image)), np.asarray(image)[::-1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_can_be_cut_and_scaled(mode):
    pixels = np.random.default_rng(1).integers(0, 60000, (32, 24)).astype(np.uint16)
    image = Image.fromarray(pixels) if mode == "I;16" else noise(24, 32).convert(mode)
    assert Cut((2, 3, 20, 30)).of(image).size == (18, 27)
    scaled = Cut((0, 0, 24, 32), (12, 16)).of(image)
    assert scaled.size == (12, 16)
    if mode == "I;16":
        means = pixels.reshape(16, 2, 12, 2).mean(axis=(1, 3))
        assert np.corrcoef(np.asarray(scaled).ravel(), means.ravel())[0, 1] > 0.8  # 16 bits still, not clipped to 8
        assert np.asarray(scaled).max() > 30000


def test_what_shines_through_does_not_change_the_colour_beside_it():
    """Scaled as it is stored, the black under the transparent half would darken the edge of the red one."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 33, 64))
    pixels = np.asarray(Cut(whole(image.size), (16, 16)).of(image))
    assert (pixels[..., 0][pixels[..., 3] > 16] >= 250).all()


@pytest.mark.parametrize("box", [(0, 0, 0, 10), (5, 5, 4, 10), (-1, 0, 5, 5), (0, 0, 11, 5), (0, 0, 5, 21)])
def test_a_box_outside_of_the_picture_is_refused(box):
    with pytest.raises(StudioError, match="box"):
        checked_box(box, (10, 20))
    assert checked_box((0, 0, 10, 20), (10, 20)) == (0, 0, 10, 20)


@pytest.mark.parametrize(
    "size, aspect, largest",
    [((100, 50), 1, (50, 50)), ((100, 50), 2, (100, 50)), ((100, 50), 4, (100, 25)), ((3, 999), 0.5, (3, 6))],
)
def test_the_largest_box_touches_two_sides(size, aspect, largest):
    assert largest_box(size, aspect) == largest
    left, top, right, bottom = middle_box(size, aspect)
    assert (right - left, bottom - top) == largest
    assert abs(left - (size[0] - right)) <= 1 and abs(top - (size[1] - bottom)) <= 1


@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
@pytest.mark.parametrize("place", [25, 150, 275])
def test_a_smart_box_has_the_figure_in_it(size, place):
    at = (place, 50) if size[0] > size[1] else (50, place)
    left, top, right, bottom = smart_box(figure(size, at), 1)
    assert (right - left, bottom - top) == (100, 100)
    assert left <= max(0, at[0] - 20) and right >= min(size[0], at[0] + 20)
    assert top <= max(0, at[1] - 20) and bottom >= min(size[1], at[1] + 20)


def test_without_anything_to_see_the_smart_box_is_the_middle_one():
    blank = Image.new("RGB", (300, 100), "white")
    assert smart_box(blank, 1) == middle_box((300, 100), 1)
    assert smart_box(blank.convert("L").resize((50, 50)), 1) == (0, 0, 50, 50)


def test_busy_wallpaper_does_not_outweigh_a_flat_figure():
    image = np.full((100, 400, 3), 128, dtype=np.uint8)
    image[::2, :100] = 140  # stripes at the left
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).rectangle([300, 10, 370, 90], fill=(250, 20, 20))
    left, _, right, _ = smart_box(picture, 1)
    assert left <= 300 and right >= 370


@pytest.mark.parametrize("size", [(640, 480), (333, 777), (1001, 499)])
def test_the_middle_of_a_bucket_is_what_training_sees(size):
    image = noise(*size)
    bucket = select_bucket(*size, make_buckets((256, 256), 128, 512, 64))
    cut = bucket_cut(size, bucket).of(image)
    assert np.array_equal(np.asarray(cut), fit_to_bucket(image, bucket).pixels)


@pytest.mark.parametrize("size", [(100, 1000), (1000, 100), (100, 151), (77, 5000)])
@pytest.mark.parametrize("overlap", [0, 0.1, 0.5])
def test_a_tall_picture_is_split_into_equal_parts_that_cover_it(size, overlap):
    along = 1 if size[1] > size[0] else 0
    boxes = split_boxes(size, 1.5, overlap)
    lengths = {box[along + 2] - box[along] for box in boxes}
    assert lengths == {int(min(size) * 1.5)}
    assert boxes[0][along] == 0 and boxes[-1][along + 2] == max(size)
    for first, second in itertools.pairwise(boxes):
        assert first[along + 2] - second[along] >= overlap * min(lengths) - 1


def test_what_is_short_enough_stays_whole():
    assert split_boxes((100, 150), 1.5, 0.1) == [(0, 0, 100, 150)]
