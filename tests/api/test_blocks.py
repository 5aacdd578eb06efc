"""The routes of block weights: what the page begins with, grids and analyses as jobs, their tables, advice."""

from __future__ import annotations

import csv
import io
import time

import pytest
from PIL import Image
from safetensors import safe_open

from lib_lora.weights.blocks.presets import BUILT_IN
from tiny_loras import write_lora

ROUTES = "/lora-studio/"
SMALL = {"prompts": ["a zorb"], "seeds": [1, 2], "steps": 2, "width": 64, "height": 64}
TRAINED = {
    "ss_sd_model_name": "tiny.safetensors",
    "ss_unet_lr": "0.0004",
    "ss_text_encoder_lr": "0.0001",
    "ss_optimizer": "torch.optim.adamw.AdamW",
    "ss_network_dim": "4",
}


@pytest.fixture
def loras(tmp_path, make_host):
    folder = tmp_path / "models" / "Lora"
    write_lora(folder / "zorb.safetensors", TRAINED)
    write_lora(folder / "people" / "ann.safetensors", seed=1)
    return folder


def get(client, path, status=200):
    answer = client.get(ROUTES + path)
    assert answer.status_code == status, answer.text
    return answer


def send(client, method, path, body=None, status=200):
    answer = client.request(method, ROUTES + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]


