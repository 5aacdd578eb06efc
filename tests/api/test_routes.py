"""What the routes answer, over a real host and queue."""

from __future__ import annotations

import json
import os
import sys
from urllib.parse import quote

import pytest
from PIL import Image

from lib_lora.api.call import MAX_BODY_BYTES

ROUTES = "/lora-studio/"


def get(client, path, status=200):
    answer = client.get(ROUTES + path)
    assert answer.status_code == status, answer.text
    return answer.json()


def post(client, path, body=None, status=200):
    answer = client.post(ROUTES + path, json=body or {})
    assert answer.status_code == status, answer.text
    return answer.json()


def error(client, path, body=None, status=422):
    """The error that a POST is answered with, or a GET where there is no body."""
    return (get(client, path, status) if body is None else post(client, path, body, status))["error"]


def submit(client, values, **changes):
    return post(client, "jobs", {"kind": "train", "values": {**values, **changes}})


# The form


def test_the_form_says_what_there_is(client, studio):
    form = get(client, "form")
    assert form["host"]["name"] == "standalone" and form["when_done"] == "nothing"
    assert [each["name"] for each in form["checkpoints"]] == [each.name for each in studio.host.checkpoints()]
    names = [option["name"] for group in form["groups"] for option in group["options"]]
    assert {"network_dim", "activation_text"} <= set(names) and "output_dir" not in names
    assert set(form["cache"]) == {"bytes", "limit_bytes", "folder"}


def test_a_plan_is_made_and_mistakes_name_their_field(client, values):
    plan = post(client, "plan", {"values": values})
    assert plan["pictures"] == 5 and plan["steps"] == 3 and plan["way"] == "child"
    found = error(client, "plan", {"values": {**values, "network_dim": 0}})
    assert found["field"] == "network_dim" and found["came"] == 0 and "at least 1" in found["allowed"]
    assert error(client, "plan", {"values": {**values, "network_dimm": 1}})["field"] == "network_dimm"


@pytest.mark.parametrize(
    "body, status",
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"values": NaN}', 400),
        (b"[" * 100_000, 400),
        (b'"\\ud800"', 400),
        (b'{"values": "\\ud800"}', 422),
        (b"\xff", 400),
        (b'{"values": 1}', 422),
        (b"", 422),
        (b"{}", 422),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
def test_bodies_that_are_not_what_was_asked_for(client, body, status):
    answer = client.post(ROUTES + "plan", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_unknown_paths_are_answered_in_json(client):
    assert error(client, "nowhere", status=404)["message"]
    assert client.put(ROUTES + "jobs", json={}).status_code == 404
    assert client.options(ROUTES + "jobs").status_code == 404


# The queue


def test_a_job_is_added_and_seen(client, values):
    job = submit(client, values)
    assert job["status"] == "queued" and job["name"] == "zorb" and job["values"] == values
    everything = get(client, "jobs")
    assert everything["jobs"] == [job] and everything["running"] is None
    assert get(client, f"jobs/{job['id']}") == job
    assert get(client, f"jobs/{job['id']}/events") == {"events": [], "next": 0}
    assert client.get(f"{ROUTES}jobs/{job['id']}/log").text == ""


def test_a_wrong_form_makes_no_job(client, values):
    found = error(client, "jobs", {"kind": "train", "values": {**values, "output_name": "../x"}})
    assert found["field"] == "output_name"
    assert error(client, "jobs", {"kind": "dance", "values": values})["field"] == "kind"
    assert error(client, "jobs", {"kind": "train"})["field"] == "values"
    assert get(client, "jobs")["jobs"] == []


def test_jobs_are_moved_duplicated_and_removed(client, values):
    ids = [submit(client, values, output_name=name)["id"] for name in ("a", "b")]
    ids.append(post(client, f"jobs/{ids[0]}/duplicate", {"changes": {"output_name": "c"}})["id"])
    post(client, f"jobs/{ids[2]}/move", {"before": ids[0]})
    assert [job["name"] for job in get(client, "jobs")["jobs"]] == ["c", "a", "b"]
    post(client, f"jobs/{ids[2]}/move", {"before": None})
    assert [job["name"] for job in get(client, "jobs")["jobs"]] == ["a", "b", "c"]
    assert post(client, f"jobs/{ids[1]}/remove")["id"] == ids[1]
    assert [job["name"] for job in get(client, "jobs")["jobs"]] == ["a", "c"]
    assert error(client, f"jobs/{ids[0]}/pause", {})["field"] == "action"
    assert error(client, f"jobs/{ids[0]}/dance", {}, status=404)["field"] == "action"
    assert error(client, f"jobs/{ids[0]}/move", {"before": "x"}, status=404)["field"] == "id"


def test_what_happens_when_all_is_done_is_chosen(client):
    assert post(client, "queue", {"when_done": "shutdown"}) == {"when_done": "shutdown"}
    assert get(client, "jobs")["when_done"] == "shutdown"
    assert error(client, "queue", {"when_done": "explode"})["field"] == "when_done"


def test_others_cannot_shut_the_machine_down(exposed_client):
    assert error(exposed_client, "queue", {"when_done": "shutdown"})["field"] == "when_done"


@pytest.mark.parametrize(
    "id", ["x", "..", "20260101-000000-000-abcdef", "a" * 5000, "%00", "..%2f..%2fetc%2fpasswd", "%0a"]
)
def test_ids_that_name_no_job(client, id):
    for path in (f"jobs/{id}", f"jobs/{id}/events", f"jobs/{id}/log", f"jobs/{id}/pictures/a.png"):
        assert client.get(ROUTES + path).status_code == 404
    assert client.post(f"{ROUTES}jobs/{id}/stop", json={}).status_code == 404


def test_asking_again_reads_nothing_and_makes_nothing(client, values, studio, monkeypatch):
    job = submit(client, values)
    first = client.get(ROUTES + "jobs")
    opened = []
    sys.addaudithook(lambda name, arguments: opened.append(arguments[0]) if name == "open" and watching else None)
    watching = True
    same = client.get(ROUTES + "jobs", headers={"if-none-match": first.headers["etag"]})
    assert client.get(ROUTES + "jobs").json() == first.json()
    assert get(client, f"jobs/{job['id']}/events?after=0") == {"events": [], "next": 0}
    watching = False
    assert same.status_code == 304 and same.content == b""
    assert [path for path in opened if str(studio.host.data_dir) in str(path)] == []
    studio.queue.move(job["id"])
    changed = client.get(ROUTES + "jobs", headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200 and changed.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "²", "9" * 40])
