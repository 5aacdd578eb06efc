"""Lists of tags as people have them, and looking among their tags."""

from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.dataset.tag_lists import MOST_LISTS, TagLists

BOORU = """1girl,0,6000000,"1girls,sole_female"
long_hair,0,4300000,/lh
hatsune_miku,4,100000,miku
fate_(series),3,90000,
^_^,0,5000,
translation_request,5,9000,
"""
TAGGER = "tag_id,name,category,count\n1,general,9,800\n2,1girl,0,700\n3,hatsune_miku,4,60\n"


@pytest.fixture
def lists(tmp_path):
    return TagLists(tmp_path / "tags")


def tags(found):
    return [each.tag for each in found]


def test_tags_are_found_by_any_part_of_their_names_the_most_frequent_first(lists):
    assert len(lists.known()) == 0 and lists.known().search("a", 5) == []
    lists.add("booru.csv", BOORU)
    known = lists.known()
    assert tags(known.search("i", 9)) == ["1girl", "long hair", "hatsune miku", "fate (series)", "translation request"]
    assert tags(known.search("LONG_h", 9)) == ["long hair"] and tags(known.search("^_^", 9)) == ["^_^"]
    assert tags(known.search("i", 2)) == ["1girl", "long hair"]
    assert known.search("", 9) == [] and known.search("no such", 9) == []


def test_other_names_lead_to_a_tag(lists):
    lists.add("booru.csv", BOORU)
    (found,) = lists.known().search("sole female", 5)
    assert (found.tag, found.alias, found.posts) == ("1girl", "sole female", 6000000)


def test_categories_are_the_lists(lists):
    lists.add("booru.csv", BOORU)
    categories = lists.known().categories
    assert categories["hatsune miku"] == "character" and categories["fate (series)"] == "copyright"
    assert categories["translation request"] == "meta" and categories["long hair"] == "general"
    ranks = lists.known().ranks
    assert ranks["hatsune miku"] < ranks["fate (series)"] < ranks["long hair"] < ranks["translation request"]
    lists.add("my e621.csv", "fox,5,9\n")
    assert lists.known().categories["fox"] == "species"


def test_a_list_with_a_head_is_read_by_its_names(lists):
    lists.add("selected_tags.csv", "\ufeff" + TAGGER)
    known = lists.known()
    assert tags(known.search("1girl", 5)) == ["1girl"] and known.categories["general"] == "rating"
    assert known.search("miku", 5)[0].posts == 60


def test_of_a_tag_in_several_lists_the_first_counts_and_lists_come_and_go(lists):
    lists.add("a.csv", "cat,4,5\n")
    lists.add("b.csv", "cat,0,9\ndog,0,1\n")
    assert lists.names() == ["a.csv", "b.csv"] and lists.known().categories["cat"] == "character"
    lists.remove("a.csv")
    assert lists.known().categories["cat"] == "general"
    lists.add("b.csv", "bird,0,1\n")
    assert tags(lists.known().search("i", 5)) == ["bird"] and len(lists.known()) == 1
    with pytest.raises(StudioError, match="no such list"):
        lists.remove("a.csv")


def test_a_list_that_cannot_be_read_is_left_out_with_a_note(lists):
    lists.add("good.csv", "cat,0,1\n")
    (lists.folder / "latin.csv").write_bytes("caf\u00e9,0,1\n".encode("latin-1"))
    (lists.folder / "broken.csv").write_text('"' + "x" * 200_000)
    (lists.folder / "folder.csv").mkdir()
    (lists.folder / "gone.csv").symlink_to(lists.folder / "nowhere")
    assert tags(lists.known().search("a", 5)) == ["cat"]
    assert len(lists.notes) == 4 and "latin.csv is left out: it is not UTF-8" in lists.notes
    for name in ("latin.csv", "broken.csv", "gone.csv"):
        lists.remove(name)
    with pytest.raises(StudioError, match="cannot be removed"):
        lists.remove("folder.csv")
    (lists.folder / "folder.csv").rmdir()
    assert len(lists.known()) == 1 and lists.notes == []


@pytest.mark.parametrize(
    "name, text, field",
    [
        ("../a.csv", "cat,0,1", "name"),
        ("a.exe", "cat,0,1", "name"),
        ("a.csv", "", "text"),
        ("a.csv", ",,,\n", "text"),
        ("a.csv", "a\0b,0,1", "text"),
        ("a.csv", '"' + "x" * 200_000, "text"),
    ],
)
def test_what_is_no_list_is_refused(lists, name, text, field):
    with pytest.raises(StudioError) as error:
        lists.add(name, text)
    assert error.value.field == field and lists.names() == []


def test_there_are_not_too_many_lists(lists):
    for number in range(MOST_LISTS):
        lists.add(f"{number}.csv", "cat,0,1\n")
    lists.add("0.csv", "dog,0,1\n")
    with pytest.raises(StudioError, match="already"):
        lists.add("more.csv", "cat,0,1\n")
