"""A picture that the page sends into a dataset."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from lib_lora.api.open_datasets import DATASETS

ROUTES = "/lora-studio/"
PATH = f"{ROUTES}pictures"


def body(folder, name="new.png", **more):
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return {"folder": str(folder), "name": name, "data": base64.b64encode(data.getvalue()).decode(), **more}


def test_a_picture_is_added_to_the_folder(client_of, studio, pictures):
    answer = client_of(studio).post(PATH, json=body(pictures, caption="zorb"))
    assert answer.json() == {"file": str(pictures / "new.png"), "name": "new.png", "folder": str(pictures)}
    assert (pictures / "new.txt").read_text("utf-8") == "zorb\n"


@pytest.mark.parametrize(
    "change, field",
    [
        ({"folder": "{pictures}/nowhere"}, "folder"),
        ({"data": "no base64"}, "data"),
        ({"data": base64.b64encode(b"no picture").decode()}, "data"),
        ({"name": "a\nb.png"}, "name"),
        ({"name": None}, "name"),
        ({"caption": 1}, "caption"),
    ],
)
def test_what_cannot_be_added_is_refused_at_its_field(client_of, studio, pictures, change, field):
    before = sorted(pictures.rglob("*"))
    change = {
        key: value.format(pictures=pictures) if isinstance(value, str) else value for key, value in change.items()
    }
    answer = client_of(studio).post(PATH, json=body(pictures) | change)
    assert answer.status_code == 422 and answer.json()["error"]["field"] == field
    assert sorted(pictures.rglob("*")) == before


def test_in_an_open_dataset_it_can_be_undone(client_of, studio, pictures):
    client = client_of(studio)
    inner = pictures / "10_zorb"
    inner.mkdir(exist_ok=True)
    try:
        id = client.post(f"{ROUTES}dataset/open", json={"folder": str(pictures)}).json()["id"]
        assert DATASETS.get(id).collection is not None
        assert client.post(PATH, json=body(inner, caption="zorb")).status_code == 200
        assert (inner / "new.txt").read_text("utf-8") == "zorb"
        assert client.post(PATH, json=body(inner)).json()["name"] == "new-2.png"
        for _ in range(2):
            answer = client.post(f"{ROUTES}dataset/{id}/undo", json={}).json()
        assert answer["status"]["redo"] == "add new.png"
        assert not list(inner.glob("new*"))
    finally:
        DATASETS.close_idle(longer_than=0)


def test_others_may_only_add_to_the_datasets(client_of, make_studio, pictures, tmp_path):
    client = client_of(make_studio(exposed=True))
    assert client.post(PATH, json=body(pictures)).status_code == 200
    (tmp_path / "else").mkdir()
    refused = client.post(PATH, json=body(tmp_path / "else"))
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "folder"
    assert not list((tmp_path / "else").iterdir())
