from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Progress, ToolDone
from lib_lora.base.protocols import Label
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Collection
from lib_lora.tagging.onnx_tagger import OnnxTagger
from lib_lora.tagging.options import TagConfig
from lib_lora.tagging.registry import TAGGERS
from lib_lora.tagging.run import tag
from lib_lora.tagging.scores import ScoreStore
from lib_lora.tagging.simple import SimpleTagger
from tiny_taggers import TINY, TinyModel, write_tagger

from .conftest import COLOURS, EXPECTED, captions

ROOT = Path(__file__).parents[2]


def config(**options) -> TagConfig:
    return dataclasses.replace(TagConfig(taggers=("tiny",), batch_size=2, cpu_threads=1), **options)


def events(
    collection: Collection, models: Path, control: Control | None = None, ids=None, **options
) -> Iterator[Event]:
    ids = collection.ids if ids is None else ids
    return tag(collection, ids, config(**options), models, control or Control())


def report(collection: Collection, models: Path, **options) -> dict:
    last = list(events(collection, models, **options))[-1]
    assert isinstance(last, ToolDone) and last.tool == "tag"
    return last.report


@pytest.fixture
def looks(monkeypatch) -> list[int]:
    """How many pictures each call of the ONNX tagger was given."""
    calls = []
    real = OnnxTagger.__call__

    def counted(self, prepared):
        calls.append(len(prepared))
        return real(self, prepared)

    monkeypatch.setattr(OnnxTagger, "__call__", counted)
    return calls


def test_captions_say_what_the_pictures_show(collection, models, looks):
    told = list(events(collection, models))
    assert captions(collection.folder) == EXPECTED
    assert looks == [2, 2, 1]
    assert told[-2:] and told[-1].report == {
        **{"pictures": 5, "left": 0, "run": 5, "written": 4, "without": 1, "tags": 8},
        **{"problems": [], "conflicts": [], "per_second": told[-1].report["per_second"]},
    }
    assert told[-1].report["per_second"] > 0
    assert Progress("tagging with tiny", 0, 5) in told and Progress("tagging with tiny", 5, 5) in told


def test_one_undo_takes_back_the_whole_run(collection, models):
    (collection.folder / "a.txt").write_text("before", encoding="utf-8")
    collection.refresh()
    report(collection, models, policy="append")
    assert captions(collection.folder)["a.png"] == "before, 1girl"
    assert len(collection.history()) == 1
    collection.undo()
    assert captions(collection.folder) == {"a.png": "before"}


def test_a_picture_that_was_looked_at_is_not_looked_at_again(collection, models, looks):
    report(collection, models)
    again = report(collection, models, policy="overwrite", general_threshold=1.0, character_threshold=1.0)
    assert sum(looks) == 5 and again["run"] == 0 and again["per_second"] is None
    Image.new("RGB", (30, 30), (0, 255, 0)).save(collection.folder / "a.png")
    collection.refresh()
    assert report(collection, models, policy="overwrite")["run"] == 1
    assert captions(collection.folder)["a.png"] == "long hair"
    assert report(collection, models, policy="overwrite", again=True)["run"] == 5


def test_a_picture_that_was_moved_keeps_its_scores(collection, models, looks):
    report(collection, models)
    (collection.folder / "new").mkdir()
    (collection.folder / "a.png").rename(collection.folder / "new" / "a.png")
    collection.refresh()
    assert report(collection, models)["run"] == 0


def test_other_weights_under_the_name_look_anew(collection, models, looks):
    report(collection, models)
    write_tagger(models / "tiny", TinyModel(TINY.channel, [0.0] * 8, [0.9, *[0.0] * 7]))
    assert report(collection, models, policy="overwrite")["run"] == 5
    assert captions(collection.folder) == {name: "1girl" for name in COLOURS}


@pytest.mark.parametrize(
    "policy, expected",
    [
        ("skip", {"a.png": "zorb", "b.png": ""}),
        ("if_empty", {"a.png": "zorb"}),
        ("overwrite", {}),
        ("prepend", {"a.png": "1girl, zorb"}),
        ("append", {"a.png": "zorb, 1girl"}),
    ],
)
def test_existing_captions(collection, models, looks, policy, expected):
    (collection.folder / "a.txt").write_text("zorb", encoding="utf-8")
    (collection.folder / "b.txt").write_text("", encoding="utf-8")
    collection.refresh()
    told = report(collection, models, policy=policy)
    assert captions(collection.folder) == EXPECTED | expected
    left = {"skip": 2, "if_empty": 1}.get(policy, 0)
    assert told["left"] == left and sum(looks) == 5 - left


def test_captions_that_cannot_be_read_are_left_and_reported(collection, models):
    (collection.folder / "a.txt").write_bytes(b"caf\xe9")
    collection.refresh()
    told = report(collection, models, policy="overwrite")
    assert (collection.folder / "a.txt").read_bytes() == b"caf\xe9"
    assert [name for name, _ in told["conflicts"]] == ["a.png"]


def test_pictures_that_cannot_be_read_are_reported_and_the_others_tagged(collection, models):
    (collection.folder / "b.png").write_bytes(b"no picture")
    whole = (collection.folder / "c.png").read_bytes()
    (collection.folder / "c.png").write_bytes(whole[:45])  # its header is sound
    collection.refresh()
    told = report(collection, models)
    assert [name for name, _ in told["problems"]] == ["b.png", "c.png"] and told["left"] == 0
    assert captions(collection.folder) == {name: EXPECTED[name] for name in ("a.png", "sub/d.png")}


