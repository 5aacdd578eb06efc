"""Grids on a tiny checkpoint: pictures as the generator makes them, kept, drawn and listed."""

from __future__ import annotations

import contextlib
import csv
import io

import numpy as np
import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.events import CellReady, GridLaidOut, Note, Progress, ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.protocols import PictureRequest
from lib_lora.evaluate import drawing
from lib_lora.evaluate.drawing import draw_grid
from lib_lora.evaluate.grid import make_grid
from lib_lora.evaluate.options import GridConfig, check_pictures
from lib_lora.evaluate.tables import analysis_csv, grid_csv

CONFIG = GridConfig(
    loras=("zorb",), unet=(0.0, 0.5, 1.0), te=(0.0, 1.0), prompts=("a zorb",), seeds=(7,), steps=2, width=64, height=64
)


@pytest.fixture
def run(write_lora, open_generator, album, tmp_path, control):
    write_lora("zorb", {"BASE": 1.0, "M00": 1.0, "OUT09": 1.0})
    return lambda config=CONFIG: list(make_grid(config, open_generator, album, tmp_path / "grid.png", control))


def test_each_cell_is_the_picture_that_its_prompt_makes(run, generator, tmp_path):
    events = run()
    assert isinstance(events[0], GridLaidOut) and len(events[0].axes["columns"]["labels"]) == 4
    cells = {tuple(place): event for event in events if isinstance(event, CellReady) for place in event.places}
    assert len(cells) == 8
    tags = {(0, 0): "", (1, 0): "", (0, 3): "<lora:zorb:0:1>", (1, 1): "<lora:zorb:1:0>", (1, 3): "<lora:zorb:1>"}
    base = None
    for place, tag in tags.items():
        request = PictureRequest(f"a zorb {tag}".strip(), seed=7, steps=2, width=64, height=64)
        expected = np.asarray(generator.generate(request))
        assert np.array_equal(np.asarray(Image.open(cells[place].path)), expected), place
        base = expected if base is None else base
        change = np.abs(expected.astype(float) - base).mean() / 255
        assert cells[place].change == pytest.approx(change)
    done = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert done == [(number, 7) for number in range(1, 8)]
    assert isinstance(events[-1], ToolDone) and events[-1].path == tmp_path / "grid.png"


def test_a_checkpoint_s_generator_is_there_for_its_own_pictures_alone(
    run, write_lora, generator, album, tmp_path, control
):
    write_lora("zorb", {"M00": 1.0})
    opened = []

    @contextlib.contextmanager
    def open_generator(checkpoint):
        opened.append(checkpoint)
        yield generator
        opened.append(f"{checkpoint} closed")

    config = GridConfig(loras=("zorb",), checkpoints=("one", "two"), prompts=("a",), steps=1, width=64, height=64)
    list(make_grid(config, open_generator, album, tmp_path / "grid.png", control))
    assert opened == ["one", "one closed", "two", "two closed"]


def test_what_was_made_is_not_made_again(run, generator, monkeypatch, album):
    first = [event.path for event in run() if isinstance(event, CellReady)]
    monkeypatch.setattr(generator, "generate", lambda *args, **more: pytest.fail("made again"))
    assert [event.path for event in run() if isinstance(event, CellReady)] == first
    assert len(list(album.folder.glob("*.png"))) == 7


def test_a_stop_keeps_the_pictures_and_draws_no_grid(run, generator, monkeypatch, control, tmp_path, album):
    real = generator.generate

    def generate(request, **more):
        if len(list(album.folder.glob("*.png"))) == 2:
            control.stop()
        return real(request, **more)

    monkeypatch.setattr(generator, "generate", generate)
    events = run()
    assert sum(isinstance(event, CellReady) for event in events) == 2 and isinstance(events[-1], Note)
    assert not (tmp_path / "grid.png").exists()


def test_an_interrupted_picture_ends_it(run, generator, monkeypatch):
    monkeypatch.setattr(generator, "generate", lambda request, control: None)
    assert [type(event) for event in run()] == [GridLaidOut, Note]


def test_the_whole_grid_holds_every_picture_under_its_label(tmp_path):
    pictures = {}
    for row in range(2):
        for column in range(3):
            pictures[row, column] = tmp_path / f"{row}{column}.png"
            Image.new("RGB", (40, 32), (80 * row, 100 * column, 9)).save(pictures[row, column])
    del pictures[1, 2]
    sheet = draw_grid(["without", "a label longer than a picture", "日本"], ["seed 1", "seed 2"], pictures)
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert {(0, 0, 9), (0, 100, 9), (0, 200, 9), (80, 0, 9), (80, 100, 9)} <= colours and (80, 200, 9) not in colours
    for colour in [(0, 0, 9), (80, 100, 9)]:
        assert int((np.asarray(sheet) == colour).all(axis=2).sum()) == 40 * 32


def test_the_whole_of_a_large_grid_has_smaller_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_MOST_PX", 6 * 10 * 8)
    Image.new("RGB", (40, 32), (0, 100, 9)).save(tmp_path / "a.png")
    sheet = draw_grid(["a", "b", "c"], ["d", "e"], dict.fromkeys([(0, 0), (1, 2)], tmp_path / "a.png"))
    assert int((np.asarray(sheet) == (0, 100, 9)).all(axis=2).sum()) == 2 * 10 * 8


@pytest.mark.parametrize(
    "values, field", [({"width": 4104}, "width"), ({"seeds": tuple(range(101)), "unet": tuple(range(100))}, "prompts")]
)
def test_more_than_a_host_can_hold_is_refused(values, field):
    with pytest.raises(StudioError) as fault:
        check_pictures(from_mapping(GridConfig, {"loras": ["zorb"], "prompts": ["a"], **values}))
    assert fault.value.field == field


@pytest.mark.parametrize("prompt", ['=SUM("a, b")', "\t=1+1", " @a"])
def test_tables_have_a_line_per_picture_and_no_formulas(prompt):
    values = {"lora": "zorb", "unet": 1.0, "prompt": prompt, "seed": 1}
    text = grid_csv([{"values": values, "change": 0.25, "picture": "a.png"}])
    (row,) = csv.DictReader(io.StringIO(text))
    assert row == {"lora": "zorb", "unet": "1.0", "prompt": f"'{prompt}", "seed": "1", "change": "0.25",
                   "picture": "a.png"}  # fmt: skip
    blocks = [{"rank": 1, "block": "M00", "alone": {"mean": 0.5, "changed": 1.0}, "off": None}]
    (row,) = csv.DictReader(io.StringIO(analysis_csv(blocks)))
    assert row == {"rank": "1", "block": "M00", "alone mean": "0.5", "alone changed": "1.0", "off mean": "",
                   "off changed": ""}  # fmt: skip
