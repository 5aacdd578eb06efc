from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.base.signals import Control
from lib_lora.tagging.options import TagConfig
from lib_lora.tagging.registry import own_thresholds
from lib_lora.tagging.run import tag
from lib_lora.tagging.scores import ScoreStore
from lib_lora.tagging.stored import StoredScores, key_of
from lib_lora.tagging.table import Own
from tiny_taggers import write_tagger

from .conftest import EXPECTED, captions

SAID = {
    "a.png": {Label("1girl"): 0.9, Label("long_hair"): 0.5, Label("saber_(fate)", "character"): 0.95},
    "b.png": {Label("1girl"): 0.8, Label("long_hair"): 0.3, Label("general", "rating"): 0.7},
    "c.png": {Label("hat"): 0.2, Label("long_hair"): 0.04},
    "sub/d.png": {Label("hat"): 0.6, Label("1girl"): 0.05},
}
OWN = {"tiny": Own(0.35, 0.85), "other": Own(0.5, 0.5)}


def config(**options) -> TagConfig:
    return dataclasses.replace(TagConfig(taggers=("tiny",), policy="append"), **options)


@pytest.fixture
def stored(collection) -> StoredScores:
    say(collection, "tiny", SAID)
    return StoredScores(collection, OWN)


def say(collection, tagger: str, said: dict) -> None:
    store = StoredScores(collection, OWN).store(tagger)
    with store.writing("model"):
        store.add_labels([Label("dog"), Label("hat")])
        for name, each in said.items():
            store.add(key_of(collection.item_named(name)), each)