def test_events_are_asked_for_by_their_number(client, values, after):
    job = submit(client, values)
    assert error(client, f"jobs/{job['id']}/events?after={quote(after)}")["field"] == "after"


def test_many_events_come_in_several_answers(client, values, studio):
    job = studio.queue.job(submit(client, values)["id"])
    for number in range(2100):
        job.log.append({"event": "EpochDone", "epoch": number, "step": number})
    first = get(client, f"jobs/{job.id}/events")
    second = get(client, f"jobs/{job.id}/events?after={first['next']}")
    assert len(first["events"]) == first["next"] == 2000 and second["next"] == 2100
    assert [event["step"] for event in first["events"] + second["events"]] == list(range(2100))


def test_a_loss_that_is_no_number_is_null(client, values, studio):
    from lib_lora.base.events import StepDone

    job = studio.queue.job(submit(client, values)["id"])
    job.take(StepDone(1, 1, float("nan"), {"unet": float("inf")}, 0.1))
    assert get(client, f"jobs/{job.id}")["loss"] is None
    (event,) = get(client, f"jobs/{job.id}/events")["events"]
    assert event["loss"] is None and event["lr"] == {"unet": None}


# Pictures and scripts


@pytest.fixture
def preview(client, values, studio):
    """A queued job with one preview picture."""
    from lib_lora.base.events import SampleReady

    job = studio.queue.job(submit(client, values)["id"])
    path = job.log_folder / "samples" / "zorb-1.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(path)
    job.take(SampleReady(path, "zorb", 1))
    return f"jobs/{job.id}/pictures/", path


