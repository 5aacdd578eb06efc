from __future__ import annotations

import json

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.tagging.labels import read_labels


def test_a_csv_gives_categories_by_its_column(tmp_path):
    path = tmp_path / "selected_tags.csv"
    path.write_text(
        'tag_id,name,category,count\n1,1girl,0,5\n2,"a, b",4,3\n3,explicit,9,1\n4,artist_x,1,2\n5,fate,3,2\n6,hi,5,1\n',
        encoding="utf-8",
    )
    assert read_labels(path) == [
        Label("1girl", "general"),
        Label("a, b", "character"),
        Label("explicit", "rating"),
        Label("artist_x", "artist"),
        Label("fate", "copyright"),
        Label("hi", "meta"),
    ]


def test_columns_may_stand_in_any_order_and_a_csv_without_categories_is_general(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text("category,count,name\n4,1,miku\n0,2,smile\n", encoding="utf-8-sig")
    assert read_labels(path) == [Label("miku", "character"), Label("smile")]
    path.write_text("tag\nsmile\n", encoding="utf-8")
    assert read_labels(path) == [Label("smile")]


def test_ml_danboorus_list_of_names(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('["1girl", "blue_hair"]', encoding="utf-8")
    assert read_labels(path) == [Label("1girl"), Label("blue_hair")]


@pytest.mark.parametrize(
    "values",
    [
        {"1": {"tag": "b", "category": "Character"}, "0": {"tag": "a", "category": "General"}},
        {"idx_to_tag": {"0": "a", "1": "b"}, "tag_to_category": {"a": "General", "b": "Character"}},
        {"idx_to_tag": ["a", "b"], "tag_to_category": {"a": "General", "b": "Character"}},
    ],
)
def test_cl_taggers_mapping_by_number(tmp_path, values):
    path = tmp_path / "tag_mapping.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert read_labels(path) == [Label("a"), Label("b", "character")]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("tags.csv", "id,category\n1,0\n", "no column is called name"),
        ("tags.csv", "name,category\na,77\n", "'77' is no category"),
        ("tags.csv", "name,category\n", "empty"),
        ("tags.json", "{broken", "cannot be read"),
        ("tags.json", '{"0": {"tag": "a", "category": "General"}, "2": {"tag": "b", "category": "General"}}', "gaps"),
        ("tags.json", '{"0": "a"}', "cannot be read"),
        ("tags.json", "3", "cannot be read"),
    ],
)
def test_what_is_no_list_of_tags_is_refused(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudioError, match=words) as caught:
        read_labels(path)
    assert caught.value.file == str(path)
