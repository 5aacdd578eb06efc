"""Saved lists of prompts."""

from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.evaluate.prompt_lists import PromptLists


@pytest.fixture
def lists(tmp_path):
    return PromptLists(tmp_path / "prompts")


def test_what_is_saved_is_read_again(lists):
    assert lists.names() == []
    lists.save("mine", ["a cat, red", " ein Hund, grün "])
    lists.save("mine too", ["x"])
    assert lists.names() == ["mine", "mine too"] and lists.read("mine") == ("a cat, red", "ein Hund, grün")
    lists.save("mine", ["only this"])
    assert lists.read("mine") == ("only this",)
    lists.remove("mine")
    assert lists.names() == ["mine too"]


def test_a_person_s_own_file_may_have_remarks_and_empty_lines(lists):
    lists.folder.mkdir()
    (lists.folder / "own.txt").write_text("\ufeff# of mine\n\n a cat \r\na dog", encoding="utf-8")
    assert lists.read("own") == ("a cat", "a dog")


@pytest.mark.parametrize(
    "name, prompts, field",
    [
        ("../out", ["a"], "name"),
        ("", ["a"], "name"),
        ("mine", [], "prompts"),
        ("mine", ["a\nb"], "prompts"),
        ("mine", [" "], "prompts"),
        ("mine", [3], "prompts"),
        ("mine", ["# a"], "prompts"),
    ],
)
def test_what_cannot_be_saved_is_said(lists, name, prompts, field):
    with pytest.raises(StudioError) as caught:
        lists.save(name, prompts)
    assert caught.value.field == field and lists.names() == []


def test_one_that_is_not_there_is_said(lists):
    for act in (lists.read, lists.remove):
        with pytest.raises(StudioError, match="no such list"):
            act("none")