def caption(collection, name: str, text: str) -> int:
    (collection.folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    collection.refresh()
    return collection.item_named(name).id


def test_a_count_for_every_threshold_without_a_model(stored):
    count = stored.count(config())
    assert (count.pictures, count.tags, count.without) == (4, 5, 1)
    assert count.by_category == {"general": 4, "character": 1}
    assert count.top == [
        ("1girl", "general", 2),
        ("hat", "general", 1),
        ("long hair", "general", 1),
        ("saber (fate)", "character", 1),
    ]
    assert stored.count(config(general_threshold=0.85)).tags == 2
    assert stored.count(config(general_threshold=0.01, character_threshold=1.0)).tags == 8
    assert stored.count(config(rating=True)).by_category["rating"] == 1
    assert stored.count(config(), most=1).top == [("1girl", "general", 2)]
    assert count.to_json()["per_picture"] == 1.25


def test_a_count_of_some_pictures(stored, collection):
    ids = [collection.item_named(name).id for name in ("b.png", "sub/e.png")]
    count = stored.count(config(), ids)
    assert (count.pictures, count.tags) == (1, 1)
    assert stored.count(config(), []).tags == 0


def test_the_count_is_that_of_the_captions(stored, collection):
    for options in ({}, {"general_threshold": 0.1}, {"general_mcut": True}, {"minimum_fraction": 0.5}):
        texts = stored.captions(config(policy="overwrite", **options)).values()
        assert stored.count(config(**options)).tags == sum(len(text.split(", ")) for text in texts)


def test_who_has_said_something_and_what(stored, collection):
    say(collection, "other", {"a.png": {Label("cat"): 0.5, Label("dog"): 0.75}})
    assert stored.taggers() == [("other", 1), ("tiny", 4)]
    said = stored.of(collection.item_named("a.png").id)
    assert said["other"] == [("dog", "general", 0.75), ("cat", "general", 0.5)]
    assert [tag for tag, _, _ in said["tiny"]] == ["saber_(fate)", "1girl", "long_hair"]
    assert stored.of(collection.item_named("sub/e.png").id) == {}


def test_a_store_is_read_once_and_not_for_each_picture(stored, monkeypatch):
    refreshed = []
    original = ScoreStore.refresh
    monkeypatch.setattr(ScoreStore, "refresh", lambda store: (refreshed.append(store.tagger), original(store))[1])
    stored.store("tiny")
    refreshed.clear()
    assert stored.taggers() == [("tiny", 4)]
    assert refreshed == ["tiny"]


def test_captions_are_written_from_scores_as_one_entry_of_the_history(stored, collection):
    id = caption(collection, "a.png", "zorb, 1girl")
    expected = {id: "zorb, 1girl, saber (fate), long hair"}
    assert stored.captions(config(), [id]) == expected
    applied = stored.write(config())
    assert sorted(applied.changed) == sorted(collection.item_named(name).id for name in ("a.png", "b.png", "sub/d.png"))
    assert captions(collection.folder) == {"a.png": expected[id], "b.png": "1girl", "sub/d.png": "hat"}
    assert stored.captions(config()) == {}
    collection.undo()
    assert captions(collection.folder) == {"a.png": "zorb, 1girl"}


def test_thresholds_move_after_the_tagger_has_gone(collection, models):
    list(tag(collection, collection.ids, TagConfig(taggers=("tiny",)), models, Control()))
    assert captions(collection.folder) == EXPECTED
    (models / "tiny" / "model.onnx").unlink()
    stored = StoredScores(collection, own_thresholds(models))
    stored.write(config(policy="overwrite", exclude=("1girl",), always_add=("zorb",)))
    assert captions(collection.folder)["sub/d.png"] == "zorb, ^_^, long hair, zorb (hero)"
    assert captions(collection.folder)["a.png"] == "1girl"


def test_what_a_running_job_adds_is_seen(stored, collection):
    assert stored.count(config()).pictures == 4
    say(collection, "tiny", {"sub/e.png": {Label("dog"): 0.9}})
    assert stored.count(config()).pictures == 5


def test_a_picture_that_changed_or_went_has_no_scores(stored, collection):
    Image.new("RGB", (9, 9)).save(collection.folder / "a.png")
    gone = collection.item_named("b.png").id
    (collection.folder / "b.png").unlink()
    collection.refresh()
    assert stored.count(config()).pictures == 2
    assert stored.count(config(), [gone]).pictures == 0


def test_where_taggers_and_captions_differ(stored, collection):
    a = caption(collection, "a.png", "zorb, 1girl")
    b = caption(collection, "b.png", "Long_Hair, dog, 1girl")
    d = caption(collection, "sub/d.png", "hat, 1girl")
    caption(collection, "sub/e.png", "dog")  # nobody has looked at it
    found = {each.tag: (each.missing, each.doubted) for each in stored.disagreements(config())}
    assert found == {
        "long hair": ([(a, 0.5)], []),
        "saber (fate)": ([(a, pytest.approx(0.95))], []),
        "1girl": ([], [(d, pytest.approx(0.05))]),
        "dog": ([], [(b, 0.0)]),
    }
    # "Long_Hair" at 0.3 is neither sure nor doubted; "zorb" is a word that no tagger knows.
    doubted = {each.tag for each in stored.disagreements(config(), doubt_below=0.35) if each.doubted}
    assert doubted == {"1girl", "dog", "long hair"}


def test_of_several_taggers_one_that_is_sure_is_enough(stored, collection):
    say(collection, "other", {"sub/d.png": {Label("1girl"): 0.9}})
    caption(collection, "sub/d.png", "hat, 1girl")
    both = config(taggers=("tiny", "other"))
    assert not any(each.doubted for each in stored.disagreements(both))
    assert stored.disagreements(config())[0].to_json()["tag"]


def test_several_taggers_count_a_tag_once(stored, collection):
    say(collection, "other", {"a.png": {Label("long hair"): 0.9, Label("cat"): 0.9}})
    count = stored.count(config(taggers=("tiny", "other", "tiny")))
    assert count.pictures == 4 and count.tags == 6


@pytest.mark.parametrize("options, field", [({"exclude": ("(",)}, "exclude"), ({"taggers": ()}, "taggers")])
def test_a_rule_that_cannot_be_understood_is_refused(stored, options, field):
    with pytest.raises(StudioError) as caught:
        stored.count(config(**options))
    assert caught.value.field == field


def test_a_tagger_that_has_said_nothing_counts_nothing(stored, models):
    write_tagger(models / "silent")
    assert stored.count(config(taggers=("silent",))).pictures == 0
    assert stored.captions(config(taggers=("silent",))) == {}
