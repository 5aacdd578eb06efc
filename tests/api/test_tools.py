"""The tools' routes, for a page of one's own and for others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lib_lora.base.options import options_of
from lib_lora.weights.tools import TOOLS
from tiny_loras import write_lora

ROUTES = "/lora-studio/"


@pytest.fixture
def models(tmp_path, make_host):
    """The host's folder of models, with two LoRAs in it."""
    write_lora(tmp_path / "models" / "Lora" / "zorb.safetensors")
    write_lora(tmp_path / "models" / "Lora" / "people" / "ann.safetensors", seed=1)
    return tmp_path / "models"


def get(client, path):
    answer = client.get(ROUTES + path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(client, path, body, status=200):
    answer = client.post(ROUTES + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]


def test_the_forms_have_all_that_a_page_needs(client, models, studio):
    schema = get(client, "tools")
    assert [tool["name"] for tool in schema["tools"]] == list(TOOLS)
    assert {each["name"] for each in schema["loras"]} == {"zorb", "people/ann"}
    assert schema["subfolders"] == {"lora": ["people"], "checkpoint": ["clip"]}
    assert schema["checkpoints"][0]["path"] == str(studio.host.checkpoints()[0].path) and schema["vaes"] == []
    assert {"name": "ALL0.5", "values": ",".join(["0.5"] * 17)} in schema["block_weights"]
    forms = {tool["name"]: tool for tool in schema["tools"]}
    kinds = {
        tool: {option["name"]: option["kind"] for group in form["groups"] for option in group["options"]}
        for tool, form in forms.items()
    }
    for tool, form in forms.items():
        assert form["help"] and form["label"] and set(form["defaults"]) == set(kinds[tool])
        assert not {"lora_dir", "models", "picture"} & set(kinds[tool])
        assert ("output" in kinds[tool]) == ("overwrite" in kinds[tool]) == (form["writes"] is not None)
    assert kinds["bake"]["checkpoint"] == "checkpoint" and kinds["bake"]["vae"] == "vae"
    assert kinds["merge"]["prompt"] == "loras" and kinds["merge"]["output"] == "output"
    assert kinds["compare"] == {"first": "lora", "second": "lora", "base": "checkpoint", "directions": "int"}
    assert kinds["inspect"]["thumbnail"] == "path" and kinds["inspect"]["set"] == "list"
    assert {tool: form["writes"] for tool, form in forms.items()}["bake"] == "checkpoint"


def test_a_form_opens_with_something_that_works(client, models, studio):
    schema = get(client, "tools")
    forms = {tool["name"]: tool["defaults"] for tool in schema["tools"]}
    for tool, chosen in (
        ("resize", {"model": "zorb"}),
        ("convert", {"model": "zorb"}),
        ("merge", {"prompt": "<lora:zorb:1>"}),
    ):
        plan = post(client, f"tools/{tool}/plan", {"values": {**forms[tool], **chosen, "output": "new"}})
        assert plan["output"] == str(models / "Lora" / "new.safetensors") and plan["exists"] is False


def test_a_plan_says_what_would_be_written(client, models, studio):
    values = {"checkpoint": studio.host.checkpoints()[0].name, "prompt": "<lora:zorb:1>", "output": "tiny"}
    plan = post(client, "tools/bake/plan", {"values": {**values, "output_subfolder": "clip"}})
    assert plan["output"].endswith(os.path.join("Stable-diffusion", "clip", "tiny.safetensors"))
    assert plan["exists"] is False and plan["needed_mb"] > 0 and plan["free_mb"] > 0 and plan["warnings"] == []
    plan = post(
        client,
        "tools/resize/plan",
        {"values": {"model": "zorb", "new_rank": 2, "output": "ann", "output_subfolder": "people"}},
    )
    assert plan["exists"] is True and plan["needed_mb"] is None
    assert post(client, "tools/verify/plan", {"values": {"model": "zorb"}})["output"] is None
    assert post(client, "tools/verify/plan", {"values": {"model": ""}}, 422)["field"] == "model"
    assert post(client, "tools/verify/plan", {}, 422)["field"] == "values"
    assert post(client, "tools/dance/plan", {"values": {}}, 404)["field"] == "name"


def finished(client, studio, job):
    studio.queue.start()
    deadline = time.monotonic() + 60
    while (found := get(client, f"jobs/{job['id']}"))["status"] != "done":
        assert time.monotonic() < deadline and not found["error"], found
        time.sleep(0.05)
    return found


def test_a_baked_checkpoint_is_offered(client, models, studio):
    values = {"checkpoint": studio.host.checkpoints()[0].name, "prompt": "<lora:people/ann:0.5>", "output": "baked"}
    job = finished(client, studio, post(client, "jobs", {"kind": "bake", "values": values}))
    schema = get(client, "tools")
    assert job["tool"]["output"] in {each["path"] for each in schema["checkpoints"]}
    assert "baked.safetensors" in {each["name"] for each in schema["checkpoints"]}


def test_a_tools_job_has_its_report_and_chart(client, models, studio):
    job = post(client, "jobs", {"kind": "compare", "values": {"first": "zorb", "second": "people/ann"}})
    assert job["name"] == "zorb and ann" and job["tool"] is None
    assert client.get(f"{ROUTES}jobs/{job['id']}/picture").status_code == 404
    found = finished(client, studio, job)
    assert found["tool"]["report"]["blocks"] and "cosine" in found["tool"]["text"] and found["tool"]["picture"] is True
    (listed,) = get(client, "jobs")["jobs"]
    assert "report" not in listed["tool"] and listed["tool"]["seconds"] == found["tool"]["seconds"]
    answer = client.get(f"{ROUTES}jobs/{job['id']}/picture")
    assert answer.content.startswith(b"\x89PNG") and answer.headers["content-type"] == "image/png"


@pytest.fixture
def others_values(tmp_path, models):
    """What others may submit."""
    checkpoint = str(next((models / "Stable-diffusion").glob("*.safetensors")))
    return {
        "extract": {"model_org": checkpoint, "model_tuned": checkpoint, "output": "new"},
        "merge": {"prompt": "<lora:zorb:1>", "output": "new"},
        "bake": {"checkpoint": checkpoint, "prompt": "<lora:zorb:1>", "output": "new"},
        "resize": {"model": "zorb", "new_rank": 2, "output": "new"},
        "blocks": {"model": "zorb", "lbw": "MIDD", "output": "new"},
        "inspect": {"model": "zorb"},
        "verify": {"model": "zorb"},
        "compare": {"first": "zorb", "second": "people/ann"},
    }


@pytest.mark.parametrize(
    "kind, field, value",
    [
        ("extract", "model_org", "/etc/passwd"),
        ("extract", "model_tuned", "../../../../etc/passwd"),
        ("merge", "base", "/etc/passwd"),
        ("merge", "prompt", "<lora:../../secret:1>"),
        ("merge", "prompt", "<lora:/etc/passwd:1>"),
        ("merge", "prompt", "<lora:leak:1>"),
        ("merge", "lora_dir", "/etc"),
        ("merge", "models", ["/etc/passwd"]),
        ("merge", "presets", "/etc/passwd"),
        ("bake", "checkpoint", "C:\\model.safetensors"),
        ("bake", "vae", "/etc/passwd"),
        ("bake", "output", "../x"),
        ("bake", "output", "/tmp/x"),
        ("bake", "output_subfolder", "/tmp"),
        ("bake", "output_subfolder", "out"),
        ("resize", "output", "a\nb"),
        ("resize", "output_subfolder", "a/../.."),
        ("resize", "model", "/etc/passwd"),
        ("resize", "model", "../../secret"),
        ("resize", "model", "leak"),
        ("resize", "model", "a\x00"),
        ("inspect", "picture", "/tmp/x.png"),
        ("inspect", "thumbnail", "/etc/passwd"),
        ("verify", "model", "\\\\server\\share"),
        ("compare", "second", "C:\\x"),
    ],
)
def test_others_stay_in_the_hosts_folders(exposed_client, others_values, models, tmp_path, kind, field, value):
    write_lora(tmp_path / "secret.safetensors")
    (models / "Lora" / "leak.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (models / "Stable-diffusion" / "out").symlink_to(tmp_path)
    for path, body in (("jobs", {"kind": kind}), (f"tools/{kind}/plan", {})):
        error = post(exposed_client, path, {**body, "values": {**others_values[kind], field: value}}, 422)
        assert error["field"] == field, error
    assert get(exposed_client, "jobs")["jobs"] == []


def _named_files():
    """Every option that names files, of every tool."""
    for tool in TOOLS.values():
        yield from ((tool.name, info.name) for info in options_of(tool.config) if info.kind is Path or info.folder)


@pytest.mark.parametrize("kind, field", list(_named_files()))
def test_no_option_that_names_a_file_is_forgotten(exposed_client, others_values, kind, field):
    values = {"convert": {"model": "zorb", "output": "new"}, **others_values}[kind]
    body = {"kind": kind, "values": {**values, field: "/etc/passwd"}}
    assert post(exposed_client, "jobs", body, 422)["field"] == field


@pytest.mark.parametrize("kind", ["merge", "bake", "resize", "blocks", "inspect", "verify", "compare"])
def test_others_may_use_the_tools_on_the_hosts_files(exposed_client, others_values, kind):
    job = post(exposed_client, "jobs", {"kind": kind, "values": others_values[kind]})
    assert job["status"] == "queued"


def test_a_person_at_the_machine_may_name_any_file(client, tmp_path, models):
    elsewhere = write_lora(tmp_path / "elsewhere" / "new.safetensors")
    plan = post(client, "tools/convert/plan", {"values": {"model": str(elsewhere), "output": "converted"}})
    assert plan["output"] == str(models / "Lora" / "converted.safetensors")
