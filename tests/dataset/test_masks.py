"""Masks that are painted and taken away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.collection import Collection
from lib_lora.dataset.masks import MaskRule, Stroke, make_masks, paint_mask, remove_mask, share_of_loss, with_mask
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


def with_hole(folder: Path) -> None:
    picture = noise(60, 40).convert("RGBA")
    picture.putalpha(255)
    picture.paste((0, 0, 0, 0), (0, 0, 30, 40))
    picture.save(folder / "cut_out.png")


def test_masks_are_made_by_a_rule_in_one_step_of_undo(collection, folder):
    with_hole(folder)
    collection.refresh()
    paint_mask(collection, id_of(collection), [], start="black")
    made = make_masks(collection, collection.ids, MaskRule(source="box", left=10, top=5, right=40, bottom=35))
    assert made.changed == collection.ids and not made.conflicts
    for name in ("a", "cut_out"):
        expected = np.zeros((40, 60), np.uint8)
        expected[5:35, 10:40] = 255
        assert np.array_equal(mask_of(folder, name), expected)
    collection.undo()
    assert mask_of(folder).max() == 0
    assert not (folder / "masks" / "cut_out.png").exists()


def test_a_mask_from_transparency_is_the_alpha_channel(collection, folder):
    with_hole(folder)
    collection.refresh()
    made = make_masks(collection, collection.ids, MaskRule(source="alpha"))
    assert made.conflicts == [(id_of(collection), "no part of it is transparent")]
    mask = mask_of(folder, "cut_out")
    assert mask[:, :30].max() == 0 and mask[:, 30:].min() == 255
    make_masks(collection, [id_of(collection, "cut_out.png")], MaskRule(source="alpha", invert=True))
    assert np.array_equal(mask_of(folder, "cut_out"), 255 - mask)


def test_how_much_counts_and_which_pictures_have_a_mask(collection, folder):
    with_hole(folder)
    collection.refresh()
    make_masks(collection, [id_of(collection, "cut_out.png")], MaskRule(source="alpha"))
    (item,) = with_mask(collection, collection.ids)
    assert item.name == "cut_out.png"
    assert share_of_loss(item) == 0.5
    make_masks(collection, [item.id], MaskRule(source="whole"))
    assert share_of_loss(item) == 1


def test_a_box_beyond_a_picture_and_a_shared_mask_are_told(collection, folder):
    noise(60, 40, 5).save(folder / "a.jpg")
    noise(90, 40, 6).save(folder / "wide.png")
    collection.refresh()
    made = make_masks(collection, collection.ids, MaskRule(source="box", left=50, top=0, right=80, bottom=40))
    assert [why for _, why in made.conflicts] == ["not a box within the picture"] * 2
    assert made.changed == [id_of(collection, "wide.png")]
    made = make_masks(collection, collection.ids, MaskRule(source="whole"))
    assert [why for _, why in made.conflicts] == ["another picture of this name has the same mask"]
