"""LoRA Studio as a user installs it: its folder in the WebUI's extensions, and a restart."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
from pathlib import Path

import pytest

from webui_server import WebuiServer, prepare_data_dir

pytestmark = [pytest.mark.webui, pytest.mark.slow]


def _log(server: WebuiServer) -> str:
    return server.log.read_text("utf-8", "replace")


def _answers(server: WebuiServer, path: str) -> bool:
    try:
        server.get(path)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True


def _tabs(server: WebuiServer) -> list[str]:
    """The labels of the page's uppermost tabs: these have an id, the tabs of the settings have others."""
    tabs = [each["props"] for each in server.get("/config")["components"] if each["type"] == "tabitem"]
    return [tab["label"] for tab in tabs if str(tab.get("elem_id")).startswith("tab_")]


def test_there_is_a_tab_with_the_pages_mount(webui_server):
    assert _tabs(webui_server).count("LoRA Studio") == 1
    mounts = [each for each in webui_server.get("/config")["components"] if each["type"] == "html"]
    assert sum('id="lora-studio"' in str(each["props"].get("value")) for each in mounts) == 1


def test_the_plot_of_txt2img_and_of_img2img_offers_our_axes(webui_server):
    components = [each["props"] for each in webui_server.get("/config")["components"]]
    plots = [props for props in components if props.get("label") == "X type"]
    offered = [[name for name in plot["choices"] if str(name).startswith("[LoRA]")] for plot in plots]
    assert len(offered) == 2 and offered[0] == offered[1] and len(set(offered[0])) == 8


def test_the_page_loads_our_script_and_style_and_no_other_file_of_ours(webui_server):
    page = webui_server.get("/")
    ours = re.findall(r'(?:src|href)="(file=[^"]*LoRA Studio[^"]*)"', page)
    names = [re.search(r"LoRA Studio/([^?]*)", each)[1] for each in ours]
    assert sorted(names) == ["javascript/lora_studio.js", "style.css"]
    for each in ours:
        assert webui_server.get("/" + each.replace(" ", "%20"))


def test_the_routes_answer(webui_server):
    form = webui_server.get("/lora-studio/form")
    assert form["host"]["name"] == "webui"
    assert [each["name"] for each in form["checkpoints"]] == [webui_server.checkpoint.name]
    assert webui_server.get("/lora-studio/jobs")["jobs"] == []
    assert "start" in webui_server.get("/lora-studio/static/main.js")


def test_the_log_says_nothing_of_us(webui_server):
    log = _log(webui_server).replace(webui_server.checkpoint.stem, "checkpoint")
    assert "Startup time" in log
    assert not re.search(r"lora.?studio|lib_lora|traceback|\*\*\*", log, re.IGNORECASE), log


def test_our_settings_are_there(webui_server):
    options = webui_server.get("/sdapi/v1/options")
    assert options["lora_studio_dataset_dirs"] == ""
    assert options["lora_studio_pause_on_generate"] is True


def test_an_option_that_is_set_is_the_forms_default(webui_server):
    webui_server.post("/sdapi/v1/options", {"lora_studio_pause_on_generate": False})
    try:
        assert webui_server.get("/lora-studio/form")["defaults"]["pause_on_generate"] is False
    finally:
        webui_server.post("/sdapi/v1/options", {"lora_studio_pause_on_generate": True})


def test_who_comes_from_another_computer_cannot_open_folders(start_webui):
    server = start_webui("--api", "--server-name", "127.0.0.1")  # any name makes the WebUI think so
    assert server.get("/lora-studio/form")["host"]["exposed"] is False  # and we know better
    server.post("/sdapi/v1/options", {"lora_studio_dataset_dirs": "/", "lora_studio_names": "evil.example"})
    options = server.get("/sdapi/v1/options")
    assert (options["lora_studio_dataset_dirs"], options["lora_studio_names"]) == ("", "")


def test_reload_ui_keeps_the_queue_and_its_jobs(webui_server):
    job = webui_server.post("/lora-studio/jobs", {"kind": "train", "values": _values(webui_server, "kept")})
    _wait_for(webui_server, job["id"], "running", steps=1)
    _reload(webui_server)
    assert _tabs(webui_server).count("LoRA Studio") == 1
    now = webui_server.get(f"/lora-studio/jobs/{job['id']}")
    assert now["status"] == "running"
    _wait_for(webui_server, job["id"], "running", steps=now["step"] + 2)
    webui_server.post(f"/lora-studio/jobs/{job['id']}/abort", {})
    _wait_for(webui_server, job["id"], "stopped")
    assert "Traceback" not in _log(webui_server)


