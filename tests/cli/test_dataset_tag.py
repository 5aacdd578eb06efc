"""``dataset tag`` on the command line, with a small ONNX tagger."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lib_lora.cli.main import main
from tiny_taggers import write_tagger


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in {"a": (0, 0, 255), "b": (0, 255, 0), "c": (0, 0, 0)}.items():
        Image.new("RGB", (24, 24), colour).save(folder / f"{name}.png")
    write_tagger(tmp_path / "models" / "tiny")
    return folder


def tag(folder: Path, *more: str) -> int:
    models = str(folder.parent / "models")
    return main(["dataset", "tag", str(folder), "--taggers", "tiny", "--tagger_dir", models, *more])


def captions(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


def test_captions_are_written_and_taken_back_at_once(folder, capsys):
    assert tag(folder, "--always_add", "zorb", "--cpu_threads", "1") == 0
    assert captions(folder) == {"a": "zorb, 1girl", "b": "zorb, long hair"}
    out = capsys.readouterr().out
    assert "3 pictures: 3 looked at" in out and "2 captions written" in out
    assert "1 for which no tag was found" in out
    assert main(["dataset", "undo", str(folder)]) == 0
    assert captions(folder) == {}


def test_a_second_run_moves_thresholds_without_the_model(folder, capsys):
    tag(folder)
    assert tag(folder, "--policy", "overwrite", "--exclude", "1girl", "--first_tags", "dog") == 0
    assert "0 looked at, 0 captions written" in capsys.readouterr().out
    assert tag(folder, "--policy", "append", "--replace", "long hair => hair") == 0
    assert captions(folder) == {"a": "1girl", "b": "long hair, hair"}


def test_thresholds_are_moved_with_what_was_said_and_without_the_tagger(folder, capsys):
    tag(folder)
    (folder.parent / "models" / "tiny" / "model.onnx").unlink()
    capsys.readouterr()
    other = ["--policy", "overwrite", "--always_add", "zorb"]
    assert tag(folder, "--dry_run", *other) == 0
    out = capsys.readouterr().out
    assert "tiny: 3 of 3 pictures looked at" in out and "2 captions would change" in out
    assert "- 1girl\n    + zorb, 1girl" in out
    assert captions(folder) == {"a": "1girl", "b": "long hair"}
    assert tag(folder, "--from_scores", *other) == 0
    assert captions(folder) == {"a": "zorb, 1girl", "b": "zorb, long hair"}
    assert "tag: 2 pictures" in capsys.readouterr().out
    assert main(["dataset", "undo", str(folder)]) == 0
    assert captions(folder) == {"a": "1girl", "b": "long hair"}


def test_from_scores_writes_nothing_for_pictures_nobody_has_looked_at(folder, capsys):
    assert tag(folder, "--from_scores") == 0
    assert captions(folder) == {}
    assert "tiny: 0 of 3 pictures looked at" in capsys.readouterr().out


def test_only_the_pictures_of_a_filter(folder):
    (folder / "a.txt").write_text("dog", encoding="utf-8")
    assert tag(folder, "--where", "dog", "--policy", "append") == 0
    assert captions(folder) == {"a": "dog, 1girl"}


def test_where_captions_and_taggers_differ(folder, capsys):
    tag(folder)
    (folder / "a.txt").write_text("long hair", encoding="utf-8")
    assert tag(folder, "--compare") == 0
    out = capsys.readouterr().out
    assert "tiny: 3 of 3 pictures looked at" in out
    assert "1girl: missing on 1, such as a.png (1.00)" in out
    assert "long hair: doubted on 1, such as a.png (0.00)" in out
    assert captions(folder)["a"] == "long hair"


def test_what_could_not_be_read_is_told_and_ends_with_one(folder, capsys):
    (folder / "a.png").write_bytes(b"no picture")
    assert tag(folder) == 1
    assert "cannot be read: a.png" in capsys.readouterr().out
    assert captions(folder) == {"b": "long hair"}


def test_an_unknown_tagger_is_an_error_that_names_the_known_ones(folder, capsys):
    assert tag(folder, "--taggers", "nobody") == 1
    error = capsys.readouterr().err
    assert "unknown tagger" in error and "wd-swinv2-tagger-v3" in error and "tiny" in error
