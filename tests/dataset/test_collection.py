"""An open dataset: what it shows, what it writes, what it takes back, and what others do meanwhile."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.collection import Collection
from lib_lora.dataset.edits import make_edit
from lib_lora.dataset.journal import Journal
from tiny_dataset import captions_of

ROOT = Path(__file__).resolve().parents[2]
ADD = make_edit("add", {"tags": "new", "at": "front"})


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything but our own folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".lora_studio" not in path.parts
    }


def reopened(collection: Collection) -> Collection:
    collection.close()
    return Collection.open(collection.folder)


# What it shows


def test_pictures_come_in_natural_order_with_all_that_an_editor_needs(opened):
    collection = opened({"3_cat/a10": "cat, red hat", "3_cat/a9": None, "other/b": "cat"})
    assert [item.name for item in collection.items] == ["3_cat/a9.png", "3_cat/a10.png", "other/b.png"]
    first, second, third = collection.items
    assert (first.caption, first.tags, first.caption_path, first.problem) == (None, (), None, None)
    assert (second.caption, second.tags) == ("cat, red hat", ("cat", "red hat"))
    assert second.caption_path == collection.folder / "3_cat" / "a10.txt"
    assert (second.width_px, second.height_px, second.mode) == (16, 8, "RGB")
    assert second.bytes == second.path.stat().st_size
    assert second.modified == pytest.approx(second.path.stat().st_mtime)
    assert (second.repeats, second.concept) == (3, "cat")
    assert (third.repeats, third.concept) == (0, "other")  # beside folders with repeats it is not trained on
    assert collection.tag_counts() == [("cat", 2), ("red hat", 1)]
    assert collection.tag_counts([third.id]) == [("cat", 1)]


def test_masks_and_hidden_files_are_no_pictures(opened, dataset):
    dataset({"masks/a": None, ".hidden/a": None, ".b": None})
    assert [item.name for item in opened({"a": "x"}).items] == ["a.png"]


def test_flat_opening_leaves_folders_below_out(opened):
    assert [item.stem for item in opened({"a": "x", "sub/b": "y"}, recursive=False).items] == ["a"]


def test_damaged_files_are_shown_with_what_is_wrong(opened, dataset):
    folder = dataset({"a": "x", "b": "blå".encode("latin-1"), "c": b" \n"})
    (folder / "a.png").write_bytes(b"nothing")
    a, b, c = opened({}).items
    assert "damaged" in a.problem
    assert a.caption == "x"
    assert (b.caption, b.tags) == (None, ())
    assert "UTF-8" in b.problem
    assert (c.caption, c.problem) == ("", "the caption file is empty")


@pytest.mark.parametrize(
    "name", ["with space", 'it\'s "quoted"', "猫", "🦊 fox", "a,b;c&d=e%20", "-x", "x" * 200, "a.b.c"]
)
def test_odd_names_are_edited_like_others(opened, name):
    if sys.platform == "win32" and '"' in name:
        pytest.skip("Windows has no such names")
    collection = opened({f"{name}.png": "x"})
    collection.apply(ADD, collection.ids)
    assert (collection.folder / f"{name}.txt").read_text(encoding="utf-8") == "new, x"
    collection.undo()
    assert (collection.folder / f"{name}.txt").read_text(encoding="utf-8") == "x"


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_is_no_text_is_left_out_and_said(opened, dataset):
    folder = dataset({"a": "x"})
    os.rename(folder / "a.png", os.path.join(os.fsencode(folder), b"\xff.png"))
    collection = opened({})
    assert collection.items == ()
    assert any("rename" in note for note in collection.notes)


@pytest.mark.parametrize("extension", [".png", "", "../x", ".a.b"])
def test_an_impossible_caption_extension_is_refused(dataset, extension):
    with pytest.raises(StudioError) as fault:
        Collection.open(dataset({"a": "x"}), caption_extension=extension)
    assert fault.value.field == "caption_extension"


def test_another_caption_extension(opened, dataset):
    (dataset({"a": "x"}) / "a.tags").write_text("y", encoding="utf-8")
    collection = opened({}, caption_extension="tags")
    assert captions_of(collection) == {"a": "y"}


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StudioError) as fault:
        Collection.open(tmp_path / "none")
    assert fault.value.field == "folder"


def test_one_folder_is_opened_once_in_a_process(opened):
    collection = opened({"a": "x"})
    again = Collection.open(collection.folder)
    assert again is collection
    again.close()
    assert Collection.open(collection.folder) is collection
    collection.close()
    collection.close()
    other = Collection.open(collection.folder)
    assert other is not collection
    other.close()


def test_progress_is_told(dataset):
    told = []
    folder = dataset({str(number): "x" for number in range(60)})
    Collection.open(folder, progress=lambda *done: told.append(done)).close()
    assert told[-1] == (60, 60)
    assert told == sorted(set(told))


def test_headers_are_kept_for_the_next_opening(opened, monkeypatch):
    collection = opened({"a": "x", "b": "y"})
    for name in ("a", "b"):
        os.utime(collection.folder / f"{name}.png", (1e9, 1e9))
    collection = reopened(reopened(collection))
    Image.new("RGB", (4, 4)).save(collection.folder / "b.png")
    read = []
    from lib_lora.dataset import items

    real = items.read_header
    monkeypatch.setattr(items, "read_header", lambda path: read.append(os.path.basename(path)) or real(path))
    collection = reopened(collection)
    assert read == ["b.png"]
    assert [item.width_px for item in collection.items] == [16, 4]
    collection.close()


def test_a_damaged_header_cache_is_made_anew(opened):
    collection = opened({"a": "x"})
    (collection.folder / ".lora_studio" / "index").write_bytes(b"{")
    assert [item.width_px for item in reopened(collection).items] == [16]


def test_sorts(opened):
    collection = opened({"a": "x, y", "b": "x, y, z", "c": "x"})
    a, b, c = collection.ids
    assert collection.sort([c, a, b]) == [a, b, c]
    assert collection.sort([c, a, b], reverse=True) == [c, b, a]
    assert collection.sort(collection.ids, "tags") == [c, a, b]
    assert collection.sort(collection.ids, "characters", reverse=True) == [b, a, c]
    with pytest.raises(StudioError, match="unknown order"):
        collection.sort(collection.ids, "colour")
    with pytest.raises(StudioError, match="tokenizer"):
        collection.sort(collection.ids, "tokens")
    collection.count_tokens = len
    assert collection.sort(collection.ids, "tokens") == [c, a, b]


# What it writes


def test_an_edit_is_shown_before_and_then_done_in_changed_files_only(opened):
    collection = opened({"a": "red,hat", "b": "new, dress", "c": None})
    preview = collection.preview(ADD, collection.ids)
    a, _, c = collection.ids
    assert (preview.changed, preview.examples) == (2, [(a, "red,hat", "new, red, hat"), (c, "", "new")])
    before = (collection.folder / "b.txt").stat()
    applied = collection.apply(ADD, collection.ids)
    assert (applied.changed, applied.conflicts, applied.entry) == ([a, c], [], 1)
    assert captions_of(collection) == {"a": "new, red, hat", "b": "new, dress", "c": "new"}
    assert (collection.folder / "b.txt").stat() == before
    assert (collection.folder / "c.txt").read_bytes() == b"new"
    assert collection.select("new") == collection.ids
    assert collection.apply(ADD, collection.ids).entry is None


@pytest.mark.parametrize(
    "old, new",
    [
        (b"a, b", b"c"),
        (b"a, b\n", b"c\n"),
        (b"a, b\r\n", b"c\r\n"),
        (b"\r\n  a, b  \r\nsecond line\r\n", b"\r\n  c  \r\nsecond line\r\n"),
        (codecs.BOM_UTF8 + b"a, b\r\n", codecs.BOM_UTF8 + b"c\r\n"),
        (codecs.BOM_UTF16_LE + "a, b\n".encode("utf-16-le"), codecs.BOM_UTF16_LE + "c\n".encode("utf-16-le")),
        (codecs.BOM_UTF16_BE + "å".encode("utf-16-be"), codecs.BOM_UTF16_BE + "c".encode("utf-16-be")),
    ],
)
def test_all_of_a_file_but_its_caption_stays(opened, old, new):
    collection = opened({"a": old})
    collection.set_captions({collection.ids[0]: "c"})
    assert (collection.folder / "a.txt").read_bytes() == new
    collection.undo()
    assert (collection.folder / "a.txt").read_bytes() == old


def test_a_caption_in_another_encoding_is_edited_only_after_it_was_converted(opened):
    latin = "blå hår\nsecond".encode("latin-1")
    collection = opened({"a": latin})
    (number,) = collection.ids
    applied = collection.apply(ADD, [number])
    assert (applied.changed, [who for who, _ in applied.conflicts]) == ([], [number])
    assert "UTF-8" in collection.preview(ADD, [number]).left[0][1]
    assert (collection.folder / "a.txt").read_bytes() == latin
    assert collection.convert_captions([number], "latin-1").changed == [number]
    assert (collection.folder / "a.txt").read_bytes() == "blå hår\nsecond".encode()
    assert collection.item(number).caption == "blå hår"
    collection.undo()
    assert (collection.folder / "a.txt").read_bytes() == latin
    assert collection.item(number).problem
    assert collection.convert_captions([number], "ascii").conflicts[0][0] == number
    with pytest.raises(StudioError, match="encoding"):
        collection.convert_captions([number], "no-such")


def test_no_edit_leaves_an_empty_file(opened):
    collection = opened({"a": "red", "b": "red, hat"})
    a, b = collection.ids
    remove = make_edit("remove", {"tags": "red"})
    assert collection.preview(remove, [a, b]).emptied == 1
    applied = collection.apply(remove, [a, b])
    assert (applied.changed, [who for who, _ in applied.conflicts]) == ([b], [a])
    assert captions_of(collection) == {"a": "red", "b": "hat"}
    applied = collection.apply(remove, [a], remove_empty=True)
    assert applied.changed == [a]
    assert not (collection.folder / "a.txt").exists()
    assert collection.item(a).caption is None
    collection.undo()
    assert captions_of(collection)["a"] == "red"


def test_captions_are_deleted_without_their_pictures(opened):
    collection = opened({"a": "red"})
    assert collection.remove_captions(collection.ids).changed == collection.ids
    assert set(files_of(collection.folder)) == {"a.png"}
    collection.undo()
    assert set(files_of(collection.folder)) == {"a.png", "a.txt"}


@pytest.mark.parametrize("text", ["two\nlines", "half \ud83d", "nul\0", ""])
def test_a_text_that_is_no_caption_is_refused(opened, text):
    collection = opened({"a": "red"})
    applied = collection.set_captions({collection.ids[0]: text})
    assert (applied.entry, len(applied.conflicts)) == (None, 1)
    assert captions_of(collection) == {"a": "red"}


def test_what_the_editor_saw_must_still_be_so(opened):
    collection = opened({"a": "red", "b": "blue"})
    a, b = collection.ids
    collection.set_captions({a: "green"}, was={a: "red"})
    applied = collection.set_captions({a: "mine", b: "mine"}, was={a: "red", b: "blue"})
    assert (applied.changed, [who for who, _ in applied.conflicts]) == ([b], [a])
    assert captions_of(collection) == {"a": "green", "b": "mine"}


def test_pictures_that_share_a_caption_file_share_its_edits(opened, dataset):
    dataset({"a.jpg": None})
    collection = opened({"a.png": "red"})
    one, two = collection.ids
    assert collection.apply(ADD, [one]).changed == [one, two]
    applied = collection.set_captions({one: "x", two: "y"})
    assert len(applied.conflicts) == 1
    assert [item.caption for item in collection.items] == ["x", "x"]


# What it takes back


def test_undo_and_redo_of_any_depth_also_after_a_restart(opened):
    collection = opened({"a": "0", "b": None})
    before = files_of(collection.folder)
    states = [before]
    for step in range(40):
        collection.set_captions({number: f"{step}, {number}" for number in collection.ids}, what=f"step {step}")
        states.append(files_of(collection.folder))
    for step in range(40, 20, -1):
        assert collection.undo().what == f"undo step {step - 1}"
        assert files_of(collection.folder) == states[step - 1]
    collection = reopened(collection)
    assert [entry.undone for entry in collection.history()] == [False] * 20 + [True] * 20
    assert collection.redo().what == "redo step 20"
    assert files_of(collection.folder) == states[21]
    collection = reopened(collection)
    while collection.undo():
        pass
    assert files_of(collection.folder) == before
    while collection.redo():
        pass
    assert files_of(collection.folder) == states[40]
    collection.close()


def test_a_new_edit_ends_what_can_be_redone(opened):
    collection = opened({"a": "0"})
    (a,) = collection.ids
    for text in "12":
        collection.set_captions({a: text}, what=text)
    collection.undo()
    collection.set_captions({a: "3"}, what="3")
    assert collection.redo() is None
    assert [entry.what for entry in collection.history()] == ["1", "3"]
    assert [collection.undo().what, collection.undo().what] == ["undo 3", "undo 1"]
    assert captions_of(collection) == {"a": "0"}
    assert collection.undo() is None


def test_a_group_is_undone_and_redone_at_once(opened):
    collection = opened({"a": "0", "b": "0"})
    a, b = collection.ids
    collection.set_captions({a: "own"}, what="by hand")
    for number, text in ((a, "1"), (b, "2"), (a, "3")):
        collection.set_captions({number: text}, what="tag", group="run 1")
    assert [(entry.what, entry.count) for entry in collection.history()] == [("by hand", 1), ("tag", 3)]
    assert collection.undo().changed == [a, b]
    assert captions_of(collection) == {"a": "own", "b": "0"}
    assert [entry.undone for entry in collection.history()] == [False, True]
    collection.redo()
    assert captions_of(collection) == {"a": "3", "b": "2"}
    collection = reopened(collection)
    collection.undo()
    assert captions_of(collection) == {"a": "own", "b": "0"}
    collection.close()


def test_large_edits_too(opened):
    text = "a long tag, " * 600
    collection = opened({"a": text, "b": text})
    collection.apply(ADD, collection.ids)
    assert (collection.folder / ".lora_studio" / "edits" / "000001.json.z").exists()
    collection = reopened(collection)
    collection.undo()
    assert captions_of(collection) == {"a": text.strip(), "b": text.strip()}
    collection.close()


def test_undo_leaves_what_another_program_wrote(opened):
    collection = opened({"a": "0", "b": "0"})
    a, b = collection.ids
    collection.set_captions({a: "1", b: "1"})
    (collection.folder / "a.txt").write_text("theirs", encoding="utf-8")
    applied = collection.undo()
    assert (applied.changed, [who for who, _ in applied.conflicts]) == ([b], [a])
    assert captions_of(collection) == {"a": "theirs", "b": "0"}


def test_the_first_state_is_kept_whatever_happens_to_the_history(opened):
    collection = opened({"a": "first", "b": None})
    a, b = collection.ids
    for text in "12":
        collection.set_captions({a: text, b: text})
    collection = reopened(collection)
    collection.set_captions({a: "3"})
    assert collection.restore_first([a, b]).changed == [a, b]
    assert captions_of(collection) == {"a": "first", "b": None}
    collection.undo()
    assert captions_of(collection) == {"a": "3", "b": "2"}
    collection.close()


# What others do


def test_a_caption_changed_by_another_program_is_not_overwritten(opened):
    collection = opened({"a": "red", "b": "red"})
    a, b = collection.ids
    path = collection.folder / "a.txt"
    stat = path.stat()
    path.write_text("rot", encoding="utf-8")  # as long as before, and as old
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    applied = collection.apply(ADD, [a, b])
    assert (applied.changed, [who for who, _ in applied.conflicts]) == ([b], [a])
    assert path.read_text(encoding="utf-8") == "rot"
    assert collection.item(a).caption == "rot"  # and from now on it is known
    assert collection.apply(ADD, [a]).changed == [a]


@pytest.mark.parametrize("old", ["red", None])
def test_a_caption_that_came_or_went_is_not_overwritten(opened, old):
    collection = opened({"a": old})
    path = collection.folder / "a.txt"
    if old:
        path.unlink()
    else:
        path.write_text("theirs", encoding="utf-8")
    applied = collection.set_captions({collection.ids[0]: "mine"})
    assert len(applied.conflicts) == 1
    assert path.exists() == (old is None)
    assert captions_of(collection) == {"a": None if old else "theirs"}


def test_refresh_says_what_others_did_and_keeps_ids(opened, dataset):
    collection = opened({"a": "1", "b": "2", "c": "3"})
    a, b, c = collection.ids
    version = collection.version
    assert not collection.refresh()
    assert collection.version == version
    (collection.folder / "b.png").unlink()
    (collection.folder / "c.txt").write_text("4", encoding="utf-8")
    dataset({"bb": "5"})
    changes = collection.refresh()
    (added,) = changes.added
    assert (changes.removed, changes.changed) == ([b], [c])
    assert collection.version > version
    assert collection.ids == [a, added, c]
    assert captions_of(collection) == {"a": "1", "bb": "5", "c": "4"}
    assert collection.tag_counts() == [("1", 1), ("4", 1), ("5", 1)]
    assert collection.select("") == [a, added, c]
    dataset({"b": "2"})
    assert collection.refresh().added == [b]
    with pytest.raises(StudioError):
        collection.item(99)


_EDIT = """
import sys
from lib_lora.dataset.collection import Collection
collection = Collection.open(sys.argv[1])
for step in range(int(sys.argv[3])):
    for number in collection.ids:
        caption = collection.item(number).caption
        done = collection.set_captions({number: caption + ", " + sys.argv[2] + str(step)}, was={number: caption})
        while done.conflicts:
            caption = collection.item(number).caption
            done = collection.set_captions({number: caption + ", " + sys.argv[2] + str(step)}, was={number: caption})
