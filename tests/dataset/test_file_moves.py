"""Pictures moved, copied, renamed, deleted and added, with all that belongs to them, and taken back."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.collection import Collection
from tiny_dataset import captions_of, ids_of


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but our own, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".lora_studio" not in path.parts
    }


@pytest.fixture
def collection(opened, dataset):
    folder = dataset({"a": "red", "b": "blue", "sub/c": "green"})
    (folder / "a.caption").write_text("other", encoding="utf-8")
    (folder / "masks").mkdir()
    Image.new("L", (16, 8)).save(folder / "masks" / "a.png")
    return opened({})


def undone_and_redone(collection: Collection, before: dict[str, bytes], ids: list[int]) -> None:
    """Undo brings all back, redo does it again, both as before a restart and after."""
    after = tree(collection.folder)
    assert after != before
    collection.undo()
    assert tree(collection.folder) == before
    assert collection.ids == ids
    collection.redo()
    assert tree(collection.folder) == after
    collection.close()
    again = Collection.open(collection.folder)
    again.undo()
    assert tree(collection.folder) == before
    again.close()


def test_a_picture_is_moved_with_its_captions_and_mask_and_keeps_its_id(collection):
    before, ids = tree(collection.folder), collection.ids
    (a,) = ids_of(collection, "a")
    applied = collection.move([a], "sub")
    assert (applied.changed, applied.removed, applied.conflicts) == ([a], [], [])
    assert collection.item(a).name == "sub/a.png"
    assert collection.item(a).caption == "red"
    moved = {name for name in tree(collection.folder) if name not in before}
    assert moved == {"sub/a.png", "sub/a.txt", "sub/a.caption", "sub/masks/a.png"}
    assert collection.select("path:sub/*") == ids_of(collection, "a", "c")
    undone_and_redone(collection, before, ids)


def test_a_picture_is_moved_out_of_the_dataset(collection, tmp_path):
    before, ids = tree(collection.folder), collection.ids
    (b,) = ids_of(collection, "b")
    applied = collection.move([b], tmp_path / "elsewhere")
    assert applied.removed == [b]
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"b.png", "b.txt"}
    assert "b" not in captions_of(collection)
    undone_and_redone(collection, before, ids)


def test_a_picture_is_copied_with_all_that_belongs_to_it(collection):
    before, ids = tree(collection.folder), collection.ids
    applied = collection.copy(ids_of(collection, "a"), "copies")
    assert len(applied.added) == 1
    assert tree(collection.folder) == before | {
        f"copies/{name}": before[name] for name in ("a.png", "a.txt", "a.caption", "masks/a.png")
    }
    undone_and_redone(collection, before, ids)


def test_deleted_pictures_lie_in_the_trash_with_their_captions(collection):
    before, ids = tree(collection.folder), collection.ids
    applied = collection.trash(ids_of(collection, "a", "c"))
    assert applied.removed == [number for number in ids if number not in collection.ids] != []
    assert set(tree(collection.folder)) == {"b.png", "b.txt"}
    trash = collection.folder / ".lora_studio" / "trash" / "000001"
    assert (trash / "sub" / "c.txt").read_text(encoding="utf-8") == "green"
    undone_and_redone(collection, before, ids)


def test_a_picture_can_be_deleted_without_its_caption(collection):
    collection.trash(ids_of(collection, "b"), captions=False)
    assert "b.txt" in tree(collection.folder)
    assert "b.png" not in tree(collection.folder)
    assert collection.orphans == ["b.txt"]


def test_a_caption_that_another_picture_uses_stays_with_it(opened, dataset):
    dataset({"a.jpg": None})
    collection = opened({"a.png": "red"})
    jpg, png = collection.ids
    collection.move([png], "sub")
    assert set(tree(collection.folder)) == {"a.jpg", "a.txt", "sub/a.png", "sub/a.txt"}
    assert [item.caption for item in collection.items] == ["red", "red"]
    collection.undo()
    collection.trash([jpg, png])
    assert tree(collection.folder) == {}
    collection.undo()
    assert set(tree(collection.folder)) == {"a.jpg", "a.png", "a.txt"}


def test_where_one_place_is_taken_the_picture_stays_whole(collection, dataset):
    (collection.folder / "sub" / "a.txt").write_text("theirs", encoding="utf-8")
    before = tree(collection.folder)
    a, b = ids_of(collection, "a", "b")
    applied = collection.move([a, b], "sub")
    assert applied.changed == [b]
    ((who, why),) = applied.conflicts
    assert (who, "sub/a.txt" in why) == (a, True)
    assert set(before) - set(tree(collection.folder)) == {"b.png", "b.txt"}


def test_two_pictures_of_one_name_do_not_take_each_others_place(collection, dataset):
    dataset({"other/c": "violet"})
    collection.refresh()
    ids = [item.id for item in collection.items if item.stem == "c"]
    applied = collection.move(ids, "together")
    assert len(applied.changed) == 1
    assert len(applied.conflicts) == 1


def test_a_picture_is_renamed_with_its_files(collection):
    before, ids = tree(collection.folder), collection.ids
    (a,) = ids_of(collection, "a")
    assert collection.rename(a, "z.1").changed == [a]
    assert collection.item(a).name == "z.1.png"
    assert {"z.1.png", "z.1.txt", "z.1.caption", "masks/z.1.png"} <= set(tree(collection.folder))
    with pytest.raises(StudioError):
        collection.rename(a, "../out")
    with pytest.raises(StudioError):
        collection.rename(a, "con")
    assert collection.rename(a, "b").conflicts[0][0] == a
    undone_and_redone(collection, before, ids)


def test_only_the_case_of_a_name_can_be_changed(collection):
    (b,) = ids_of(collection, "b")
    collection.rename(b, "B")
    assert {"B.png", "B.txt"} <= set(tree(collection.folder))


def test_files_that_are_no_pictures_go_to_the_trash_too(collection):
    (collection.folder / "orphan.txt").write_text("lost", encoding="utf-8")
    collection.refresh()
    assert collection.orphans == ["orphan.txt"]
    collection.trash_files(["orphan.txt"])
    assert "orphan.txt" not in tree(collection.folder)
    collection.undo()
    assert collection.orphans == ["orphan.txt"]
    for name in ("../b.txt", "/etc/passwd", "sub/../../x"):
        with pytest.raises(StudioError):
            collection.trash_files([name])


def made(collection: Collection, name: str, size: tuple[int, int] = (4, 4)) -> Path:
    path = collection.staging() / name
    Image.new("RGB", size).save(path)
    return path


def test_new_pictures_come_in_with_captions_and_leave_again(collection):
    before, ids = tree(collection.folder), collection.ids
    applied = collection.add_files(
        {"a_crop.png": made(collection, "1.png"), "new/b.png": made(collection, "2.png")},
        captions={"a_crop.png": "red, close-up"},
        what="crop",
    )
    assert [collection.item(number).name for number in applied.added] == ["a_crop.png", "new/b.png"]
    assert captions_of(collection)["a_crop"] == "red, close-up"
    assert collection.history()[-1].what == "crop"
    undone_and_redone(collection, before, ids)


def test_a_picture_that_was_undone_late_comes_back_still(collection):
    path = made(collection, "1.png")
    long_ago = time.time() - 365 * 86_400
    os.utime(path, (long_ago, long_ago))
    collection.add_files({"a_crop.png": path})
    collection.undo()
    collection.staging()  # what is old in it is cleared away
    assert not collection.redo().conflicts
    assert collection.item_named("a_crop.png")


def test_a_new_picture_takes_the_place_of_an_old_one(collection):
    before, ids = tree(collection.folder), collection.ids
    (a,) = ids_of(collection, "a")
    collection.add_files({"a.png": made(collection, "1.png")}, replaced=[a])
    item = collection.item_named("a.png")
    assert (item.width_px, item.caption) == (4, "red")
    undone_and_redone(collection, before, ids)


def test_new_files_never_take_a_place(collection):
    before = tree(collection.folder)
    applied = collection.add_files({"b.png": made(collection, "1.png")})
    assert [who for who, _ in applied.conflicts] == ["b.png"]
    assert tree(collection.folder) == before


def test_undo_leaves_a_file_that_took_the_old_place_meanwhile(collection):
    (b,) = ids_of(collection, "b")
    collection.trash([b])
    (collection.folder / "b.png").write_bytes(b"theirs")
    applied = collection.undo()
    assert len(applied.conflicts) == 1
    assert (collection.folder / "b.png").read_bytes() == b"theirs"
    assert (collection.folder / "b.txt").read_text(encoding="utf-8") == "blue"


def test_the_first_caption_goes_along_with_its_picture(collection):
    (a,) = ids_of(collection, "a")
    collection.set_captions({a: "second"})
    collection.move([a], "sub")
    collection.restore_first([a])
    assert collection.item(a).caption == "red"


def _on_another_disk(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    real = os.rename

    def rename(source, target):
        if folder in str(target) and ".tmp" not in str(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source), None, str(target))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)


def test_a_move_to_another_disk_copies_first(collection, tmp_path, monkeypatch):
    _on_another_disk(monkeypatch, "elsewhere")
    before = tree(collection.folder)
    (b,) = ids_of(collection, "b")
    collection.move([b], tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "b.txt").read_bytes() == before["b.txt"]
    assert not (collection.folder / "b.png").exists()


@pytest.mark.parametrize("state", ["before", "between the halves", "picture only", "after"])
def test_a_move_that_was_cut_off_is_finished(collection, tmp_path, state):
    """``between the halves``: copied to another disk, and not yet deleted here."""
    before = tree(collection.folder)
    (b,) = ids_of(collection, "b")
    collection.move([b], tmp_path / "elsewhere")
    collection.close()
    elsewhere = tmp_path / "elsewhere"
    for name in {"before": ["b.png", "b.txt"], "picture only": ["b.txt"]}.get(state, []):
        (elsewhere / name).rename(collection.folder / name)
    if state == "between the halves":
        (collection.folder / "b.png").write_bytes(before["b.png"])
    path = collection.folder / ".lora_studio" / "journal.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    again = Collection.open(collection.folder)
    assert {name: (elsewhere / name).read_bytes() for name in ("b.png", "b.txt")} == {
        name: before[name] for name in ("b.png", "b.txt")
    }
    assert "b.png" not in tree(collection.folder)
    again.undo()
    assert tree(collection.folder) == before
    again.close()
