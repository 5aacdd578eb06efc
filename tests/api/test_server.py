"""The standalone server as a process of its own, and a tiny run through HTTP."""

from __future__ import annotations

import http.cookiejar
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from lib_lora.api import server
from lib_lora.base.errors import StudioError

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 240


@pytest.fixture
def place(tmp_path, tiny_checkpoint, pictures):
    """A working folder as somebody has it who starts the page."""
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "models" / "Stable-diffusion")
    (tmp_path / "datasets").mkdir()
    shutil.copytree(pictures, tmp_path / "datasets" / "zorb")
    return tmp_path


@pytest.fixture
def start(place):
    """Starts servers in the folder; they are ended with the test."""
    started = []

    def make(*flags, python=()):
        started.append(Server(place, flags, python))
        started[-1].wait_until_it_answers()
        return started[-1]

    yield make
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


class Server:
    def __init__(self, folder, flags, python):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.log = folder, folder / "server.log"
        command = [sys.executable, *python, "-m", "lib_lora", "ui", "--port", str(self.port), "--no-inbrowser", *flags]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        surroundings = {**os.environ, "PYTHONPATH": path}
        with open(self.log, "w") as file:
            self.process = subprocess.Popen(command, cwd=folder, env=surroundings, stdout=file, stderr=file)
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(jar, urllib.request.ProxyHandler({}))

    def wait_until_it_answers(self):
        self.until(lambda: "LoRA Studio: http" in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def until(self, happened):
        deadline = time.monotonic() + WAIT_S
        while not (result := happened()):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return result

    def send(self, path, body=None, headers=None, form=None):
        """(status, answer) of a GET, or of a POST where there is a body."""
        data = json.dumps(body).encode() if form is None else urllib.parse.urlencode(form).encode()
        kind = {} if form is not None or body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            data=None if body is None and form is None else data,
            headers={**kind, **(headers or {})},
        )
        try:
            with self.opener.open(request, timeout=30) as answer:
                text, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            text, status = error.read(), error.code
        return status, json.loads(text) if text[:1] in (b"{", b"[") else text.decode()

    def ask(self, path, body=None):
        status, answer = self.send(f"lora-studio/{path}", body)
        assert status == 200, answer
        return answer

    def job_until(self, id, *statuses):
        return self.until(lambda: (job := self.ask(f"jobs/{id}"))["status"] in statuses and job)

    def event_of(self, id, kind):
        """The first event of a kind, as it comes."""
        after, found = 0, []

        def come():
            nonlocal after
            answer = self.ask(f"jobs/{id}/events?after={after}")
            after = answer["next"]
            found.extend(event for event in answer["events"] if event["event"] == kind)
            job = self.ask(f"jobs/{id}")
            assert found or job["status"] not in ("failed", "stopped"), job["error"]
            return found

        return self.until(come)[0]

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WAIT_S)