"""


def run_beside(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stderr=subprocess.PIPE)


def test_two_processes_and_two_threads_lose_none_of_each_others_edits(opened):
    collection = opened({"a": "0", "b": "0"})
    other = run_beside(_EDIT, collection.folder, "x", 15)

    def edit(word: str) -> None:
        for step in range(15):
            collection.apply(make_edit("add", {"tags": f"{word}{step}"}), collection.ids)

    threads = [threading.Thread(target=edit, args=(word,)) for word in "yz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait(60) == 0, other.stderr.read()
    collection.refresh()
    expected = {"0", *(f"{word}{step}" for word in "xyz" for step in range(15))}
    assert [set(item.tags) for item in collection.items] == [expected, expected]
    while collection.undo():
        pass
    assert captions_of(collection) == {"a": "0", "b": "0"}


def test_another_process_edits_are_taken_in_and_undone_here(opened):
    collection = opened({"a": "0", "b": "0"})
    collection.apply(ADD, collection.ids)
    other = run_beside(_EDIT, collection.folder, "x", 1)
    assert other.wait(60) == 0, other.stderr.read()
    applied = collection.apply(make_edit("add", {"tags": "y"}), collection.ids)
    assert applied.conflicts == []
    assert captions_of(collection) == {"a": "new, 0, x0, y", "b": "new, 0, x0, y"}
    assert len(collection.history()) == 4
    while collection.undo():
        pass
    assert captions_of(collection) == {"a": "0", "b": "0"}


def test_the_first_edit_of_all_may_be_another_process_s(opened):
    collection = opened({"a": "0"})
    other = run_beside(_EDIT, collection.folder, "x", 1)
    assert other.wait(60) == 0, other.stderr.read()
    assert collection.apply(make_edit("add", {"tags": "y"}), collection.ids).conflicts == []
    assert captions_of(collection) == {"a": "0, x0, y"}


def test_a_picture_that_another_process_moves_keeps_its_id_here(opened):
    collection = opened({"a": "0", "b": "1"})
    a, b = collection.ids
    code = (
        "import sys\nfrom lib_lora.dataset.collection import Collection\nc = Collection.open(sys.argv[1])\n"
        "c.rename(c.item_named('a.png').id, 'z')"
    )
    other = run_beside(code, collection.folder)
    assert other.wait(60) == 0, other.stderr.read()
    assert collection.refresh().changed == [a]
    assert collection.ids == [b, a]
    assert collection.item(a).name == "z.png"


def test_folders_are_opened_beside_one_another_and_one_only_once(dataset, monkeypatch):
    import lib_lora.dataset.collection as module

    slow, quick = dataset({"a": "x"}, "slow"), dataset({"a": "x"}, "quick")
    begun, go = threading.Event(), threading.Event()
    real = module.list_pictures

    def list_pictures(root, **options):
        if root.name == "slow":
            begun.set()
            assert go.wait(20)
        return real(root, **options)

    monkeypatch.setattr(module, "list_pictures", list_pictures)
    found = []
    threads = [threading.Thread(target=lambda: found.append(Collection.open(slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    Collection.open(quick).close()
    go.set()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]
    for collection in found:
        collection.close()


def test_a_process_waits_for_another_that_writes(opened):
    collection = opened({"a": "0"})
    hold = (
        "import sys, time, pathlib\nfrom lib_lora.dataset.journal import Journal\n"
        "with Journal(pathlib.Path(sys.argv[1])).locked():\n    print('held', flush=True); time.sleep(0.5)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(collection.folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout.readline().strip() == b"held"
    begin = time.monotonic()
    assert collection.apply(ADD, collection.ids).changed
    assert time.monotonic() - begin > 0.2
    other.wait(30)


# Where it cannot write


def test_a_folder_that_cannot_be_written_opens_and_says_so(opened, dataset):
    (dataset({"a": "red"}) / ".lora_studio").write_bytes(b"")  # a file where our folder should be
    collection = opened({})
    assert "cannot be written" in collection.read_only
    assert captions_of(collection) == {"a": "red"}
    assert collection.select("red") == collection.ids
    assert collection.preview(ADD, collection.ids).changed == 1
    for act in (lambda: collection.apply(ADD, collection.ids), collection.undo, collection.redo):
        with pytest.raises(StudioError, match="nothing can be written"):
            act()
    assert collection.history() == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to become another user")
def test_a_read_only_folder_opens_with_its_history(opened):
    collection = opened({"a": "red"})
    collection.apply(ADD, collection.ids)
    collection.close()
    for path in (*collection.folder.parents, collection.folder, collection.folder / ".lora_studio"):
        if path.is_relative_to(tempfile.gettempdir()) and path != Path(tempfile.gettempdir()):
            path.chmod(0o755)
    code = (
        "import os, sys\nfrom lib_lora.dataset.collection import Collection\n"
        "Collection.open(sys.argv[1]).close()  # whatever Python loads late: the other user may not be able to\n"
        "os.setegid(65534); os.seteuid(65534)\n"
        "c = Collection.open(sys.argv[1])\nprint(c.read_only)\nprint([i.caption for i in c.items], len(c.history()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(collection.folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    reason, rest = done.stdout.splitlines()
    assert "no permission" in reason
    assert rest == "['new, red'] 1"


def test_a_write_protected_caption_is_left_and_the_others_are_written(opened, monkeypatch):
    collection = opened({"a": "red", "b": "red"})
    a, b = collection.ids
    real = os.access
    # For root nothing is protected.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.txt") and real(path, mode))
    applied = collection.apply(ADD, [a, b])
    assert (applied.changed, applied.conflicts) == ([b], [(a, "is write-protected")])


def test_a_full_disk_changes_nothing_and_is_no_entry(opened, monkeypatch):
    collection = opened({"a": "red", "b": "red"})
    before = files_of(collection.folder)
    from lib_lora.files import atomic

    real = atomic._write_temporary

    def full(target: str, temporary: str, data: bytes) -> None:
        if target.endswith("b.txt"):
            raise OSError(28, "No space left on device", temporary)
        real(target, temporary, data)

    monkeypatch.setattr(atomic, "_write_temporary", full)
    with pytest.raises(StudioError, match="disk is full"):
        collection.apply(ADD, collection.ids)
    monkeypatch.undo()
    assert files_of(collection.folder) == before
    assert collection.history() == []
    assert collection.undo() is None
    assert reopened(collection).history() == []
    assert collection.apply(ADD, collection.ids).changed == collection.ids


def test_a_rename_that_is_refused_half_way_takes_the_others_back(opened, monkeypatch):
    collection = opened({"a": "red", "b": "red"})
    collection.apply(ADD, collection.ids)
    before = files_of(collection.folder)
    from lib_lora.files import atomic

    real = atomic._replace

    def refuse(temporary: str, target: str) -> None:
        if str(target).endswith("b.txt"):
            raise PermissionError(13, "Permission denied", str(target))
        real(temporary, target)

    monkeypatch.setattr(atomic, "_replace", refuse)
    with pytest.raises(StudioError, match="permission"):
        collection.undo()
    monkeypatch.undo()
    assert files_of(collection.folder) == before
    assert [entry.undone for entry in collection.history()] == [False]
    assert collection.undo().changed == collection.ids
    assert captions_of(collection) == {"a": "red", "b": "red"}


# What a killed process leaves


def journal_lines(collection: Collection) -> list[bytes]:
    return (collection.folder / ".lora_studio" / "journal.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("written", [[], ["a"], ["a", "b"]])
def test_an_edit_that_was_cut_off_is_finished_at_the_next_opening(opened, written):
    collection = opened({"a": "red", "b": "blue"})
    old = files_of(collection.folder)
    collection.apply(ADD, collection.ids)
    new = files_of(collection.folder)
    collection.close()
    for name in {"a", "b"} - set(written):
        (collection.folder / f"{name}.txt").write_bytes(old[f"{name}.txt"])
    leftovers = [".a.txt.0123456789ab.tmp", ".lora_studio/.index.0123456789ab.tmp"]
    for name in leftovers:
        (collection.folder / name).write_bytes(b"ne")
    lines = journal_lines(collection)
    (collection.folder / ".lora_studio" / "journal.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:5])
    again = Collection.open(collection.folder)
    assert files_of(collection.folder) == new
    assert not [name for name in leftovers if (collection.folder / name).exists()]
    assert any("cut off" in note for note in again.notes)
    again.undo()
    assert files_of(collection.folder) == old
    again.close()


def test_recovery_leaves_what_another_program_wrote_since(opened):
    collection = opened({"a": "red", "b": "blue"})
    collection.apply(ADD, collection.ids)
    collection.close()
    (collection.folder / "a.txt").write_text("theirs", encoding="utf-8")
    (collection.folder / "b.txt").write_text("blue", encoding="utf-8")
    (collection.folder / ".lora_studio" / "journal.jsonl").write_bytes(journal_lines(collection)[0])
    again = Collection.open(collection.folder)
    assert captions_of(again) == {"a": "theirs", "b": "new, blue"}
    again.undo()
    assert captions_of(again) == {"a": "theirs", "b": "blue"}
    again.close()


def test_a_line_of_the_journal_that_was_cut_off_did_nothing(opened):
    collection = opened({"a": "red"})
    collection.apply(ADD, collection.ids)
    collection.close()
    path = collection.folder / ".lora_studio" / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b'{"number":3,"do":"edit","chan')
    again = Collection.open(collection.folder)
    assert [entry.number for entry in again.history()] == [1]
    again.apply(make_edit("add", {"tags": "more"}), again.ids)
    assert all(json.loads(line) for line in journal_lines(again))
    again = reopened(again)
    assert len(again.history()) == 2
    again.close()


def test_a_damaged_line_is_said_and_the_rest_is_used(opened):
    collection = opened({"a": "red"})
    for tag in ("x", "y"):
        collection.apply(make_edit("add", {"tags": tag}), collection.ids)
    lines = journal_lines(collection)
    collection.close()
    (collection.folder / ".lora_studio" / "journal.jsonl").write_bytes(b"\0" * 20 + b"\n" + b"".join(lines[1:]))
    again = Collection.open(collection.folder)
    assert any("journal" in note for note in again.notes)
    again.undo()
    assert captions_of(again) == {"a": "red, x"}
    again.close()


def test_an_edit_that_was_cut_off_and_cannot_be_read_blocks_nothing(opened):
    text = "a long tag, " * 600
    collection = opened({"a": text, "b": "red"})
    collection.apply(make_edit("add", {"tags": "x"}), collection.ids[1:])
    collection.apply(ADD, collection.ids)
    collection.close()
    home = collection.folder / ".lora_studio"
    (home / "journal.jsonl").write_bytes(b"".join(journal_lines(collection)[:-1]))
    (home / "edits" / "000002.json.z").write_bytes(b"damaged")
    again = Collection.open(collection.folder)
    assert again.read_only is None
    assert captions_of(again)["b"] == "new, red, x"
    again.set_captions({again.ids[1]: "green"})
    again.undo()
    again.undo()  # the one before the damaged one, which another text stands in the way of
    assert captions_of(again)["b"] == "new, red, x"
    again.close()


def test_a_damaged_entry_among_undone_ones_is_left_out(opened):
    collection = opened({"a": "red"})
    for tag in ("x", "y"):
        collection.apply(make_edit("add", {"tags": tag}), collection.ids)
    collection.undo()
    lines = journal_lines(collection)
    collection.close()
    lines[2] = b"{}\n"
    (collection.folder / ".lora_studio" / "journal.jsonl").write_bytes(b"".join(lines))
    again = Collection.open(collection.folder)
    assert captions_of(again) == {"a": "red, x"}
    assert again.redo() is None
    again.undo()
    assert captions_of(again) == {"a": "red"}
    again.close()


def test_the_history_is_forgotten_and_goes_on_also_where_another_program_has_the_dataset_open(opened):
    collection = opened({"a": "red", "b": "blue", "c": "green"})
    other = Journal(collection.folder)
    other.read()
    big = "tag, " * 3000
    first = collection.item_named("a.png").id
    collection.set_captions({first: big})
    collection.trash([collection.item_named("b.png").id])
    home = collection.folder / ".lora_studio"
    assert any((home / "edits").iterdir())
    other.read()
    number = other.next_number
    kept = collection.kept()
    assert kept.trash_files == 2 and kept.history_bytes > 0

    collection.forget_history()
    assert collection.history() == [] and collection.undo() is None and collection.redo() is None
    assert not (home / "trash").exists() and not (home / "edits").exists()
    assert collection.kept().trash_files == 0 and collection.kept().history_bytes < kept.history_bytes
    assert collection.item(first).caption == big.strip()
    # More than what the other one has read of the old journal: it is not taken for that one's end.
    for index in range(20):
        collection.set_captions({first: f"red, number {index}"})
    other.read()
    assert other.damaged_lines == 0 and other.next_number == number + 21
    assert [entry.number for entry in other.history()] == [entry.number for entry in collection.history()]
    collection.undo()
    assert collection.item(first).caption == "red, number 18"
    collection.restore_first([first])
    assert collection.item(first).caption == "red"
    collection.close()
    again = opened({})
    assert [entry.what for entry in again.history()] == ["edit"] * 19 + ["restore first captions"]


def test_a_history_that_is_forgotten_halfway_leaves_nothing_that_can_be_undone(opened, monkeypatch):
    collection = opened({"a": "red", "b": "blue"})
    collection.trash([collection.item_named("b.png").id])
    monkeypatch.setattr(Journal, "_delete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        collection.forget_history()
    monkeypatch.undo()
    collection.close()
    again = opened({})
    assert again.history() == [] and again.kept().trash_files == 2
    again.forget_history()
    assert again.kept().trash_files == 0


@pytest.mark.parametrize(("others", "ending"), [(b"red", b""), (b"red\n", b"\n"), (b"red\r\n", b"\r\n"), (None, b"")])
def test_new_caption_files_end_as_the_others_do(opened, others, ending):
    collection = opened({"a": others, "b": None})
    staged = collection.staging() / "x.png"
    Image.new("RGB", (8, 8)).save(staged)
    collection.add_files({"c.png": staged}, captions={"c.png": "blue"})
    collection.set_captions({item.id: "hat" for item in collection.items if item.name == "b.png"})
    assert (collection.folder / "c.txt").read_bytes() == b"blue" + ending
    assert (collection.folder / "b.txt").read_bytes() == b"hat" + (ending if others else b"")
