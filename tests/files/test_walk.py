from __future__ import annotations

import os

from lib_lora.files.walk import walk


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def seen(root):
    return sorted((place / name).relative_to(root).as_posix() for place, _, files in walk(root) for name in files)


def test_links_are_followed_and_circles_end(tmp_path):
    make(tmp_path, "in/a/1", "out/2")
    os.symlink(tmp_path / "out", tmp_path / "in" / "link")
    os.symlink(tmp_path / "in", tmp_path / "in" / "a" / "circle")
    assert seen(tmp_path / "in") == ["a/1", "link/2"]


def test_hidden_folders_and_those_taken_out_are_left_out(tmp_path):
    make(tmp_path, ".hidden/1", "a/2", "b/c/3")
    assert seen(tmp_path) == ["a/2", "b/c/3"]
    found = []
    for place, folders, _ in walk(tmp_path):
        found.append(place.name)
        if place.name == "b":
            folders.clear()
    assert found == [tmp_path.name, "a", "b"]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert seen(tmp_path / "nowhere") == []
