"""How much two pictures differ: known pixels, known figures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lib_lora.evaluate.differences import difference, heat_map


@pytest.fixture
def save(tmp_path):
    def save(name, pixels):
        Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(tmp_path / f"{name}.png")
        return tmp_path / f"{name}.png"

    return save


def test_one_changed_value_of_twelve(save):
    black = np.zeros((2, 2, 3))
    other = black.copy()
    other[0, 1, 2] = 51
    found = difference(save("first", black), save("second", other), 0.1)
    assert found.mean == pytest.approx(51 / 255 / 12) and found.changed == pytest.approx(1 / 12)
    assert found.heat.tolist() == [[0, pytest.approx(51 / 255 / 3)], [0, 0]]
    assert difference(save("first", black), save("second", other), 0.2).changed == 0


def test_a_picture_does_not_differ_from_itself(save):
    path = save("any", np.arange(48).reshape(4, 4, 3))
    assert (difference(path, path, 0.01).mean, difference(path, path, 0.01).changed) == (0.0, 0.0)


def test_heat_goes_from_black_over_red_and_yellow_to_white():
    heat = np.array([[0.0, 1 / 3, 2 / 3, 1.0, 5.0]])
    pixels = np.asarray(heat_map(heat, 1.0)).tolist()
    assert pixels == [[[0, 0, 0], [255, 0, 0], [255, 255, 0], [255, 255, 255], [255, 255, 255]]]
