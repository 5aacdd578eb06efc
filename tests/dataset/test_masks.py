"""Masks that are painted and taken away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.collection import Collection
from lib_lora.dataset.masks import Stroke, paint_mask, remove_mask
from lib_lora.dataset.records import scan
from tiny_dataset import noise, pixels


def id_of(collection: Collection, name: str = "a.png") -> int:
    return collection.item_named(name).id


def mask_of(folder: Path, name: str = "a") -> np.ndarray:
    return pixels(folder / "masks" / f"{name}.png")


def test_a_painted_mask_is_where_training_looks_and_as_large_as_the_picture(collection, folder):
    paint_mask(collection, id_of(collection), [Stroke(((20, 20), (40, 20)), 5)])
    (record,) = scan(folder).records
    assert record.mask == folder / "masks" / "a.png"
    mask = mask_of(folder)
    assert mask.shape == (40, 60) and mask.dtype == np.uint8
    assert mask[20, 20:41].min() == 255 and mask[16, 30] == 255  # the line, as thick as the brush
    assert mask[20, 16] == 255 and mask[20, 13] == 0 and mask[30, 30] == 0  # with round ends
    assert collection.ids == [id_of(collection)]  # a mask is no picture of the dataset


def test_strokes_go_over_the_mask_that_is_there(collection, folder):
    id = id_of(collection)
    paint_mask(collection, id, [Stroke(((30, 20),), 10)])
    first = mask_of(folder)
    paint_mask(collection, id, [Stroke(((30, 20),), 4, white=False)])
    assert mask_of(folder)[20, 30] == 0 and mask_of(folder)[20, 23] == 255
    collection.undo()
    assert np.array_equal(mask_of(folder), first)
    collection.undo()
    assert not (folder / "masks" / "a.png").exists()


def test_a_first_stroke_that_takes_away_begins_with_everything(collection, folder):
    paint_mask(collection, id_of(collection), [Stroke(((30, 20),), 4, white=False)])
    assert mask_of(folder)[0, 0] == 255 and mask_of(folder)[20, 30] == 0
    paint_mask(collection, id_of(collection), [], start="black")
    assert mask_of(folder).max() == 0


def test_a_mask_is_painted_on_the_upright_picture(collection, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(60, 40, 4).save(folder / "turned.jpg", exif=exif)
    collection.refresh()
    paint_mask(collection, id_of(collection, "turned.jpg"), [Stroke(((5, 55),), 3)])
    assert mask_of(folder, "turned").shape == (60, 40)
    assert mask_of(folder, "turned")[55, 5] == 255


def test_a_mask_can_be_removed_and_brought_back(collection, folder):
    paint_mask(collection, id_of(collection), [Stroke(((30, 20),), 4)])
    painted = mask_of(folder)
    remove_mask(collection, id_of(collection))
    assert scan(folder).records[0].mask is None
    collection.undo()
    assert np.array_equal(mask_of(folder), painted)
    collection.redo()
    with pytest.raises(StudioError, match="no mask"):
        remove_mask(collection, id_of(collection))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"points": [], "radius": 3, "white": True},
        {"points": [[1, 2, 3]], "radius": 3, "white": True},
        {"points": [[1, 2]], "radius": 0, "white": True},
        {"points": [[1, float("nan")]], "radius": 3, "white": True},
        {"points": [[1, 1e9]], "radius": 3, "white": True},
        {"points": "ab", "radius": 3, "white": True},
    ],
)
def test_what_is_no_stroke_is_refused(values):
    with pytest.raises(StudioError, match="stroke"):
        Stroke.from_json(values)


def test_a_stroke_comes_from_json():
    assert Stroke.from_json({"points": [[1, 2.5]], "radius": 3, "white": False}) == Stroke(((1.0, 2.5),), 3.0, False)
