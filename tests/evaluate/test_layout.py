"""Which pictures a grid has, where they stand, and in what order they are made."""

from __future__ import annotations

import pytest

from lib_lora.evaluate.layout import WITHOUT, LoraUse, lay_out
from lib_lora.evaluate.options import GridConfig
from lib_lora.text.extra_networks import split_tags
from lib_lora.weights.blocks.words import read_tag


def grid(**values):
    return lay_out(GridConfig(**{"prompts": ("a cat",), "loras": ("zorb",), **values}))


def places(layout):
    return {place: picture for picture in layout.pictures for place in picture.places}


@pytest.mark.parametrize(
    "values, name, columns",
    [
        ({}, "LoRA", ["zorb"]),
        ({"weights": ("OUTD", "1,0,0")}, "block weights", ["OUTD", "1,0,0"]),
        ({"loras": ("a-1", "a-2"), "unet": (0.5, 1.0)}, "LoRA", ["a-1", "a-2"]),
        ({"unet": (0.5, 1.0), "te": (0.0, 1.0)}, "UNet", ["UNet 0.5", "UNet 1"]),
        ({"te": (0.25, 1.0)}, "TE", ["TE 0.25", "TE 1"]),
        ({"weights": ("OUTX",), "x": (0.0, 0.5)}, "X", ["X 0", "X 0.5"]),
    ],
)
def test_columns_are_the_first_that_varies_after_the_one_without(values, name, columns):
    layout = grid(**values)
    assert (layout.column_name, layout.columns) == (name, (WITHOUT, *columns))
    assert grid(**values, without=False).columns == tuple(columns)


def test_rows_are_what_else_varies():
    layout = grid(unet=(0.5, 1.0), te=(0.0, 1.0), seeds=(1, 2), prompts=("a cat", "a dog"))
    assert layout.row_names == ("prompt", "seed", "TE") and len(layout.rows) == 8
    assert layout.rows[:3] == ("a cat, seed 1, TE 0", "a cat, seed 1, TE 1", "a cat, seed 2, TE 0")
    found = places(layout)
    assert set(found) == {(row, column) for row in range(8) for column in range(3)}
    for (row, column), picture in found.items():
        assert picture.prompt in layout.rows[row] and f"seed {picture.seed}," in layout.rows[row]
        if column:
            assert (picture.use.unet, picture.use.te) == ((0.5, 1.0)[column - 1], (0.0, 1.0)[row % 2])
        else:
            assert picture.use is None


def test_a_picture_without_the_lora_is_made_once_for_all_its_rows():
    layout = grid(unet=(0.5, 1.0), te=(0.0, 0.5, 1.0))
    bases = [picture for picture in layout.pictures if picture.use is None]
    assert [base.places for base in bases] == [((0, 0), (1, 0), (2, 0))]
    assert len(layout.pictures) == 7


def test_a_checkpoint_is_loaded_once_and_strengths_change_rarely():
    layout = grid(checkpoints=("one", "two"), unet=(0.5, 1.0), seeds=(1, 2, 3))
    order = [(picture.checkpoint, picture.use and picture.use.unet) for picture in layout.pictures]
    changes = [after for before, after in zip([None, *order], order) if before != after]
    assert changes == [(checkpoint, unet) for checkpoint in ("one", "two") for unet in (None, 0.5, 1.0)]


@pytest.mark.parametrize(
    "use, text",
    [
        (LoraUse("zorb"), "<lora:zorb:1:1>"),
        (LoraUse("people/ann.v2", 0.5), "<lora:ann.v2:0.5:0.5>"),
        (LoraUse("zorb", 0.5, 0.0), "<lora:zorb:0:0.5>"),
        (LoraUse("zorb", weights="OUTX", x=0.25), "<lora:zorb:1:1:lbw=OUTX:x=0.25>"),
    ],
)
def test_a_lora_is_written_as_prompts_have_it(use, text):
    assert use.tag == text
    (items,) = split_tags(use.added_to("a cat"))[1]
    tag = read_tag(items, family=None)
    assert (tag.unet, tag.te) == (use.unet, use.unet if use.te is None else use.te)


def test_a_cell_says_what_it_was_made_of():
    picture = places(grid(unet=(0.5, 1.0)))[0, 1]
    assert picture.label == "UNet 0.5"
    assert picture.values() == {
        **{"lora": "zorb", "weights": None, "x": 1.0, "unet": 0.5, "te": 0.5},
        **{"checkpoint": None, "prompt": "a cat", "seed": 1},
    }