def test_a_disabled_extension_is_gone_and_comes_back_when_it_is_enabled(start_webui, tmp_path):
    prepare_data_dir(tmp_path, extension_name="my lora (copy)")
    (tmp_path / "config.json").write_text(json.dumps({"disabled_extensions": ["my lora (copy)"]}), encoding="utf-8")
    server = start_webui("--api", data_dir=tmp_path)
    assert "LoRA Studio" not in _tabs(server)
    assert not _answers(server, "/lora-studio/jobs")

    server.post("/sdapi/v1/options", {"disabled_extensions": []})
    _reload(server)
    assert "LoRA Studio" in _tabs(server)
    job = server.post("/lora-studio/jobs", {"kind": "train", "values": _values(server, "left")})
    _wait_for(server, job["id"], "running", steps=1)

    server.post("/sdapi/v1/options", {"disabled_extensions": ["my lora (copy)"]})
    _reload(server)
    assert "LoRA Studio" not in _tabs(server)
    assert not _answers(server, "/lora-studio/jobs")
    _assert_can_go_on(server, job["id"])
    assert "Traceback" not in _log(server)
    server.stop()


def test_without_pages_the_routes_are_there_and_a_job_survives_the_webuis_end(start_webui, tmp_path):
    prepare_data_dir(tmp_path)
    server = start_webui("--api", "--nowebui", "--server-name", "127.0.0.1", data_dir=tmp_path)
    job = server.post("/lora-studio/jobs", {"kind": "train", "values": _values(server, "ended")})
    _wait_for(server, job["id"], "running", steps=1)
    server.stop()
    _assert_can_go_on(server, job["id"])


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process that is told to end without asking it")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_runs_when_the_webui_is_told_to_end_can_go_on(start_webui, tmp_path, number):
    prepare_data_dir(tmp_path)
    server = start_webui(data_dir=tmp_path)
    job = server.post("/lora-studio/jobs", {"kind": "train", "values": _values(server, "ended")})
    _wait_for(server, job["id"], "running", steps=1)
    server.process.send_signal(number)
    server.process.wait(60)
    _assert_can_go_on(server, job["id"])
    assert not list(server.lora_dir.glob("*.safetensors"))


def _values(server: WebuiServer, name: str) -> dict[str, object]:
    """A run on the loaded checkpoint that takes longer than the test."""
    return {
        "pretrained_model_name_or_path": str(server.checkpoint),
        "train_data_dir": str(server.extension / "demo" / "dataset"),
        "output_name": name,
        "resolution": "64",
        "min_bucket_reso": 64,
        "network_dim": 2,
        "max_train_steps": 2000,
    }


def _assert_can_go_on(server: WebuiServer, id: str) -> None:
    """The job of a WebUI that is gone, or does not know it any more, is marked, and its state is there."""
    state = json.loads((server.data_dir / "lora_studio" / "jobs" / id / "state.json").read_text("utf-8"))
    assert state["status"] == "interrupted"
    assert state["state"] and Path(state["state"]).is_dir()


def _wait_for(server: WebuiServer, id: str, status: str, steps: int = 0) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        job = server.get(f"/lora-studio/jobs/{id}")
        if job["status"] == status and (job["step"] or 0) >= steps:
            return
        assert job["status"] != "failed", job["error"]
        time.sleep(0.1)
    raise AssertionError(f"is {job['status']} at step {job['step']}, not {status}")


def _reload(server: WebuiServer) -> None:
    """Press "Reload UI", and wait until the page is there again."""
    config = server.get("/config")
    named = {each["props"].get("elem_id"): each["id"] for each in config["components"]}
    button = named["settings_restart_gradio"]
    (index,) = [n for n, each in enumerate(config["dependencies"]) if each["targets"] == [button]]
    starts = _log(server).count("Startup time:")
    server.post("/run/predict", {"fn_index": index, "data": [], "session_hash": "test"})
    end = time.monotonic() + 120
    while _log(server).count("Startup time:") == starts:
        assert time.monotonic() < end, _log(server)[-3000:]
        time.sleep(0.1)
