from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs gradio")

from lib_lora.base.errors import StudioError
from lib_lora.base.events import SampleReady
from lib_lora.base.options import from_mapping
from lib_lora.hosts.standalone.sampling import SampleConfig, sample
from lib_lora.ui import work
from lib_lora.ui.app import RunPanel, build_app
from lib_lora.ui.compat_gradio import make_blocks
from lib_lora.ui.monitor import RunMonitor

ROOT = Path(__file__).resolve().parents[2]


def make_panel(monitor):
    with make_blocks("test", ""):
        return RunPanel(monitor, "training", "Train", with_plan=True)


def test_the_page_opens_without_torch_and_ctrl_c_closes_it(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-X", "importtime", "-m", "lib_lora", "ui", "--port", str(port), "--no-inbrowser"]
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "*"}
        process = subprocess.Popen(command, cwd=tmp_path, env=surroundings, stdout=file, stderr=file)
        try:
            assert status_of(f"http://127.0.0.1:{port}/", process) == 200
        finally:
            process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
            process.wait(60)
    output = log.read_text()
    if os.name != "nt":
        assert process.returncode == 0, output[-2000:]
    assert "Traceback" not in output
    imported = {line.rpartition("|")[2].strip() for line in output.splitlines() if line.startswith("import time:")}
    assert "gradio" in imported and "torch" not in imported


def status_of(url, process, seconds=90):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            return opener.open(url, timeout=10).status
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return None


def test_the_page_is_built_with_every_option():
    blocks = build_app(RunMonitor())
    ids = {getattr(block, "elem_id", None) for block in blocks.blocks.values()}
    assert {"TrainConfig-network_dim", "SampleConfig-prompt"} <= ids


def test_following_shows_the_state_and_ends_with_the_work(tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (8, 8), "red").save(path)
    monitor = RunMonitor()
    panel = make_panel(monitor)
    monitor.start("training", lambda control, tell: tell(SampleReady(path, "zorb", 5)))
    *_, last = [{}, *panel.follow()]
    monitor.wait(30)
    (reloaded,) = panel.follow()  # a page that is opened later sees the same
    assert str(path) in reloaded[panel.files]["value"]
    ((picture, caption),) = reloaded[panel.pictures]["value"]
    assert picture.getpixel((0, 0)) == (255, 0, 0) and caption == "step 5: zorb"
    assert "Done" in last[panel.status] and reloaded[panel.start_button]["interactive"] is True


def test_a_mistake_in_the_form_is_shown_and_nothing_starts():
    monitor = RunMonitor()
    panel = make_panel(monitor)

    def mistake():
        raise StudioError("not allowed", field="network_dim", came=0)

    (shown,) = panel.start(mistake)
    assert "network_dim: not allowed" in shown[panel.message]["value"]
    assert not monitor.read("training").running


def test_sampling_writes_the_pictures_asked_for(tiny_checkpoint, tmp_path):
    values = {
        "pretrained_model_name_or_path": tiny_checkpoint,
        "prompt": "red cat",
        "output_dir": tmp_path / "out",
        "steps": 2,
        "width": 64,
        "height": 64,
        "images": 2,
        "device": "cpu",
    }
    monitor = RunMonitor()
    monitor.start("sampling", partial(sample, from_mapping(SampleConfig, values)))
    monitor.wait(60)
    state = monitor.read("sampling")
    assert not state.error
    assert [path.name for path in state.written] == ["00000-1.png", "00001-2.png"]
    assert Image.open(state.written[0]).size == (64, 64)
    assert state.progress.done == state.progress.total == 4


def test_loras_of_a_folder_are_listed_by_name(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.safetensors", "sub/A.safetensors", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert work.loras(str(tmp_path)) == ["A", "b"]
    assert work.loras("") == [] and work.loras(str(tmp_path / "nowhere")) == []
