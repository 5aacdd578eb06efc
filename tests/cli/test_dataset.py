"""``dataset`` on the command line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from lib_lora.cli.main import main


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "2_zorb"
    folder.mkdir()
    for name, caption in (("a", "1girl, red hair"), ("b", "1girl, hat"), ("c", None)):
        Image.new("RGB", (16, 8)).save(folder / f"{name}.png")
        if caption:
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    return folder


@pytest.fixture
def run(folder, capsys):
    def dataset(what: str, *flags: str) -> tuple[int, str]:
        code = main(["dataset", what, str(folder), *flags])
        output = capsys.readouterr()
        return code, output.out + output.err

    return dataset


def test_scan_and_filter(run):
    code, text = run("scan")
    assert code == 0
    assert "3 pictures, 2 with a caption, 3 different tags" in text
    assert run("filter", "1girl -hat", "--captions") == (0, "a.png: 1girl, red hair\n")
    assert run("filter", "", "--sort", "tags", "--reverse")[1].split() == ["a.png", "b.png", "c.png"]
    code, text = run("filter", "(1girl")
    assert code == 1
    assert "position 7" in text


def test_tokens_are_counted_with_the_vocabulary_that_there_is(run, monkeypatch, tmp_path):
    from lib_lora.models import clip_assets
    from tiny import write_clip_folder

    clip_assets.token_counter.cache_clear()
    write_clip_folder(tmp_path / "clip")
    monkeypatch.setattr(clip_assets, "vocabulary_folder", lambda folder, **_: tmp_path / "clip")
    assert run("filter", "tokens>0 -tokens>100000") == (0, "a.png\nb.png\n")
    code, text = run("edit", "truncate", "--tokens", "1", "--dry_run")
    assert code == 0
    assert "2 of 3 captions would change" in text
    clip_assets.token_counter.cache_clear()


def test_an_edit_is_previewed_made_undone_and_redone(run, folder):
    code, text = run("edit", "add", "--tags", "zorb", "--at", "front", "--where", "hat", "--dry_run")
    assert code == 0
    assert "1 of 1 captions would change" in text
    assert "+ zorb, 1girl, hat" in text
    assert (folder / "b.txt").read_text(encoding="utf-8") == "1girl, hat"
    assert run("edit", "add", "--tags", "zorb", "--at", "front", "--where", "hat") == (0, "add zorb: 1 picture\n")
    assert (folder / "b.txt").read_text(encoding="utf-8") == "zorb, 1girl, hat"
    assert "add zorb" in run("history")[1]
    assert run("undo")[0] == 0
    assert (folder / "b.txt").read_text(encoding="utf-8") == "1girl, hat"
    assert "(undone)" in run("history")[1]
    assert run("redo")[0] == 0
    assert run("redo")[0] == 1
    assert run("restore") == (0, "restore first captions: 1 picture\n")
    assert (folder / "b.txt").read_text(encoding="utf-8") == "1girl, hat"


def test_what_is_left_is_said(run, folder):
    code, text = run("edit", "remove", "--tags", "1girl,hat")
    assert code == 1
    assert "remove 1girl, hat: 1 picture" in text
    assert "left as it is: b.png" in text
    assert run("edit", "remove", "--tags", "1girl,hat", "--remove_empty")[0] == 0
    assert not (folder / "b.txt").exists()


def test_a_bad_option_is_an_error_at_its_field(run):
    assert run("edit", "add") == (1, "error: tags: must be given; allowed: tags with commas between them\n")


def test_files(run, folder):
    assert run("move", "sub", "--where", "hat") == (0, "move to sub: 1 picture\n")
    assert (folder / "sub" / "b.txt").exists()
    assert run("copy", "copies", "--where", "red_hair")[0] == 0
    assert (folder / "copies" / "a.png").exists()
    code, text = run("trash")
    assert code == 1
    assert "where" in text
    assert run("trash", "--where", "path:*")[0] == 0
    assert not list(folder.glob("*.png"))
    for _ in range(3):
        assert run("undo")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [".lora_studio", "a.png", "a.txt", "b.png", "b.txt", "c.png", "sub", "copies"]
    )


def test_a_picture_tool_makes_new_pictures_beside_or_in_place_of_the_old_ones(run, folder):
    code, text = run("picture", "crop", "--right", "8", "--bottom", "8", "--where", "hat")
    assert code == 0 and "crop: 1 of 1 pictures: 1 picture\n" in text
    assert Image.open(folder / "b-crop.png").size == (8, 8)
    assert (folder / "b-crop.txt").read_text(encoding="utf-8") == "1girl, hat"
    assert run("picture", "resize", "--px", "8", "--side", "longest", "--over", "--where", "name:a")[0] == 0
    assert Image.open(folder / "a.png").size == (8, 4)
    for _ in range(2):
        assert run("undo")[0] == 0
    assert Image.open(folder / "a.png").size == (16, 8) and not (folder / "b-crop.png").exists()


def test_a_picture_tool_says_what_it_made_nothing_of_and_does_not_take_all_unasked(run):
    code, text = run("picture", "split", "--aspect", "3", "--where", "path:*")
    assert code == 1 and "left as it is: a.png: it is not longer" in text
    code, text = run("picture", "flip")
    assert code == 1 and "where" in text


def test_a_picture_gets_another_name_with_its_caption(run, folder):
    assert run("rename", "a.png", "zorb") == (0, "rename a to zorb: 1 picture\n")
    assert (folder / "zorb.txt").read_text(encoding="utf-8") == "1girl, red hair"
    assert run("rename", "a.png", "zorb")[0] == 1
    assert run("undo")[0] == 0 and (folder / "a.txt").exists()


def test_captions_are_deleted_and_come_back(run, folder):
    assert run("captions", "delete")[0] == 1
    assert run("captions", "delete", "--where", "hat") == (0, "delete captions: 1 picture\n")
    assert not (folder / "b.txt").exists() and (folder / "a.txt").exists() and (folder / "b.png").exists()
    assert run("undo")[0] == 0 and (folder / "b.txt").exists()


def test_masks_are_made_listed_and_removed(run, folder):
    assert run("mask", "make")[0] == 1  # nothing chosen does not mean all
    code, text = run("mask", "make", "--where", "hat", "--source", "box", "--right", "8", "--bottom", "8")
    assert code == 0 and text.startswith("masks (box): 1 picture\n")
    with Image.open(folder / "masks" / "b.png") as mask:
        assert (mask.size, mask.getpixel((7, 7)), mask.getpixel((8, 7))) == ((16, 8), 255, 0)
    assert run("mask", "list") == (0, "b.png: 50%\n1 of 3 pictures have a mask\n")
    code, text = run("mask", "make", "--where", "path:*")
    assert code == 1 and "a.png: no part of it is transparent" in text
    assert run("mask", "remove", "--where", "path:*") == (0, "remove masks: 1 picture\n")
    assert not (folder / "masks" / "b.png").exists()
    assert run("undo")[0] == 0 and (folder / "masks" / "b.png").exists()


def test_metadata_in_and_out(run, folder, tmp_path):
    file = tmp_path / "meta.json"
    assert run("metadata_out", str(file), "--keys", "name") == (0, f"2 captions in {file}\n")
    assert run("metadata_out", str(file))[0] == 1
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content == {"a.png": {"tags": "1girl, red hair"}, "b.png": {"tags": "1girl, hat"}}
    file.write_text(json.dumps({"c": {"tags": ["new"]}, "a": {"tags": "x"}, "z": {"tags": "y"}}), encoding="utf-8")
    code, text = run("metadata_in", str(file))
    assert code == 0
    assert "z: no picture has this name" in text
    assert (folder / "c.txt").read_text(encoding="utf-8") == "new"
    assert (folder / "a.txt").read_text(encoding="utf-8") == "1girl, red hair"


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["dataset", "scan", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err
