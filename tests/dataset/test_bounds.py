"""What a dataset from somebody else, its journal and the links in it cannot do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.dataset import journal as journal_module
from lib_lora.dataset.collection import Collection
from lib_lora.dataset.journal import TAKEN, Copy, Journal, Move
from tiny_dataset import captions_of, ids_of

HOME = ".lora_studio"


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder beside the dataset "data", which is linked to it as "out"."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret", encoding="utf-8")
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_journal(root: Path, changes: list, *, is_done: bool, **more) -> None:
    (root / HOME).mkdir(exist_ok=True)
    head = {"number": 1, "do": "edit", "time": 1.0, "what": "edit", "changes": changes, **more}
    lines = [head, *([{"done": 1, "left": []}] * is_done)]
    (root / HOME / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


OUTWARD = {
    "a move": [["move", "a.png", "../home/a.png"]],
    "a whole path": [["move", "a.png", "{outside}/a.png"]],
    "a text": [["text", "../home/new.txt", None, "new"]],
    "a copy": [["copy", "../home/secret.txt", "stolen.txt"]],
    "a move inwards": [["move", "../home/secret.txt", "stolen.txt"]],
    "a copy through a linked file": [["copy", "linked.txt", "stolen.txt"]],
    "a text through a linked file": [["text", "linked.txt", "secret", "new"]],
    "a text through a linked folder": [["text", "out/new.txt", None, "new"]],
    "a deletion through a linked folder": [["text", "out/secret.txt", "secret", None]],
    "a link that is moved before": [["move", "out", "moved"], ["text", "moved/new.txt", None, "new"]],
    "our own folder's name": [["move", "a.png", f"{HOME}/../../home/a.png"]],
}


@pytest.fixture
def downloaded(dataset, outside) -> Path:
    root = dataset({"a": "red"})
    os.symlink(outside, root / "out")
    os.symlink(outside / "secret.txt", root / "linked.txt")
    return root


def with_outside(changes: list, outside: Path) -> list:
    return json.loads(json.dumps(changes).replace("{outside}", outside.as_posix()))


@pytest.mark.parametrize("changes", OUTWARD.values(), ids=OUTWARD)
@pytest.mark.parametrize(
    "more", [{}, {"seal": "0" * 64}, {"seal": "ä"}, {"seal": 7}], ids=["none", "forged", "not ASCII", "no text"]
)
def test_opening_a_dataset_finishes_nothing_outside_it(downloaded, outside, changes, more):
    write_journal(downloaded, with_outside(changes, outside), is_done=False, **more)
    before = files_in(outside)
    with Collection.open(downloaded) as collection:
        assert files_in(outside) == before
        assert not (downloaded / "stolen.txt").exists() and (downloaded / "a.png").exists()
        assert any("leads outside" in note or "link to outside" in note for note in collection.notes)
        assert collection.read_only is None
        collection.set_captions({ids_of(collection, "a")[0]: "blue"})
    assert (downloaded / "a.txt").read_text("utf-8") == "blue"


def test_undo_and_redo_of_somebody_else_s_edits_change_nothing_outside(downloaded, outside):
    changes = [
        ["text", "../home/new.txt", "undone", None],
        ["text", "../home/secret.txt", "old", "secret"],
        ["move", "../home/gone.txt", "a.png"],
        ["move", "../home/secret.txt", "nowhere.txt"],
    ]
    write_journal(downloaded, changes, is_done=True)
    before = files_in(outside)
    with Collection.open(downloaded) as collection:
        done = collection.undo()
        assert ["outside" in why for _, why in done.conflicts] == [True] * len(changes)
        collection.redo()
    assert files_in(outside) == before and (downloaded / "a.png").exists()


def test_a_journal_with_impossible_names_blocks_nothing(downloaded):
    for changes in ([["move", "a\0", "b"]], [["text", 3, None, "x"]], [["move", "a.png"]], [["copy", "a.png", None]]):
        write_journal(downloaded, changes, is_done=False)
        with Collection.open(downloaded) as collection:
            assert collection.read_only is None


def test_an_own_move_out_of_the_dataset_is_finished_after_a_kill_and_taken_back(opened, outside):
    collection = opened({"a": "red", "b": "blue"})
    collection.move(collection.ids, outside)
    collection.close()
    path = collection.folder / HOME / "journal.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    os.rename(outside / "b.txt", collection.folder / "b.txt")
    with Collection.open(collection.folder) as again:
        assert set(files_in(outside)) == {"secret.txt", "a.png", "a.txt", "b.png", "b.txt"}
        again.undo()
        assert captions_of(again) == {"a": "red", "b": "blue"}
        assert set(files_in(outside)) == {"secret.txt"}


def test_a_seal_is_one_edit_s_of_one_dataset(opened, dataset, outside):
    collection = opened({"a": "red"})
    collection.move(collection.ids, outside)
    line = json.loads((collection.folder / HOME / "journal.jsonl").read_bytes().splitlines()[0])
    moved = files_in(outside)
    for folder, changes in [("other", line["changes"]), ("data", [["move", "b.png", str(outside / "b.png")]])]:
        root = dataset({"a": "red", "b": "blue"}, folder)
        for name in ("a.png", "a.txt"):
            (outside / name).unlink(missing_ok=True)
        write_journal(root, changes, is_done=False, seal=line["seal"])
        collection.close()
        with Collection.open(root):
            assert set(files_in(outside)) == {"secret.txt"}, folder
    assert "a.png" in moved


@pytest.mark.parametrize("name", [HOME, f"{HOME}/journal.jsonl", f"{HOME}/index", f"{HOME}/new", f"{HOME}/edits/1.z"])
def test_links_in_place_of_our_own_files_are_not_written_through(dataset, outside, name):
    root = dataset({"a": "red"})
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(outside if name in (HOME, f"{HOME}/new") else outside / "secret.txt", root / name)
    before = files_in(outside)
    with Collection.open(root) as collection:
        assert "is a link" in collection.read_only
        with pytest.raises(StudioError, match="is a link"):
            collection.set_captions({collection.ids[0]: "blue"})
    assert files_in(outside) == before


def test_the_trash_is_not_somewhere_else(opened, outside):
    collection = opened({"a": "red"})
    (collection.folder / HOME / "trash").mkdir()
    os.symlink(outside, collection.folder / HOME / "trash" / "000001")
    assert collection.trash(collection.ids).conflicts
    assert (collection.folder / "a.png").exists() and set(files_in(outside)) == {"secret.txt"}


def test_a_caption_that_is_a_link_to_outside_is_shown_and_not_written(opened, outside):
    collection = opened({"a": None, "b": "blue"})
    os.symlink(outside / "secret.txt", collection.folder / "a.txt")
    os.symlink(collection.folder / "b.txt", collection.folder / "c.txt")
    (collection.folder / "c.png").write_bytes((collection.folder / "b.png").read_bytes())
    collection.refresh()
    a, c = ids_of(collection, "a", "c")
    assert collection.item(a).caption == "secret"
    done = collection.set_captions({a: "mine", c: "green"})
    assert done.changed == [c] and "link to outside" in done.conflicts[0][1]
    assert collection.remove_captions([a]).conflicts
    assert (outside / "secret.txt").read_text("utf-8") == "secret"
    assert (collection.folder / "b.txt").read_text("utf-8") == "green"


def test_a_linked_folder_s_captions_are_edited_and_taken_back(opened, dataset):
    far = dataset({"x": "red"}, "far")
    collection = opened({"a": "blue"})
    os.symlink(far, collection.folder / "near")
    collection.refresh()
    (x,) = ids_of(collection, "x")
    collection.set_captions({x: "green"})
    assert (far / "x.txt").read_text("utf-8") == "green"
    collection.close()
    with Collection.open(collection.folder) as again:
        again.undo()
    assert (far / "x.txt").read_text("utf-8") == "red"


def test_others_see_and_change_nothing_that_lies_outside_their_folders(dataset, tmp_path, outside):
    private = dataset({"p": "private"}, "private")
    root, neighbour = dataset({"host/a": "red", "host/b": None, "host/next/n": "green"}), tmp_path / "data" / "host"
    os.symlink(private, neighbour / "in")
    os.symlink(private / "p.png", neighbour / "l.png")
    os.symlink(outside / "secret.txt", neighbour / "b.txt")
    os.symlink(neighbour / "next", neighbour / "here")
    before = files_in(private) | files_in(outside)
    with Collection.open(neighbour, within=[root]) as collection:
        assert set(captions_of(collection)) == {"a", "b", "n"} and captions_of(collection)["b"] in ("", None)
        assert len([note for note in collection.notes if "link to outside" in note]) == 3
        (b,) = ids_of(collection, "b")
        assert "outside" in collection.set_captions({b: "mine"}).conflicts[0][1]
        assert not collection.item(b).caption and not collection.item(b).caption_data
        collection.trash(collection.ids)
    assert files_in(private) | files_in(outside) == before


def test_others_do_not_take_back_what_was_moved_to_where_they_may_not_look(opened, outside):
    collection = opened({"a": "red"})
    collection.move(collection.ids, outside)
    collection.close()
    with Collection.open(collection.folder, within=[collection.folder]) as theirs:
        assert "leads outside" in theirs.undo().conflicts[0][1]
    assert (outside / "a.png").exists()


def test_a_dataset_s_own_folder_is_none_of_pictures(opened):
    collection = opened({"a": "red"})
    with pytest.raises(StudioError, match="journal"):
        Collection.open(collection.folder / HOME)
    for change in (collection.move, collection.copy):
        with pytest.raises(StudioError, match="journal"):
            change(collection.ids, f"{HOME}/trash")


def test_what_stood_in_the_way_of_a_copy_stays_where_the_disk_refuses_a_later_change(dataset, monkeypatch):
    root = dataset({"a": "red", "taken": "theirs"})
    journal, real = Journal(root), journal_module._move

    def move(source, target, **options):
        if source.name == "b":
            raise StudioError("the disk is full", file=source)
        return real(source, target, **options)

    monkeypatch.setattr(journal_module, "_move", move)
    changes = [Copy("a.png", "taken.png"), Copy("a.png", "new.png"), Move("b", "c")]
    with journal.locked(), pytest.raises(StudioError, match="full"):
        journal.edit("copy", changes, count=1)
    assert set(path.name for path in root.iterdir()) == {HOME, "a.png", "a.txt", "taken.png", "taken.txt"}
    assert (root / HOME / "trash" / "000001" / "new.png").exists()
    assert journal_module.make_changes(journal.bounds, changes[:1], ()) == [("a.png", TAKEN)]
