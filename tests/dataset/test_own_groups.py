"""Groups of tags that a person has made."""

from __future__ import annotations

import os

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.dataset.own_groups import OwnGroups, parse_groups


def test_a_tag_is_in_the_first_group_that_has_it_however_it_is_written(tmp_path):
    groups = OwnGroups(tmp_path / "new" / "tag_groups.txt")
    assert groups.finder()("hat") == "" and groups.text == ""
    groups.write("outfit: hat, * dress\n\n# a note\nred things: red *\n")
    find = groups.finder()
    assert [find(tag) for tag in ("Hat", "red_dress", "red hair", "dress", "sky")] == [
        "outfit",
        "outfit",
        "red things",
        "",
        "",
    ]


def test_what_is_written_by_hand_is_read_and_a_mistake_is_told(tmp_path):
    path = tmp_path / "tag_groups.txt"
    groups = OwnGroups(path)
    path.write_text("outfit: hat\n", encoding="utf-8")
    assert [group.name for group in groups.groups] == ["outfit"]
    path.write_bytes(b"outfit \xff")
    os.utime(path, ns=(1, 1))
    assert groups.groups == () and "is not used" in groups.problem
    path.unlink()
    assert groups.text == "" and groups.problem is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hat", "line 1"),
        ("a: x\n: y", "line 2"),
        ("a:", "line 1"),
        ("a: x\na: y", "twice"),
        ("n" * 41 + ": x", "line 1"),
    ],
)
def test_what_is_no_group_is_refused_by_its_line(text, problem, tmp_path):
    with pytest.raises(StudioError, match=problem):
        parse_groups(text)
    groups = OwnGroups(tmp_path / "groups.txt")
    with pytest.raises(StudioError):
        groups.write(text)
    assert not (tmp_path / "groups.txt").exists()