def test_a_preview_is_shown_and_kept_by_the_browser(client, preview):
    folder, path = preview
    answer = client.get(f"{ROUTES}{folder}zorb-1.png")
    assert answer.content == path.read_bytes() and answer.headers["content-type"] == "image/png"
    again = client.get(f"{ROUTES}{folder}zorb-1.png", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("name", ["../state.json", "..%2f..%2fjob.json", "zorb-1.png%00", "x.png", "%2fetc%2fpasswd"])
def test_only_the_jobs_own_pictures_are_shown(client, preview, name):
    assert client.get(ROUTES + preview[0] + name).status_code == 404


def test_a_picture_that_became_a_link_to_elsewhere_is_not_shown(client, preview, tmp_path):
    folder, path = preview
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    path.unlink()
    os.symlink(secret, path)
    assert client.get(f"{ROUTES}{folder}zorb-1.png").status_code == 422


def test_scripts_and_style_are_served_with_their_types(client):
    script = client.get(ROUTES + "static/main.js")
    assert script.status_code == 200 and script.headers["content-type"].startswith("text/javascript")
    assert client.get(ROUTES + "static/style.css").headers["content-type"].startswith("text/css")
    again = client.get(ROUTES + "static/main.js", headers={"if-none-match": script.headers["etag"]})
    assert again.status_code == 304


HOSTILE = [
    "../api.py",
    "..%2f..%2frun.py",
    "%2e%2e/%2e%2e/run.py",
    "..%5c..%5crun.py",
    "%2fetc%2fpasswd",
    "C:%5cx",
    "C:x",
    "a%0ab",
    "a%00b",
    "a%0d%0aSet-Cookie:x",
    "a" * 3000,
    "/".join(["a" * 150] * 40),
    "nul",
    "a.",
    "%20",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_other_file_is_served_as_a_script(client, name):
    for ending in ("", ".js"):
        answer = client.get(f"{ROUTES}static/{name}{ending}")
        assert answer.status_code in (404, 422), answer.text


# LoRAs


@pytest.fixture
def lora(studio, tmp_path):
    """A LoRA file with metadata in a subfolder of the host's folder."""
    from lib_lora.files.lora_file import LoraFile

    path = studio.host.lora_dir() / "people" / "zorb-step00000200.safetensors"
    path.parent.mkdir()
    LoraFile({}, {"ss_network_dim": "8", "ss_output_name": "zorb"}).write(path)
    return path


def test_loras_are_listed_by_their_names_in_the_folder(client, lora):
    (found,) = get(client, "loras")
    assert found["name"] == "people/zorb-step00000200" and found["file"] == f"{found['name']}.safetensors"
    assert found["step"] == 200 and found["bytes"] == lora.stat().st_size and found["picture"] is None


def test_a_card_is_written_beside_the_lora(client, lora):
    url = "loras/people/zorb-step00000200/card"
    assert get(client, url) == {}
    post(client, url, {"activation text": "zorb", "preferred weight": 0.8})
    assert json.loads(lora.with_suffix(".json").read_text()) == {"activation text": "zorb", "preferred weight": 0.8}
    assert get(client, url)["activation text"] == "zorb"
    assert error(client, url, {"colour": "red"})["field"] == "colour"


def test_a_preview_becomes_the_cards_picture(client, lora, preview):
    folder, path = preview
    url = "loras/people/zorb-step00000200"
    assert error(client, f"{url}/picture", status=404)["field"] == "name"
    chosen = {"job": folder.split("/")[1], "name": path.name}
    post(client, f"{url}/card", {"picture": chosen})
    assert client.get(f"{ROUTES}{url}/picture").content == path.read_bytes()
    assert get(client, "loras")[0]["picture"] == "zorb-step00000200.png"
    assert error(client, f"{url}/card", {"picture": {**chosen, "name": "../../job.json"}}, status=404)
    assert error(client, f"{url}/card", {"picture": "x"})["field"] == "picture"


def test_a_form_is_filled_from_a_loras_metadata(client, lora):
    found = post(client, "metadata", {"file": "people/zorb-step00000200.safetensors"})
    assert found["values"]["network_dim"] == 8


@pytest.mark.parametrize("name", HOSTILE)
def test_no_other_file_is_taken_for_a_lora(client, exposed_client, studio, name):
    for each in (client, exposed_client):
        assert each.get(f"{ROUTES}loras/{name}/card").status_code in (404, 422)
        assert each.post(f"{ROUTES}loras/{name}/card", json={"notes": "x"}).status_code in (404, 422)
    plain = name.replace("%2f", "/").replace("%5c", "\\").replace("%0a", "\n").replace("%00", "\0")
    assert client.post(ROUTES + "metadata", json={"file": plain}).status_code in (404, 422)


def test_a_link_out_of_the_lora_folder_is_not_for_others(client_of, make_studio, tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"")
    os.symlink(outside, tmp_path / "models" / "Lora" / "link.safetensors")
    client = client_of(make_studio(exposed=True))
    assert client.get(ROUTES + "loras/link/card").status_code == 422
    assert client.post(ROUTES + "loras/link/card", json={"notes": "x"}).status_code == 422
    assert not outside.with_suffix(".json").exists()


# Folders


def test_folders_are_shown_with_their_pictures(client, pictures):
    beginnings = get(client, "folder")
    assert beginnings["folders"][0] == {"name": "pictures", "path": str(pictures), "pictures": 5}
    inner = get(client, f"folder?path={quote(str(pictures))}")
    assert inner["path"] == str(pictures) and inner["parent"] == str(pictures.parent)
    assert inner["folders"] == [{"name": "2_zorb", "path": str(pictures / "2_zorb"), "pictures": 5}]
    assert get(client, "folder?path=/")["parent"] == ""
    assert error(client, "folder?path=/nowhere")["field"] == "path"


def test_others_see_the_allowed_folders_alone(exposed_client, pictures, tmp_path):
    beginnings = get(exposed_client, "folder")
    assert [each["path"] for each in beginnings["folders"]] == [str(pictures)]
    assert get(exposed_client, f"folder?path={quote(str(pictures))}")["parent"] == ""
    os.symlink(tmp_path, pictures / "out")
    for path in ("/", "..", ".", str(tmp_path), f"{pictures}/..", f"{pictures}/out", f"{pictures}/out/data", "C:\\",
                 "\\\\server\\share", "/etc", "~", "a\nb", "a\0b", f"{pictures}/\n", "a" * 5000):  # fmt: skip
        assert error(exposed_client, f"folder?path={quote(path)}")["field"] == "path", path


@pytest.mark.parametrize(
    "field, value",
    [
        ("train_data_dir", "/etc"),
        ("train_data_dir", "{pictures}/.."),
        ("train_data_dir", "{pictures}/a\nb"),
        ("train_data_dir", "C:\\pictures"),
        ("reg_data_dir", "../.."),
        ("pretrained_model_name_or_path", "/etc/passwd"),
        ("vae", "//server/share"),
        ("resume", "/tmp"),
        ("sample_prompts", "/etc/passwd"),
        ("output_name", "../x"),
        ("output_name", "C:\\x"),
        ("output_name", "/x"),
        ("output_name", "a\nb"),
        ("output_name", "a" * 300),
        ("output_name", "a\0"),
        ("output_subfolder", "../x"),
        ("output_subfolder", "/x"),
        ("output_subfolder", "a\\..\\..\\b"),
        ("output_dir", "/tmp"),
        ("cache_dir", "/tmp"),
        ("logging_dir", "/tmp"),
        ("optimizer_type", "os.system"),
    ],
)
def test_others_cannot_name_other_places_in_a_job(exposed_client, values, pictures, field, value):
    value = value.replace("{pictures}", str(pictures))
    found = error(exposed_client, "jobs", {"kind": "train", "values": {**values, field: value}})
    assert found["field"] == field and found["allowed"]
    assert error(exposed_client, "plan", {"values": {**values, field: value}})["field"] == field


# Presets and cache


def test_presets_are_kept_shared_and_deleted(client):
    saved = post(client, "presets/mine", {"name": "mine", "values": {"network_dim": 8, "output_name": "zorb"}})
    assert saved["values"] == {"network_dim": 8} and saved["own"]
    assert saved in get(client, "presets")["presets"] and get(client, f"presets/{quote(saved['id'])}") == saved
    text = client.get(f"{ROUTES}presets/{quote(saved['id'])}/toml")
    assert text.status_code == 200 and "network_dim = 8" in text.text
    assert client.delete(ROUTES + "presets/mine").status_code == 200
    assert post(client, "presets", {"toml": text.text})["values"] == {"network_dim": 8}
    assert error(client, "presets", {"toml": "x = "})["message"]
    assert error(client, "presets/bad", {"values": {"network_dim": 0}})["field"] == "network_dim"
    assert error(client, "presets/x", status=404)["field"] == "name"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_presets_name_is_a_plain_name(client, studio, name):
    folder = studio.host.data_dir.parent
    before = sorted(folder.rglob("*.toml"))
    for answer in (
        client.post(f"{ROUTES}presets/{name}", json={"values": {}}),
        client.delete(f"{ROUTES}presets/{name}"),
        client.get(f"{ROUTES}presets/{name}"),
        client.get(f"{ROUTES}presets/{name}/toml"),
    ):
        assert answer.status_code in (404, 405, 422), answer.text
    assert sorted(folder.rglob("*.toml")) == before


def test_the_cache_is_limited_and_cleared(client, studio):
    latents = studio.host.data_dir / "cache" / "latents"
    latents.mkdir(parents=True)
    (latents / "a.safetensors").write_bytes(b"x" * 1000)
    assert get(client, "form")["cache"]["bytes"] == 1000
    assert post(client, "cache", {"limit_bytes": 5000})["limit_bytes"] == 5000
    assert error(client, "cache", {"limit_bytes": True})["field"] == "limit_bytes"
    assert post(client, "cache/clear")["bytes"] == 0 and not list(latents.iterdir())


# For scripts


def test_scripts_submit_follow_and_stop(client_of, studio, values):
    from lib_lora.api.guard import Guard

    client = client_of(studio, Guard(page=False, api=True))
    job = post(client, "api/jobs", {"kind": "train", "values": values})
    assert get(client, "api/jobs")["jobs"][0]["id"] == job["id"]
    assert get(client, f"api/jobs/{job['id']}")["status"] == "queued"
    assert get(client, f"api/jobs/{job['id']}/events")["next"] == 0
    assert error(client, f"api/jobs/{job['id']}/stop", {})["field"] == "action"
    assert error(client, "api/jobs", {"kind": "train", "values": {"output_name": "../x"}})


def test_without_the_api_there_are_no_routes_for_scripts(client):
    assert client.get(ROUTES + "api/jobs").status_code == 404


def test_a_link_that_leads_nowhere_is_no_lora(client, studio):
    (studio.host.lora_dir() / "gone.safetensors").symlink_to("nowhere")
    assert get(client, "loras") == []