def form(place, **changes):
    (checkpoint,) = (place / "models" / "Stable-diffusion").glob("*.safetensors")
    return {
        "pretrained_model_name_or_path": str(checkpoint),
        "train_data_dir": str(place / "datasets" / "zorb"),
        "output_name": "zorb",
        "network_dim": 2,
        "network_alpha": 2,
        "resolution": "64",
        "min_bucket_reso": 64,
        "max_train_steps": 3,
        "learning_rate": 1e-2,
        "device": "cpu",
        **changes,
    }


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no Ctrl-C to one process alone")
def test_a_run_by_http_and_one_that_outlives_the_server(start, place):
    first = start(python=("-X", "importtime"))
    assert first.ask("jobs")["jobs"] == [] and first.send("")[0] == 200
    imported = {line.rpartition("|")[2].strip() for line in first.log.read_text().splitlines()}
    assert "gradio" in imported and "torch" not in imported  # the page opens at once
    done = first.ask("jobs", {"kind": "train", "values": form(place)})
    checked = first.event_of(done["id"], "Checked")
    assert checked["matched"] == checked["keys"] > 0 and checked["change"] > 0
    assert first.job_until(done["id"], "done")["result"] == str(place / "models" / "Lora" / "zorb.safetensors")

    long = first.ask("jobs", {"kind": "train", "values": form(place, output_name="long", max_train_steps=100_000)})
    first.event_of(long["id"], "StepDone")
    flags = ["--data-dir", str(place / "lora_studio"), "--no-inbrowser"]
    another = [sys.executable, "-m", "lib_lora", "ui", *flags]
    refused = subprocess.run(another, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "--data-dir" in refused.stderr and "Traceback" not in refused.stderr
    assert first.interrupt() == 0
    output = first.log.read_text()
    assert "saves its state" in output and "Traceback" not in output

    second = start()
    job = second.ask(f"jobs/{long['id']}")
    assert job["status"] == "interrupted" and Path(job["state"]).is_dir() and job["step"] > 0
    assert second.ask(f"jobs/{long['id']}/resume", {})["status"] in ("queued", "running")
    second.until(lambda: second.ask(f"jobs/{long['id']}")["step"] > job["step"])
    second.ask(f"jobs/{long['id']}/stop", {})
    assert second.job_until(long["id"], "stopped")["state"]
    assert second.interrupt() == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no Ctrl-C to one process alone")
def test_with_a_login_page_and_scripts_each_need_their_own(start, place):
    accounts = place / "accounts.txt"
    accounts.write_text("ann:secret\nbob:other")
    server = start("--auth-path", str(accounts), "--api", "--api-auth", "robot:x:y", "--listen")
    assert server.send("lora-studio/jobs")[0] == 401
    assert server.send("lora-studio/jobs", {"kind": "train", "values": {}})[0] == 401
    assert server.send("lora-studio/static/main.js")[0] == 401
    assert server.send("lora-studio/api/jobs")[0] == 401
    assert server.send("login", form={"username": "bob", "password": "secret"})[0] == 400
    assert server.send("login", form={"username": "bob", "password": "other"})[0] == 200
    assert server.ask("jobs")["jobs"] == []
    assert "import" in server.send("lora-studio/static/main.js")[1]
    assert server.send("lora-studio/jobs", {}, {"Origin": "http://evil.example"})[0] == 403
    refused = server.send("lora-studio/jobs", {"kind": "train", "values": form(place, train_data_dir="/etc")})
    assert refused[0] == 422 and refused[1]["error"]["field"] == "train_data_dir"

    robot = {"Authorization": "Basic cm9ib3Q6eDp5"}  # robot:x:y
    values = form(place, max_train_steps=100_000)
    status, job = server.send("lora-studio/api/jobs", {"kind": "train", "values": values}, robot)
    assert status == 200
    server.event_of(job["id"], "StepDone")
    assert server.send(f"lora-studio/api/jobs/{job['id']}/stop", {}, robot)[0] == 200
    assert server.job_until(job["id"], "stopped")["state"]
    assert server.interrupt() == 0


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StudioError, match="another program uses it") as raised:
            server._free_port("127.0.0.1", port)
    assert raised.value.field == "port" and raised.value.came == port
    with pytest.raises(StudioError, match="65535"):
        server._free_port("127.0.0.1", 70000)


def test_without_a_port_the_next_free_one_is_taken(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(server, "FIRST_PORT", other.getsockname()[1])
        found = server._free_port("127.0.0.1", None)
        assert server.FIRST_PORT < found < server.FIRST_PORT + 100
        monkeypatch.setattr(server, "_PORTS_TRIED", 1)
        with pytest.raises(StudioError, match="taken"):
            server._free_port("127.0.0.1", None)


def test_accounts_come_from_a_file(tmp_path):
    file = tmp_path / "accounts"
    file.write_text("a:b,c:d\ne:f\n", encoding="utf-8")
    assert server._accounts_of_file(file) == {"a": "b", "c": "d", "e": "f"}
    with pytest.raises(StudioError, match="cannot be read"):
        server._accounts_of_file(tmp_path / "nowhere")
