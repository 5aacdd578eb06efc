"""Metadata files in and out."""

from __future__ import annotations

import json

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.dataset.kohya_metadata import (
    MetadataIn,
    MetadataOut,
    metadata_of,
    metadata_text,
    read_metadata,
    take_captions,
)
from tiny_dataset import ids_of

SENTENCE = "A girl with long red hair stands in a field, holding a sword."


def written(tmp_path, content, name="meta.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_tags_may_be_a_list_or_one_text(tmp_path):
    content = {
        "/train/a": {"caption": "a dog", "tags": ["red", "hat"], "train_resolution": [512, 512]},
        "b": {"tags": "red, hat"},
        "c.png": "red, hat",
        "d": {"caption": ["first", "second"]},
    }
    assert read_metadata(written(tmp_path, content)) == {
        "/train/a": ("a dog", "red, hat"),
        "b": ("", "red, hat"),
        "c.png": ("", "red, hat"),
        "d": ("first", ""),
    }


def test_jsonl_as_the_hub_has_it(tmp_path):
    lines = '{"file_name": "a.png", "text": "a dog"}\n\n{"file_name": "b.png", "tags": ["x"]}\n'
    assert read_metadata(written(tmp_path, lines, "metadata.jsonl")) == {"a.png": ("a dog", ""), "b.png": ("", "x")}


@pytest.mark.parametrize(
    "name, content",
    [
        ("m.json", "{"),
        ("m.json", "[]"),
        ("m.json", {"a": 3}),
        ("m.json", {"a": {"tags": {"x": 1}}}),
        ("m.jsonl", '{"a": 1}'),
    ],
)
def test_another_file_is_refused(tmp_path, name, content):
    with pytest.raises(StudioError) as fault:
        read_metadata(written(tmp_path, content, name))
    assert fault.value.file.endswith(name)


def test_pictures_are_found_by_any_of_their_names(opened):
    collection = opened({"1_x/a": None, "1_x/b": None, "c": None, "2_y/c": None, "d": "old"})
    entries = {
        "C:\\elsewhere\\a.png": ("", "one"),
        "1_x/b": ("", "two"),
        "c": ("", "three"),
        "2_y/c.png": ("", "four"),
        "c.jpg": ("", "none"),
        str(collection.folder / "d.png"): ("caption", "new"),
    }
    taken = take_captions(entries, collection.items, MetadataIn(policy="append"))
    assert {collection.item(number).name: text for number, text in taken.captions.items()} == {
        "1_x/a.png": "one",
        "1_x/b.png": "two",
        "2_y/c.png": "four",
        "d.png": "old, caption, new",
    }
    assert (taken.unknown, taken.ambiguous) == (["c.jpg"], ["c"])


@pytest.mark.parametrize("take, expected", [("both", "a dog, red"), ("caption", "a dog"), ("tags", "red")])
def test_what_is_taken(opened, take, expected):
    collection = opened({"a": None, "b": "kept"})
    entries = {"a": ("a dog", "red"), "b": ("a dog", "red")}
    taken = take_captions(entries, collection.items, MetadataIn(take=take))
    assert taken.captions == {ids_of(collection, "a")[0]: expected}


def test_what_is_written_is_read_again(opened, tmp_path):
    captions = {"a": "red, hat", "b": SENTENCE, "c": f"{SENTENCE} red, hat", "d": f"red, {SENTENCE} hat"}
    collection = opened({**captions, "e": None})
    for name in ("m.json", "m.jsonl"):
        text = metadata_text(metadata_of(collection.items, MetadataOut(keys="stem")), lines=name.endswith("l"))
        entries = read_metadata(written(tmp_path, text, name))
        joined = {key: " ".join(part for part in parts if part) for key, parts in entries.items()}
        assert joined == captions
    assert entries["c"] == (SENTENCE, "red, hat")


def test_two_pictures_need_two_names(opened):
    collection = opened({"1_x/a": "x", "2_y/a": "y"})
    with pytest.raises(StudioError, match="one name"):
        metadata_of(collection.items, MetadataOut(keys="stem"))
    assert set(metadata_of(collection.items, MetadataOut(keys="name"))) == {"1_x/a.png", "2_y/a.png"}
