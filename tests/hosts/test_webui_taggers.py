"""The real WebUI's DeepDanbooru and BLIP through our taggers, with tiny weights made by the driver."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny_taggers import write_tagger

pytestmark = [pytest.mark.webui, pytest.mark.slow]

TAGS = ["1girl", "long_hair", "rating:safe", "hat", "rating:explicit"]  # red, green, blue, red, green
SIZES = {"small": (40, 40), "wide": (700, 300), "tall": (333, 612), "thin": (1100, 2)}


@pytest.fixture(scope="module")
def pictures() -> dict[str, Image.Image]:
    made = {"red": Image.new("RGB", (64, 48), (255, 0, 0))}
    for name, (width, height) in SIZES.items():
        values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        made[name] = Image.fromarray(values).resize((width, height), Image.Resampling.BOX)
    return made


@pytest.fixture(scope="module")
def found(tmp_path_factory, pictures, webui_checkpoint, run_in_webui) -> dict:
    folder = tmp_path_factory.mktemp("taggers")
    dataset = folder / "dataset"
    dataset.mkdir()
    for name, picture in pictures.items():
        picture.save(dataset / f"{name}.png")
    write_tagger(folder / "models" / "tiny")
    task = {
        "project": str(Path(__file__).parents[2]),
        "dataset": str(dataset),
        "models": str(folder / "models"),
        "tags": TAGS,
    }
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    data = folder / "data"
    run_in_webui("webui_taggers_driver.py", webui_checkpoint, folder / "task.json", folder / "out.npz", data)
    with np.load(folder / "out.npz") as file:
        return {**json.loads(str(file["result"])), "pixels": {name: file[name] for name in file.files if " " in name}}


def test_weights_that_cannot_be_downloaded_are_told_at_the_option(found):
    assert {name: field for name, (field, _) in found["no weights"].items()} == {
        "DeepDanbooru": "taggers",
        "BLIP": "taggers",
    }
    assert all("could not download" in text for _, text in found["no weights"].values())


@pytest.mark.parametrize("name", ["red", "small", "wide", "tall"])
def test_deepdanbooru_sees_what_the_webui_would_show_it_without_an_upscaler(found, pictures, name):
    ours, theirs = (found["pixels"][f"{who} {name}"] for who in ("ours", "theirs"))
    width, height = (side * 512 // max(pictures[name].size) for side in pictures[name].size)
    left, top = 256 - width // 2, 256 - height // 2
    inside = (slice(top, top + height), slice(left, left + width))
    assert np.array_equal(ours[inside], theirs[inside])
    # Around it the outermost row or column again; the WebUI sharpens it, and may leave the last one black.
    across = np.clip(np.arange(512), left, left + width - 1)
    down = np.clip(np.arange(512), top, top + height - 1)
    assert np.array_equal(ours, ours[np.ix_(down, across)])


def test_a_strip_that_the_webui_cannot_show_it_is_seen_too(found):
    assert found["pixels"]["ours thin"].shape == (512, 512, 3) and "theirs thin" not in found["pixels"]


def test_deepdanbooru_gives_probabilities_of_its_labels_in_rgb(found):
    assert found["deepbooru"]["labels"] == [
        ["1girl", "general"],
        ["long_hair", "general"],
        ["rating:safe", "rating"],
        ["hat", "general"],
        ["rating:explicit", "rating"],
    ]
    said = {name: {label: score for label, _, score in each} for name, each in found["deepbooru"]["said"].items()}
    assert said["red"]["1girl"] == pytest.approx(1, abs=1e-3) and said["red"]["hat"] == pytest.approx(1, abs=1e-3)
    for name in SIZES:
        means = found["pixels"][f"ours {name}"].mean(axis=(0, 1)) / 255
        expected = [means[number % 3] for number in range(len(TAGS))]
        assert [said[name][tag] for tag in TAGS] == pytest.approx(expected, abs=1e-3)


def test_blip_gives_a_sentence_for_each_picture(found):
    for each in found["blip"]["said"].values():
        ((sentence, category, score),) = each
        assert sentence and category == "sentence" and score == 1


def test_the_webuis_turn_is_free_between_batches(found):
    assert not found["deepbooru"]["turn taken"] and not found["blip"]["turn taken"]


def test_tags_and_a_sentence_become_captions(found):
    sentence = found["blip"]["said"]["red"][0][0]
    assert found["both"]["captions"]["red"] == f"{sentence}, 1girl, hat"
    assert found["both"]["report"]["written"] == len(SIZES) + 1
    assert found["both"]["report"]["problems"] == []


def test_an_onnx_tagger_runs_in_the_webuis_process_or_says_what_to_install(found):
    if "error" in found["onnx"]:
        assert found["onnx"]["field"] == "taggers"
        assert "onnxruntime, which is not installed" in found["onnx"]["error"]
        assert "pip install" in found["onnx"]["error"]
    else:
        assert found["onnx"]["captions"]["red"] == "^_^, zorb (hero)"


def test_the_webui_is_as_before(found):
    assert found["left"] == {"deepbooru": "cpu", "blip": "cpu", "clip loaded": False, "size": [64, 64]}
