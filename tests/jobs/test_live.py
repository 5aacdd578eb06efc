"""A job on the model that the host lends."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file

from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run

from .conftest import wait_for


def ended(job):
    return wait_for(lambda: job.view()["ended"] and job.status not in ("queued", "running", "stopping") and job.status)


def same(first, second):
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def names(queue, job):
    return [event["event"] for event in queue.events(job.id)[0]]


@pytest.fixture
def whole(train_options, tmp_path):
    """The LoRA of an undisturbed run of these options by itself, from the file."""

    def make(steps=3):
        options = {**train_options, "output_dir": tmp_path / "whole", "max_train_steps": steps}
        list(Run(from_mapping(TrainConfig, options)).events())
        return tmp_path / "whole" / "zorb.safetensors"

    return make


@pytest.fixture(autouse=True)
def _small(train_options):
    train_options |= {"network_targets": "cross-attention", "network_train_unet_only": True}


def test_a_live_job_gives_the_lora_of_the_file_and_hands_everything_over(host, values, open_queue, whole):
    queue = open_queue(host)
    job = queue.add("train", {**values, "activation_text": "zorb", "preferred_weight": 0.8, "notes": "of tests"})
    assert ended(job) == "done", job.view()["error"]
    assert same(host.loras / "zorb.safetensors", whole())
    assert host.told == [("written", "zorb.safetensors"), "given back", ("checked", "zorb.safetensors")]
    view = job.view()
    assert (view["way"], view["result"]) == ("live", str(host.loras / "zorb.safetensors"))
    assert view["checked"]["keys"] == view["checked"]["matched"] > 0 and view["checked"]["change"] > 0
    card = json.loads((host.loras / "zorb.json").read_text())
    assert card == {"sd version": "SD1", "activation text": "zorb", "preferred weight": 0.8, "notes": "of tests"}
    (task,) = host.tasks
    assert task.title == "zorb" and task.steps[-1] == (3, 3)
    assert {path.name for path in host.loras.iterdir()} == {"zorb.safetensors", "zorb.json"}


def test_pictures_and_states_are_in_the_jobs_own_folder(host, values, open_queue):
    queue = open_queue(host)
    prompt = "zorb --w 64 --h 64 --s 1"
    more = {"sample_prompts_text": prompt, "sample_every_n_steps": 2, "save_state_every_n_steps": 2}
    job = queue.add("train", {**values, **more})
    assert ended(job) == "done", job.view()["error"]
    (picture,) = job.view()["pictures"]
    assert (picture["prompt"], picture["step"]) == ("zorb", 2)
    assert job.picture(picture["name"]).is_relative_to(job.folder) and job.picture(picture["name"]).is_file()
    with pytest.raises(Exception, match="no such picture"):
        job.picture("../" + picture["name"])
    assert job.view()["state"].startswith(str(job.state_folder))


def test_a_paused_run_gives_the_same_lora_although_another_checkpoint_was_used_meanwhile(
    host, values, open_queue, whole, tmp_path
):
    from tiny import write_checkpoint

    other = write_checkpoint(tmp_path / "other", seed=1, name="other")
    host.known.append(other)
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 8, "lora_while_paused": True})
    wait_for(lambda: job.state.step >= 1)
    queue.pause(job.id)
    wait_for(lambda: job.status == "paused")
    assert not host.held and job.view()["state"]
    step = job.state.step
    assert (host.loras / f"zorb-step{step:08d}.safetensors").exists() and step < 8
    with host.turn:  # as the WebUI does for a picture
        host.switch_to(other)
    queue.resume(job.id)
    assert ended(job) == "done", job.view()["error"]
    assert host.told.count("put back") == 1 and not host.held
    assert same(host.loras / "zorb.safetensors", whole(8))


def test_where_the_user_has_switched_it_may_wait_and_says_why(host, values, open_queue, whole, tmp_path):
    from tiny import write_checkpoint

    other = write_checkpoint(tmp_path / "other", seed=1, name="other")
    mine = host.loaded
    host.known.append(other)
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 8, "on_switch": "wait"})
    wait_for(lambda: job.state.step >= 1)
    queue.pause(job.id)
    wait_for(lambda: job.status == "paused")
    host.switch_to(other)
    for _ in range(2):
        queue.resume(job.id)
        wait_for(lambda: "another checkpoint is loaded" in (job.view()["why"] or ""))
        assert job.status == "paused" and not host.held
    host.switch_to(mine)
    queue.resume(job.id)
    assert ended(job) == "done", job.view()["error"]
    assert job.view()["why"] is None and same(host.loras / "zorb.safetensors", whole(8))


def test_it_pauses_by_itself_while_somebody_wants_the_model(host, values, open_queue, whole):
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 8, "pause_on_generate": True})
    wait_for(lambda: job.state.step >= 1)
    host.waiting = True
    wait_for(lambda: job.status == "paused")
    assert not host.held and "somebody else" in job.view()["why"]
    with host.turn:
        host.waiting = False
        wait_for(lambda: "waits for the host's model" in job.view()["why"])
        assert job.status == "paused"
    assert ended(job) == "done", job.view()["error"]
    assert "Resumed" in names(queue, job) and same(host.loras / "zorb.safetensors", whole(8))


def test_without_the_option_nobody_is_let_in(host, values, open_queue):
    host.waiting = True
    queue = open_queue(host)
    job = queue.add("train", {**values, "pause_on_generate": False})
    assert ended(job) == "done" and "Paused" not in names(queue, job)


def test_a_job_that_is_stopped_while_it_waits_for_the_model_does_not_begin(host, values, open_queue):
    queue = open_queue(host)
    with host.turn:  # somebody makes a picture
        job = queue.add("train", values)
        wait_for(lambda: job.view()["why"] == "waits for the host's model")
        queue.stop(job.id)
    assert ended(job) == "stopped" and not host.held
    assert "TrainingStarted" not in names(queue, job)


def test_a_live_job_waits_until_the_host_has_loaded_its_model(host, values, open_queue):
    queue = open_queue(host, start=False)
    job = queue.add("train", values)
    loaded, host.loaded = host.loaded, None  # it was started again meanwhile
    queue.start()
    wait_for(lambda: "loaded its model" in (job.view()["why"] or ""))
    host.loaded = loaded
    assert ended(job) == "done" and job.view()["way"] == "live"


@pytest.mark.parametrize("while_paused", [False, True])
@pytest.mark.parametrize(("action", "kept"), [("stop", True), ("abort", False)])
def test_the_model_is_given_back_after_stop_and_abort(host, values, open_queue, while_paused, action, kept):
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 500})
    wait_for(lambda: job.state.step >= 2)
    if while_paused:
        queue.pause(job.id)
        wait_for(lambda: job.status == "paused")
    getattr(queue, action)(job.id)
    assert ended(job) == "stopped", job.view()["error"]
    assert not host.held and not host.turn.locked()
    step = job.state.step
    assert (host.loras / f"zorb-step{step:08d}.safetensors").exists() == kept
    assert bool(job.view()["state"]) == (kept or while_paused)
    assert not (host.loras / "zorb.safetensors").exists()


def test_a_stopped_job_goes_on_to_the_lora_of_the_unbroken_one(host, values, open_queue, whole):
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 8})
    wait_for(lambda: job.state.step >= 2)
    queue.stop(job.id)
    assert ended(job) == "stopped" and job.state.step < 8
    queue.resume(job.id)
    wait_for(lambda: job.status == "done")
    assert same(host.loras / "zorb.safetensors", whole(8))


def test_save_writes_the_lora_so_far_and_the_state_and_goes_on(host, values, open_queue):
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 500})
    wait_for(lambda: job.state.step >= 1)
    queue.save(job.id)
    wait_for(lambda: job.view()["written"] and job.view()["state"])
    step = job.state.step
    wait_for(lambda: job.state.step > step)
    queue.abort(job.id)
    assert ended(job) == "stopped"


def test_the_hosts_own_interrupt_stops_the_job(host, values, open_queue):
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 500})
    wait_for(lambda: job.state.step >= 2)
    host.tasks[-1].wish = True
    assert ended(job) == "stopped"
    assert len(list(host.loras.glob("zorb-step*.safetensors"))) == 1 and job.view()["state"]


class Tracked(torch.Tensor):
    """A tensor that can be looked for when it should be gone."""


ERRORS = [
    (RuntimeError("a kernel failed"), "RuntimeError: a kernel failed", None),
    (MemoryError(), "memory is full", "train_batch_size"),
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "memory is full", "train_batch_size"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is full", "train_batch_size"),
]


@pytest.mark.parametrize(("error", "message", "field"), ERRORS)
def test_after_an_error_in_a_step_the_model_is_given_back_with_the_steps_memory_free(
    host, values, open_queue, monkeypatch, error, message, field
):
    from lib_lora.training.loop import Trainer

    step, left = Trainer.step, []

    def failing(self, batches, rng, number, epoch):
        activation = torch.zeros(8).as_subclass(Tracked)
        left.append(weakref.ref(activation))
        if number == 1:
            raise error
        return step(self, batches, rng, number, epoch)

    monkeypatch.setattr(Trainer, "step", failing)
    give_back, alive = host.lend, []

    def lend(config):
        lease = give_back(config)
        own = lease.give_back

        def looked_at():
            gc.collect()
            alive.extend(each() is not None for each in left)
            own()

        lease.give_back = looked_at
        return lease

    monkeypatch.setattr(host, "lend", lend)
    queue = open_queue(host)
    job = queue.add("train", values)
    assert ended(job) == "failed"
    shown = job.view()["error"]
    assert message in shown["message"] and shown["field"] == field and shown["message"].isprintable()
    assert not host.held and not host.turn.locked()
    assert alive == [False, False]
    assert "Traceback" in job.log_text() and not list(host.loras.glob("*.safetensors"))


def test_a_loss_that_is_no_number_names_the_option(host, values, open_queue):
    queue = open_queue(host)
    job = queue.add("train", {**values, "learning_rate": 1e30, "max_grad_norm": 0, "max_train_steps": 9})
    assert ended(job) == "failed" and job.view()["error"]["field"] == "learning_rate" and not host.held


def test_the_host_may_be_switched_first(host, values, open_queue, tmp_path):
    from tiny import write_checkpoint

    other = write_checkpoint(tmp_path / "other", seed=1, name="other")
    host.known.append(other)
    queue = open_queue(host)
    job = queue.add("train", {**values, "pretrained_model_name_or_path": str(other), "model_source": "switch"})
    assert ended(job) == "done", job.view()["error"]
    assert host.told[0] == ("switch", "other.safetensors") and host.loaded == other


def test_a_lora_that_the_host_cannot_load_is_a_warning(host, values, open_queue, monkeypatch):
    from lib_lora.base.protocols import LoraCheck

    monkeypatch.setattr(host, "check_lora", lambda *paths: LoraCheck(4, 3, ["lora_unet_odd.alpha"], 0.1))
    queue = open_queue(host)
    job = queue.add("train", values)
    assert ended(job) == "done"
    assert job.view()["note"] == "tiny knows only 3 of 4 keys of zorb.safetensors; not lora_unet_odd.alpha"


@pytest.mark.parametrize("trouble", ["lora_written", "check_lora"])
def test_a_host_that_fails_after_the_training_does_not_fail_the_job(host, values, open_queue, monkeypatch, trouble):
    def fail(*paths):
        raise OSError("out of order")

    monkeypatch.setattr(host, trouble, fail)
    queue = open_queue(host)
    job = queue.add("train", values)
    assert ended(job) == "done"
    assert any("out of order" in event.get("text", "") for event in queue.events(job.id)[0])


def test_mistakes_and_names_that_are_taken_are_told_when_the_job_is_added(host, values, open_queue):
    queue = open_queue(host, start=False)
    for bad, field in (
        ({"output_name": "../x"}, "output_name"),
        ({"train_data_dir": "nowhere"}, "train_data_dir"),
        ({"network_dim": 0}, "network_dim"),
        ({"output_subfolder": "../x"}, "output_subfolder"),
    ):
        with pytest.raises(Exception, match=field):
            queue.add("train", {**values, **bad})
    (host.loras / "zorb.safetensors").write_bytes(b"precious")
    with pytest.raises(Exception, match="a LoRA of this name exists"):
        queue.add("train", values)
    queue.add("train", {**values, "overwrite": True})
    assert len(queue.jobs()) == 1
