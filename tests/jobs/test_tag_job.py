"""Tagging as a job of the queue, with a small ONNX tagger."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Folders
from lib_lora.dataset.collection import Collection
from lib_lora.jobs.tag_job import tag_schema
from lib_lora.jobs.tool_job import tool_view
from lib_lora.tagging.registry import model_folder
from tiny_host import TinyHost
from tiny_taggers import write_tagger

from .conftest import wait_for


@pytest.fixture
def tag_host(host) -> TinyHost:
    """A host whose folder of models has the tagger "tiny"."""
    write_tagger(model_folder(host) / "tiny")
    return host


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (24, 24), (0, 0, 255)).save(folder / f"{number}.png")
    return folder


def values(dataset: Path, **more) -> dict:
    return {"folder": str(dataset), "taggers": ["tiny"], "batch_size": 1, "cpu_threads": 1, **more}


def written(dataset: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in dataset.glob("*.txt")}


def test_the_queue_tags_a_folder(tag_host, open_queue, dataset):
    job = open_queue(tag_host).add("tag", values(dataset, always_add=["zorb"]))
    assert job.spec.name == "tags for my pictures"
    wait_for(lambda: job.status == "done")
    assert written(dataset) == {str(number): "zorb, 1girl" for number in range(12)}
    view = job.view()
    assert (view["way"], view["error"], view["progress"]) == ("live", None, None)
    assert tool_view(job)["report"]["written"] == 12
    assert "12 pictures: 12 looked at" in tool_view(job)["text"]
    events, _ = job.log.read()
    assert {"tagging with tiny", "writing captions"} <= {event.get("what") for event in events}


def test_only_named_pictures_and_those_that_a_filter_lets_through(tag_host, open_queue, dataset):
    (dataset / "3.txt").write_text("dog", encoding="utf-8")
    queue = open_queue(tag_host)
    named = queue.add("tag", values(dataset, pictures=["1.png", "2.png", "gone.png"]))
    wait_for(lambda: named.status == "done")
    assert set(written(dataset)) == {"1", "2", "3"}
    assert named.view()["note"] == "1 of 3 pictures are not there any more: gone.png"
    filtered = queue.add("tag", values(dataset, filter="dog", policy="append"))
    wait_for(lambda: filtered.status == "done")
    assert written(dataset) == {"1": "1girl", "2": "1girl", "3": "dog, 1girl"}


def test_a_stop_is_at_once_and_done_again_goes_on_where_it_was(tag_host, open_queue, dataset, monkeypatch):
    from lib_lora.tagging.onnx_tagger import OnnxTagger

    real, calls = OnnxTagger.__call__, []

    def call(self, prepared):
        calls.append(len(prepared))
        if len(calls) == 3:
            queue.stop(job.id)
        return real(self, prepared)

    monkeypatch.setattr(OnnxTagger, "__call__", call)
    queue = open_queue(tag_host, start=False)
    job = queue.add("tag", values(dataset))
    queue.start()
    wait_for(lambda: job.status == "stopped")
    assert sum(calls) == 3 and len(written(dataset)) == 3
    assert "retry" in job.can() and job.view()["tool"] is None
    queue.retry(job.id)
    wait_for(lambda: job.status == "done")
    assert sum(calls) == 12 and len(written(dataset)) == 12


def test_an_open_dataset_sees_the_captions_and_takes_them_back_at_once(tag_host, open_queue, dataset):
    with Collection.open(dataset) as collection:
        job = open_queue(tag_host).add("tag", values(dataset))
        wait_for(lambda: job.status == "done")
        assert {item.caption for item in collection.items} == {"1girl"}
        collection.undo()
        assert written(dataset) == {}


@pytest.mark.parametrize(
    "more, field",
    [
        ({"taggers": ["nobody"]}, "taggers"),
        ({"taggers": ["../tiny"]}, "taggers"),
        ({"folder": "/no/such/folder"}, "folder"),
        ({"caption_extension": ".jsonl"}, "caption_extension"),
        ({"filter": "(cat"}, "filter"),
        ({"general_threshold": 2}, "general_threshold"),
        ({"exclude": ["("]}, "exclude"),
        ({"polcy": "skip"}, "polcy"),
        ({"policy": "sometimes"}, "policy"),
    ],
)
def test_mistakes_are_told_at_their_field_before_the_start(tag_host, open_queue, dataset, more, field):
    queue = open_queue(tag_host, start=False)
    with pytest.raises(StudioError) as caught:
        queue.add("tag", values(dataset, **more))
    assert caught.value.field == field and queue.jobs() == []


def test_a_dataset_s_own_folder_is_not_tagged(tag_host, open_queue, dataset):
    (dataset / ".lora_studio" / "trash").mkdir(parents=True)
    queue = open_queue(tag_host, start=False)
    for name in (".lora_studio", ".lora_studio/trash"):
        with pytest.raises(StudioError) as caught:
            queue.add("tag", values(dataset / name))
        assert caught.value.field == "folder" and "journal" in caught.value.problem


def test_where_others_reach_the_page_links_lead_nowhere_else(tag_host, open_queue, dataset, tmp_path, monkeypatch):
    private = tmp_path / "private"
    private.mkdir()
    Image.new("RGB", (24, 24), (0, 0, 255)).save(private / "mine.png")
    (dataset / "in").symlink_to(private)
    tag_host.shared = True
    monkeypatch.setattr(tag_host, "folders", lambda: Folders((dataset,), (), ()))
    job = open_queue(tag_host).add("tag", values(dataset))
    wait_for(lambda: job.status == "done")
    assert len(written(dataset)) == 12 and not (private / "mine.txt").exists()


def test_where_others_reach_the_page_only_allowed_folders(tag_host, open_queue, dataset, monkeypatch):
    tag_host.shared = True
    queue = open_queue(tag_host, start=False)
    with pytest.raises(StudioError) as caught:
        queue.add("tag", values(dataset))
    assert caught.value.field == "folder"
    monkeypatch.setattr(tag_host, "folders", lambda: Folders((dataset.parent,), (), ()))
    assert queue.add("tag", values(dataset)).status == "queued"


def test_the_form_names_all_options_and_taggers(tag_host):
    schema = tag_schema(tag_host)
    assert [group["name"] for group in schema["groups"]] == ["Tagger", "Thresholds", "Tags", "Captions"]
    taggers = {each["name"]: each for each in schema["taggers"]}
    assert taggers["tiny"]["source"] == "local" and taggers["tiny"]["present"]
    assert not taggers["wd-swinv2-tagger-v3"]["present"]
    assert taggers["wd-swinv2-tagger-v3"]["general"] == 0.2653
    assert schema["defaults"]["taggers"] == ["wd-swinv2-tagger-v3"]
