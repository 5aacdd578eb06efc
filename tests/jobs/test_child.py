"""A job in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run

from .conftest import wait_for

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def ended(job):
    return wait_for(lambda: job.view()["ended"] and job.status, 240)


def same(first, second):
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """The children compute with as many threads as the tests do."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _small(train_options):
    train_options |= {"network_targets": "cross-attention"}


@pytest.fixture
def child(values):
    return {**values, "way": "child"}


def whole(train_options, tmp_path, **more):
    options = {**train_options, "output_dir": tmp_path / "whole", **more}
    list(Run(from_mapping(TrainConfig, options)).events())
    return tmp_path / "whole" / "zorb.safetensors"


def test_child_live_and_command_line_give_the_same_lora_bit_for_bit(host, values, child, open_queue, train_options):
    queue = open_queue(host)
    by_child = queue.add("train", child)
    assert ended(by_child) == "done", by_child.log_text()
    assert not host.unloaded and host.told == [("written", "zorb.safetensors"), ("checked", "zorb.safetensors")]
    assert host.tasks[0].steps[-1] == (3, 3) and by_child.view()["checked"]["change"] > 0
    live = queue.add("train", {**values, "output_name": "live"})
    assert ended(live) == "done" and (by_child.view()["way"], live.view()["way"]) == ("child", "live")
    flags = [part for name, value in {**train_options, "output_name": "plain"}.items() for part in (f"--{name}", value)]
    flags[flags.index("--output_dir") + 1] = host.loras
    done = subprocess.run([sys.executable, "-m", "lib_lora", "train", *map(str, flags)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    zorb = host.loras / "zorb.safetensors"
    assert same(zorb, host.loras / "live.safetensors") and same(zorb, host.loras / "plain.safetensors")


def test_a_pause_ends_the_process_and_another_goes_on(host, child, open_queue, train_options, tmp_path):
    queue = open_queue(host)
    job = queue.add("train", {**child, "max_train_steps": 40, "lora_while_paused": True})
    wait_for(lambda: job.state.step >= 2, 120)
    assert host.unloaded
    queue.pause(job.id)
    wait_for(lambda: job.status == "paused")
    assert not host.unloaded and job.view()["state"]
    step = job.state.step
    assert [path.name for path in host.loras.iterdir()] == [f"zorb-step{step:08d}.safetensors"] and step < 40
    queue.resume(job.id)
    assert ended(job) == "done", job.log_text()
    events = queue.events(job.id)[0]
    assert [event["step"] for event in events if event["event"] == "TrainingStarted"] == [0, step]
    assert sum(event["event"] == "TrainingEnded" for event in events) == 1
    assert same(host.loras / "zorb.safetensors", whole(train_options, tmp_path, max_train_steps=40))


def test_a_child_lets_others_have_the_model_by_itself(host, child, open_queue):
    queue = open_queue(host)
    job = queue.add("train", {**child, "max_train_steps": 5000, "pause_on_generate": True})
    wait_for(lambda: job.state.step >= 2, 120)
    host.waiting = True
    wait_for(lambda: job.status == "paused")
    assert not host.unloaded and "somebody else" in job.view()["why"]
    step, host.waiting = job.state.step, False
    wait_for(lambda: job.status == "running" and job.state.step > step, 120)
    queue.abort(job.id)
    assert ended(job) == "stopped"


@pytest.mark.parametrize(("action", "kept"), [("stop", 1), ("abort", 0)])
def test_a_child_is_stopped_and_aborted(host, child, open_queue, action, kept):
    queue = open_queue(host)
    job = queue.add("train", {**child, "max_train_steps": 5000})
    wait_for(lambda: job.state.step >= 2, 120)
    getattr(queue, action)(job.id)
    assert ended(job) == "stopped", job.log_text()
    assert len(list(host.loras.glob("zorb-step*.safetensors"))) == kept == bool(job.view()["state"])
    assert not host.unloaded and not host.turn.locked()


def test_a_paused_child_that_is_stopped_still_writes_its_lora(host, child, open_queue):
    queue = open_queue(host)
    job = queue.add("train", {**child, "max_train_steps": 5000})
    wait_for(lambda: job.state.step >= 2, 120)
    queue.pause(job.id)
    wait_for(lambda: job.status == "paused")
    assert not list(host.loras.iterdir())
    queue.stop(job.id)
    assert ended(job) == "stopped", job.log_text()
    assert [path.name for path in host.loras.iterdir()] == [f"zorb-step{job.state.step:08d}.safetensors"]


def test_a_childs_error_names_its_option(host, child, open_queue):
    queue = open_queue(host)
    job = queue.add("train", {**child, "learning_rate": 1e30, "max_grad_norm": 0, "max_train_steps": 9})
    assert ended(job) == "failed"
    error = job.view()["error"]
    assert error["field"] == "learning_rate" and "not a finite number" in error["message"] and not host.unloaded


def pid_of(job):
    """The process that runs ``job``, by its command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if job.id.encode() in (process / "cmdline").read_bytes():
                return int(process.name)
        except OSError:
            continue
    raise AssertionError("no such process")


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


@linux
def test_a_killed_child_is_a_failed_job_that_can_go_on(host, child, open_queue, train_options, tmp_path):
    queue = open_queue(host)
    job = queue.add("train", {**child, "max_train_steps": 60, "save_state_every_n_steps": 2})
    wait_for(lambda: job.state.step >= 3, 120)
    os.kill(pid_of(job), signal.SIGKILL)
    assert ended(job) == "failed" and not host.unloaded
    error = job.view()["error"]["message"]
    assert "SIGKILL" in error and "saved" in error  # the log's last lines
    queue.resume(job.id)
    wait_for(lambda: job.status in ("done", "failed"), 240)
    assert job.status == "done", job.log_text()
    assert [event["step"] for event in queue.events(job.id)[0] if event["event"] == "TrainingStarted"][-1] >= 2
    assert same(host.loras / "zorb.safetensors", whole(train_options, tmp_path, max_train_steps=60))


DRIVER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from tiny_host import TinyHost
from lib_lora.jobs.queue import JobQueue
folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
queue = JobQueue(TinyHost(folder, Path(values["pretrained_model_name_or_path"])))
queue.start()
job = queue.add("train", values)
while job.state.step < 3:
    time.sleep(0.02)
    assert job.status in ("queued", "running"), job.log_text()
print("ready", flush=True)
time.sleep(100)
"""


@linux
@pytest.mark.parametrize("way", ["live", "child"])
def test_a_job_whose_own_process_was_killed_goes_on_to_the_same_lora(
    host, values, open_queue, train_options, tmp_path, way
):
    import json

    more = {"way": way, "max_train_steps": 60, "save_state_every_n_steps": 2}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), json.dumps({**values, **more})]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"ready"
    process.kill()
    process.wait()
    queue = open_queue(host)
    (job,) = queue.jobs()
    assert job.status == "interrupted"
    queue.resume(job.id)  # a child may still be saving its state: it is waited for
    wait_for(lambda: job.status in ("done", "failed"), 240)
    assert job.status == "done", job.log_text()
    assert [event["step"] for event in queue.events(job.id)[0] if event["event"] == "TrainingStarted"][-1] >= 2
    assert same(host.loras / "zorb.safetensors", whole(train_options, tmp_path, max_train_steps=60))


def test_several_processes_train_as_one_job(host, values, open_queue, tmp_path):
    queue = open_queue(host)
    job = queue.add("train", {**values, "num_processes": 2, "max_train_steps": 300})
    assert job.view()["way"] == "child"
    wait_for(lambda: job.state.step >= 1, 120)
    queue.pause(job.id)
    wait_for(lambda: job.status == "paused", 120)
    queue.resume(job.id)
    step = job.state.step
    wait_for(lambda: job.state.step > step, 120)
    queue.stop(job.id)
    assert ended(job) == "stopped", job.log_text()
    assert len(list(host.loras.glob("zorb-step*.safetensors"))) == 1


@pytest.mark.parametrize("way", ["live", "child"])
def test_a_preflight_tells_time_and_memory_and_writes_nothing(host, values, open_queue, way):
    queue = open_queue(host)
    job = queue.add("preflight", {**values, "way": way, "max_train_steps": 100})
    assert ended(job) == "done", job.log_text()
    found = job.view()["preflight"]
    assert found["steps"] == 100 and found["seconds_per_step"] > 0 and found["memory_mb"] > 0
    assert not list(host.loras.iterdir()) and "pause" not in job.can()
