"""Edits of very many captions, in portions."""

from __future__ import annotations

import pytest

from lib_lora.base.signals import Control
from lib_lora.dataset import large_edits
from lib_lora.dataset.edits import make_edit
from lib_lora.dataset.large_edits import apply_in_portions


@pytest.fixture(autouse=True)
def small_portions(monkeypatch):
    monkeypatch.setattr(large_edits, "PORTION", 3)


def captions(collection):
    return [item.caption for item in collection.items]


def test_it_does_what_one_large_edit_does_and_is_one_step_of_undo(opened):
    collection = opened({f"{index}": f"tag {index % 2}, hat" for index in range(8)})
    before, told = captions(collection), []
    edit = make_edit("add", {"tags": "sky"})
    done = apply_in_portions(collection, edit, collection.ids, progress=lambda *figures: told.append(figures))
    assert done.changed == collection.ids and done.conflicts == []
    assert captions(collection) == [f"{caption}, sky" for caption in before]
    assert told == [(0, 8), (3, 8), (6, 8)]
    assert [(entry.what, entry.count) for entry in collection.history()] == [("add sky", 8)]
    collection.undo()
    assert captions(collection) == before
    collection.redo()
    assert captions(collection) == [f"{caption}, sky" for caption in before]


def test_stopped_it_leaves_the_rest_and_what_is_done_is_undone_at_once(opened):
    collection = opened({f"{index}": "hat" for index in range(8)})
    control = Control()

    def stop_after_the_first(done, total):
        if done == 3:
            control.stop()

    edit = make_edit("add", {"tags": "sky"})
    done = apply_in_portions(collection, edit, collection.ids, progress=stop_after_the_first, control=control)
    assert done.changed == collection.ids[:3]
    assert captions(collection) == ["hat, sky"] * 3 + ["hat"] * 5
    collection.undo()
    assert captions(collection) == ["hat"] * 8


def test_a_caption_that_pictures_in_two_portions_share_is_edited_once(opened):
    collection = opened({"1": "hat", "2": "hat", "3.jpg": None, "3.png": "hat", "4": "hat"})
    assert [item.name for item in collection.items][2:4] == ["3.jpg", "3.png"]
    done = apply_in_portions(collection, make_edit("add", {"tags": "sky"}), collection.ids)
    assert done.conflicts == [] and captions(collection) == ["hat, sky"] * 5


def test_pictures_that_cannot_be_written_are_conflicts_as_in_a_small_edit(opened):
    collection = opened({f"{index}": "hat" for index in range(7)})
    ids = [*collection.ids, 99]
    (collection.folder / "5.txt").write_text("theirs", encoding="utf-8")
    done = apply_in_portions(collection, make_edit("remove", {"tags": "hat"}), ids, remove_empty=True)
    assert len(done.changed) == 6
    assert {id for id, _ in done.conflicts} == {99, collection.item_named("5.png").id}
    assert (collection.folder / "5.txt").read_text("utf-8") == "theirs"
    assert not (collection.folder / "0.txt").exists()
