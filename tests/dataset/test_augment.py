from __future__ import annotations

import colorsys

import numpy as np
import pytest

from lib_lora.base.seeds import Owner
from lib_lora.dataset.augment import Tone, apply_tone, draw_crop, draw_tone
from lib_lora.dataset.plan import Bucket


def owners(count=2000):
    return [Owner(1, 1, sample) for sample in range(count)]


def test_crops_are_drawn_from_all_places_where_the_bucket_fits():
    found = {draw_crop(Bucket((8, 8), (10, 8)), owner) for owner in owners(200)}
    assert found == {(0, 0), (1, 0), (2, 0)}


def test_a_third_has_another_tone_half_by_hue_and_half_by_gamma():
    tones = [tone for tone in map(draw_tone, owners()) if tone]
    assert abs(len(tones) - 660) < 105  # 5 standard deviations of 21
    turned = [tone.degrees for tone in tones if tone.degrees]
    assert abs(len(turned) - len(tones) / 2) < 65 and max(map(abs, turned)) <= 16
    assert all(0.95 <= tone.gamma <= 1.05 for tone in tones)


def test_gamma_bends_each_channel():
    pixels = np.array([[[0, 100, 255]]], dtype=np.uint8)
    assert apply_tone(pixels, Tone(gamma=1.05)).tolist() == [[[0, round(255 * (100 / 255) ** 1.05), 255]]]


@pytest.mark.parametrize("degrees", [-16, 8, 15.5])
def test_the_hue_is_turned_and_brightness_stays(degrees):
    pixels = np.array([[[200, 40, 90], [10, 250, 30]]], dtype=np.uint8)
    for before, after in zip(pixels[0], apply_tone(pixels, Tone(degrees=degrees))[0]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = np.array(colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)) * 255
        assert np.abs(after - expected).max() <= 6  # Pillow keeps a hue in 8 bits
    grey = np.full((2, 2, 3), 77, dtype=np.uint8)
    assert (apply_tone(grey, Tone(degrees=degrees)) == grey).all()