def finished(client, id, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = get(client, f"jobs/{id}").json()
        if job["status"] in ("done", "failed", "stopped"):
            return job
        time.sleep(0.02)
    raise AssertionError(f"not done: {job}")


def test_the_page_begins_with_all_that_there_is(client, loras, studio):
    found = get(client, "blocks").json()
    assert found["loras"] == ["people/ann", "zorb"]
    assert {"name": "OUTD", "values": BUILT_IN["OUTD"], "own": False} in found["presets"]
    assert found["lists"]["SDXL"]["12"][0] == "BASE" and len(found["lists"]["SD1"]["26"]) == 26
    assert [each["name"] for each in found["checkpoints"]] == [each.name for each in studio.host.checkpoints()]
    assert "Euler a" in found["samplers"] and found["prompts"] == []
    for kind, own in (("grid", "loras"), ("analyse", "lora"), ("knowledge", "tags")):
        names = {option["name"] for group in found["forms"][kind]["groups"] for option in group["options"]}
        assert names == set(found["forms"][kind]["defaults"]) and {own, "prompts", "seeds", "sampler"} <= names


def test_norms_are_those_of_the_blocks_that_hold_weights(client, loras):
    found = get(client, "blocks/norms?lora=people/ann").json()
    assert found["family"] == "SD1" and [row["block"] for row in found["blocks"]] == ["BASE", "M00"]
    assert all(row["norm"] > 0 and row["modules"] == 1 for row in found["blocks"])
    assert sum(row["share"] for row in found["blocks"]) == pytest.approx(1)
    get(client, "blocks/norms?lora=nobody", 404)


def test_presets_and_prompts_are_kept_and_deleted(client, loras):
    values = ",".join(["1"] * 12)
    presets = send(client, "POST", "blocks/presets", {"name": "MINE", "values": values})["presets"]
    assert {"name": "MINE", "values": values, "own": True} in presets
    assert send(client, "POST", "blocks/presets", {"name": "MINE", "values": "1,2"}, 422)["field"] == "lbw"
    send(client, "POST", "blocks/presets", {"name": "face/hair", "values": values})
    send(client, "DELETE", "blocks/presets/face%2Fhair")
    assert not any(each["own"] for each in send(client, "DELETE", "blocks/presets/MINE")["presets"])

    lists = send(client, "POST", "blocks/prompts", {"name": "my tests", "prompts": ["a cat, red", "a dog"]})["prompts"]
    assert lists == [{"name": "my tests", "prompts": ["a cat, red", "a dog"]}]
    assert send(client, "POST", "blocks/prompts", {"name": "../out", "prompts": ["a"]}, 422)["field"] == "name"
    assert send(client, "DELETE", "blocks/prompts/my%20tests")["prompts"] == []


def test_a_list_of_prompts_that_cannot_be_read_spoils_nothing_else(client, loras, studio):
    folder = studio.host.data_dir / "prompts"
    folder.mkdir(parents=True)
    (folder / "theirs.txt").write_bytes("ein Hund, grün".encode("latin-1"))
    found = send(client, "POST", "blocks/prompts", {"name": "mine", "prompts": ["a cat"]})
    assert [each["name"] for each in found["prompts"]] == ["mine"]
    (note,) = get(client, "blocks").json()["prompt_notes"]
    assert note.startswith("list of prompts theirs: cannot be read")
    assert send(client, "DELETE", "blocks/prompts/theirs")["prompt_notes"] == []


def test_a_vector_is_read_as_another_list(client, loras):
    body = {"text": "OUTD", "family": "SD1", "length": 26, "x": 1}
    values = send(client, "POST", "blocks/vector", body)["values"]
    assert len(values) == 26 and sum(values) == 5
    assert send(client, "POST", "blocks/vector", {**body, "text": "1,2"}, 422)["field"] == "lbw"
    assert send(client, "POST", "blocks/vector", {**body, "family": "SD9"}, 422)["field"] == "family"
    rates = send(client, "POST", "blocks/rates", {"text": "OUTD", "family": "SDXL"})["values"]
    assert len(rates["block_lr_weight"]) == 20


def test_a_grid_comes_as_pictures_and_as_a_table(client, loras, studio):
    studio.queue.start()
    values = {**SMALL, "loras": ["zorb"], "unet": "0 1", "checkpoints": [str(studio.host.checkpoints()[0].path)]}
    job = finished(client, send(client, "POST", "jobs", {"kind": "grid", "values": values})["id"])
    assert job["status"] == "done" and job["error"] is None
    assert job["grid"]["axes"]["columns"] == {"name": "UNet", "labels": ["without the LoRA", "UNet 0", "UNet 1"]}
    assert job["grid"]["axes"]["rows"] == {"name": "seed", "labels": ["seed 1", "seed 2"]}
    cells = {tuple(cell["place"]): cell for cell in job["grid"]["cells"]}
    assert set(cells) == {(row, column) for row in range(2) for column in range(3)}
    assert cells[0, 0]["change"] == cells[0, 1]["change"] == 0 and cells[0, 2]["change"] > 0
    assert cells[1, 2]["values"]["unet"] == cells[1, 2]["values"]["te"] == 1 and cells[1, 2]["seed"] == 2
    picture = Image.open(io.BytesIO(get(client, f"jobs/{job['id']}/pictures/{cells[0, 2]['picture']}").content))
    assert picture.size == (64, 64)
    whole = Image.open(io.BytesIO(get(client, f"jobs/{job['id']}/picture").content))
    assert whole.width > 3 * 64 and whole.height > 2 * 64
    rows = list(csv.DictReader(io.StringIO(get(client, f"jobs/{job['id']}/csv").text)))
    assert len(rows) == 6 and {row["unet"] for row in rows} == {"", "0.0", "1.0"}
    get(client, f"jobs/{job['id']}/pictures/..%2Fjob.json", 404)
    assert "grid" not in get(client, "jobs").json()["jobs"][0]


def test_what_is_wrong_with_a_grid_is_said_before_it_begins(client, loras, studio):
    checkpoint = str(studio.host.checkpoints()[0].path)
    good = {**SMALL, "loras": ["zorb"], "checkpoints": [checkpoint]}
    for changes, field in (
        ({"loras": ["nobody"]}, "loras"),
        ({"loras": []}, "loras"),
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a <lora:zorb:1>"]}, "prompts"),
        ({"prompt_list": "none such"}, "prompt_list"),
        ({"weights": ["OUTDD"]}, "lbw"),
        ({"weights": ["1,2,3"]}, "lbw"),
        ({"checkpoints": ["nowhere.safetensors"]}, "checkpoint"),
        ({"loras": ["people/ann"], "checkpoints": []}, "checkpoint"),
        ({"sampler": "Magic"}, "sampler"),
        ({"width": 60 + 5}, "width"),
        ({"unet": [1, 1.0]}, "unet"),
        ({"seeds": []}, "seeds"),
        ({"lora": "zorb"}, "lora"),
    ):
        error = send(client, "POST", "jobs", {"kind": "grid", "values": {**good, **changes}}, 422)
        assert error["field"] == field, error
    write_lora(loras / "others" / "zorb.safetensors")
    error = send(client, "POST", "jobs", {"kind": "grid", "values": good}, 422)
    assert error["field"] == "loras" and "others" in error["message"]


def test_advice_multiplies_the_rates_of_the_lora_s_own_training(client, loras):
    advice = send(client, "POST", "blocks/advice", {"lora": "zorb", "unet": 0.5, "te": 2})
    assert advice["values"] == {"unet_lr": 0.0002, "text_encoder_lr": [0.0002]}
    assert send(client, "POST", "blocks/advice", {"lora": "people/ann", "unet": 0.5, "te": 1})["values"] == {}
    assert send(client, "POST", "blocks/advice", {"lora": "zorb", "unet": "much", "te": 1}, 422)["field"] == "unet"


def test_the_best_checkpoint_is_written_into_the_metadata(client, loras, studio):
    known = studio.host.checkpoints()[0]
    second = known.path.with_name("second.safetensors")
    second.write_bytes(known.path.read_bytes())
    for name in (str(known.path), second.name):
        send(client, "POST", "blocks/best", {"lora": "zorb", "checkpoint": name})
    for name in ("nobody's", "a; b\nc"):
        assert send(client, "POST", "blocks/best", {"lora": "zorb", "checkpoint": name}, 422)["field"] == "checkpoint"
    with safe_open(loras / "zorb.safetensors", "pt") as file:
        assert file.metadata()["modelspec.usage_hint"] == "works best in second"
        assert file.metadata()["ss_unet_lr"] == "0.0004"