def test_what_somebody_writes_during_the_run_stays(collection, models):
    for event in events(collection, models, policy="overwrite"):
        if event == Progress("tagging with tiny", 0, 5):
            (collection.folder / "sub" / "d.txt").write_text("mine", encoding="utf-8")
    assert captions(collection.folder) == EXPECTED | {"sub/d.png": "mine"}
    assert event.report["conflicts"] and event.report["conflicts"][0][0] == "sub/d.png"


def test_a_stop_ends_after_the_batch_and_the_next_run_goes_on(collection, models, looks):
    control, told = Control(), []
    for event in events(collection, models, control):
        told.append(event)
        if isinstance(event, Progress) and event.done >= 2:
            control.stop()
    assert not any(isinstance(event, ToolDone) for event in told)
    assert looks == [2]
    assert captions(collection.folder) == {name: EXPECTED[name] for name in ("a.png", "b.png")}
    assert report(collection, models)["run"] == 3
    assert captions(collection.folder) == EXPECTED


_CHILD = """
import sys
from pathlib import Path
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Collection
from lib_lora.tagging.options import TagConfig
from lib_lora.tagging.run import tag
opened = Collection.open(sys.argv[1])
config = TagConfig(taggers=("tiny",), batch_size=1, cpu_threads=1, policy="append")
for event in tag(opened, opened.ids, config, Path(sys.argv[2]), Control()):
    print("begun", flush=True)
"""


def test_a_run_that_is_killed_at_any_moment_is_gone_on_with(tmp_path, models):
    folder, before, after = tmp_path / "many", {}, {}
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (16, 16), (0, 0, 255)).save(folder / f"{number}.png")
        if number % 2:
            (folder / f"{number}.txt").write_text(f"dog {number}", encoding="utf-8")
            before[str(number)] = f"dog {number}"
        after[str(number)] = f"dog {number}, 1girl" if number % 2 else "1girl"

    def now() -> dict[str, str]:
        return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}

    draw, looked_at = random.Random(5), 0
    for _ in range(3):
        command = [sys.executable, "-c", _CHILD, str(folder), str(models)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            time.sleep(draw.uniform(0, 0.1))
            child.kill()
        assert all(text in (before.get(name), after[name]) for name, text in now().items())
        assert set(before) <= set(now())
        said = len(ScoreStore(folder, "tiny").said)
        assert said >= looked_at
        looked_at = said
    with Collection.open(folder) as opened:
        assert report(opened, models, policy="append")["run"] == 40 - looked_at
        assert now() == after
        while opened.undo():
            pass
        assert now() == before


def test_several_taggers_add_up(collection, models):
    write_tagger(models / "second", labels=[("cat", "0"), *[(f"x{number}", "0") for number in range(7)]])
    report(collection, models, taggers=("tiny", "second"), exclude=("x.*",))
    assert captions(collection.folder)["a.png"] == "1girl, cat"
    assert len(collection.history()) == 1


def test_tags_on_few_pictures_are_left_out_of_all_captions_at_the_end(collection, models):
    told = list(events(collection, models, minimum_fraction=0.4))
    assert captions(collection.folder) == {
        **{"a.png": "1girl", "b.png": "long hair", "c.png": "^_^, zorb (hero)"},
        "sub/d.png": "1girl, ^_^, long hair, zorb (hero)",
    }
    assert told[-1].report["written"] == 4
    collection.undo()
    report(collection, models, minimum_fraction=0.5)
    assert captions(collection.folder) == {}


def test_a_taggers_name_is_found_in_any_case(collection, models):
    report(collection, models, taggers=("TINY", "tiny"))
    assert captions(collection.folder) == EXPECTED


def test_only_the_pictures_that_are_meant(collection, models, looks):
    chosen = [collection.item_named(name).id for name in ("b.png", "sub/d.png")]
    assert list(events(collection, models, ids=chosen))[-1].report["pictures"] == 2
    assert set(captions(collection.folder)) == {"b.png", "sub/d.png"} and sum(looks) == 2


def test_a_read_only_dataset_is_refused(collection, models, monkeypatch):
    monkeypatch.setattr(collection, "read_only", "the disk is read-only")
    with pytest.raises(StudioError, match="disk is read-only"):
        list(events(collection, models))


@pytest.mark.parametrize(
    "options, field",
    [
        ({"taggers": ("nobody",)}, "taggers"),
        ({"taggers": ("../tiny",)}, "taggers"),
        ({"taggers": ("tiny/../tiny",)}, "taggers"),
        ({"exclude": ("(",)}, "exclude"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(collection, models, options, field):
    with pytest.raises(StudioError) as caught:
        events(collection, models, **options)
    assert caught.value.field == field


def test_a_plug_in_by_one_registered_class(collection, models):
    if "brightness" not in TAGGERS:

        @TAGGERS.register("brightness")
        class Brightness(SimpleTagger):
            help = "light or dark"
            general = 0.5

            def tag(self, picture):
                light = sum(picture.resize((1, 1)).getpixel((0, 0))) / 765
                return {Label("light"): light, Label("dark"): 1 - light}

    report(collection, models, taggers=("brightness",))
    assert captions(collection.folder) == {
        name: "light" if sum(colour) > 382 else "dark" for name, colour in COLOURS.items()
    }
