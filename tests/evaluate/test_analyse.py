"""The analyser: its figures are the picture changes that files of single blocks make, and it ranks by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lib_lora.arch.blocks import BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.base.events import BlockMeasured, Note, Progress, ToolDone
from lib_lora.base.protocols import PictureRequest
from lib_lora.evaluate.analyse import analyse, lora_blocks
from lib_lora.evaluate.options import AnalyseConfig

CONFIG = AnalyseConfig(lora="zorb", prompts=("a zorb",), seeds=(1, 2), steps=2, width=64, height=64)
ALL = BLOCK_LISTS[Family.SD1][26]
TRAINED = dict.fromkeys(["BASE", "IN01", "IN04", "M00", "OUT04", "OUT09"], 1.0)
# Of a LoRA trained in all blocks one block's delta is scaled by 3 and another's by 0.3; another LoRA is made of single
# blocks at 1 and 0.3.
LORAS = [{**TRAINED, "M00": 3.0, "IN04": 0.3}, {"IN01": 1.0, "OUT09": 0.3}]


@pytest.fixture
def run(write_lora, open_generator, album, tmp_path, control):
    def run(scales, config=CONFIG):
        path = write_lora("zorb", scales)
        events = list(analyse(config, lora_blocks(path), open_generator, album, tmp_path / "chart.png", control))
        return events, {event.block: event for event in events if isinstance(event, BlockMeasured)}

    return run


@pytest.fixture
def picture(generator):
    def picture(tag, seed):
        request = PictureRequest(f"a zorb {tag}", seed=seed, steps=2, width=64, height=64)
        return np.asarray(generator.generate(request), dtype=float) / 255

    return picture


def changes(picture, first, second, seeds=(1, 2)):
    """The picture change measured apart: two tags' pictures, values from 0 to 1."""
    apart = [np.abs(picture(first, seed) - picture(second, seed)) for seed in seeds]
    return np.mean([each.mean() for each in apart]), np.mean([(each > 0.05).mean() for each in apart])


@pytest.mark.parametrize("scales", LORAS, ids=["of all blocks", "of single blocks"])
def test_the_figures_are_what_files_of_single_blocks_change(run, write_lora, picture, scales):
    events, found = run(scales)
    apart = {}
    for block in scales:
        write_lora(f"only-{block}", {block: scales[block]})
        write_lora(f"less-{block}", {name: scale for name, scale in scales.items() if name != block})
        alone, off = found[block].alone, found[block].off
        by_itself = changes(picture, "", f"<lora:only-{block}:1>")
        assert (alone["mean"], alone["changed"]) == pytest.approx(by_itself) and by_itself[0] > 0
        without = changes(picture, "<lora:zorb:1>", f"<lora:less-{block}:1>")
        assert (off["mean"], off["changed"]) == pytest.approx(without)
        apart[block] = by_itself[0]
    rows = events[-1].report["blocks"]
    ranked = sorted(ALL, key=lambda block: -apart.get(block, 0.0))
    assert [row["block"] for row in rows] == ranked and [row["rank"] for row in rows] == list(range(1, 27))


def test_layers_of_no_block_are_in_no_block_s_figures(run, write_lora, picture):
    _, found = run({None: 1.0, "BASE": 1.0, "M00": 1.0}, replace(CONFIG, seeds=(1,)))
    write_lora("outside", {None: 1.0})
    assert changes(picture, "", "<lora:outside:1>", (1,))[0] > 0
    for block in ("BASE", "M00"):
        write_lora(f"with-{block}", {None: 1.0, block: 1.0})
        expected = changes(picture, "<lora:outside:1>", f"<lora:with-{block}:1>", (1,))
        assert (found[block].alone["mean"], found[block].alone["changed"]) == pytest.approx(expected)
        assert found["IN04"].alone == {"mean": 0.0, "changed": 0.0}


def test_a_block_without_weights_is_exactly_zero_and_nothing_is_made_for_it(run, album):
    events, found = run({"M00": 1.0, "OUT09": 1.0})
    assert len(found) == 26
    for block, event in found.items():
        if block not in ("M00", "OUT09"):
            assert event.alone == event.off == {"mean": 0.0, "changed": 0.0} and event.pictures == {}
    # Two seeds: no block, all blocks, and M00 and OUT09 each alone and off; alone is the other one off.
    assert events[-1].report["blocks"][2]["alone"]["mean"] == 0.0
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert (last.done, last.total) == (12, 12)


def test_every_block_has_its_pictures_and_heat_maps(run, album, tmp_path):
    events, found = run({"M00": 1.0})
    pictures = found["M00"].pictures
    assert len(pictures["alone"]) == len(pictures["off"]) == 2
    heat = np.asarray(Image.open(album.folder / pictures["heat_alone"]))
    assert heat.shape == (64, 64, 3) and heat.max() == 255
    assert Image.open(tmp_path / "chart.png").width > 400
    assert isinstance(events[-1], ToolDone) and events[-1].path == tmp_path / "chart.png"


@pytest.mark.parametrize("way, other", [("alone", "off"), ("off", "alone")])
def test_one_way_alone_leaves_the_other_unmeasured(run, way, other):
    events, found = run({"M00": 1.0, "IN01": 0.1}, replace(CONFIG, ways=way, seeds=(1,)))
    assert all(getattr(event, other) is None and getattr(event, way) is not None for event in found.values())
    rows = events[-1].report["blocks"]
    figures = [row[way]["mean"] for row in rows]
    assert figures == sorted(figures, reverse=True) and {row["block"] for row in rows[:2]} == {"M00", "IN01"}


def test_a_stop_ends_it_and_done_again_makes_only_what_is_missing(
    write_lora, open_generator, generator, album, tmp_path, control, monkeypatch
):
    made, real = [], generator.generate
    blocks = lora_blocks(write_lora("zorb", {"M00": 1.0, "IN01": 1.0}))

    def generate(request, **more):
        made.append(request)
        if len(made) == 5:
            control.stop()
        return real(request, **more)

    monkeypatch.setattr(generator, "generate", generate)
    arguments = (CONFIG, blocks, open_generator, album, tmp_path / "chart.png")
    events = list(analyse(*arguments, control))
    assert len(made) == 5 and isinstance(events[-1], Note) and not (tmp_path / "chart.png").exists()
    kept = len(list(album.folder.glob("*.png")))
    assert kept == 4
    assert isinstance(list(analyse(*arguments, type(control)()))[-1], ToolDone)
    assert len({(request.prompt, request.seed) for request in made[:4] + made[5:]}) == len(made) - 1


def test_a_file_that_does_not_say_whose_it_is_is_taken_for_the_checkpoints(write_lora):
    path = write_lora("zorb", {"M00": 1.0})
    assert lora_blocks(path).family is Family.SD1
    assert len(lora_blocks(path, Family.SDXL).all) == len(BLOCK_LISTS[Family.SDXL][20])
