"""A state on disk, and a run that goes on from it."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Paused, Resumed, Saved, StateSaved, StepDone, TrainingEnded
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run
from lib_lora.training.state import StateFolder, TrainingState, read_state, states_in, write_state
from training_results import lora, rows, same


def run(options, **more):
    return Run(from_mapping(TrainConfig, {**options, **more}))


def a_state(step=3, run_id="mine", **more):
    machine = {"optimizers": [{"name": "unet", "state": {"state": {0: {"step": torch.tensor(2.0)}}}}]}
    return TrainingState(step, run_id, {"w": torch.randn(2, 2)}, machine, {"held": {}}, {"ss": "1"}, b"step\n1\n")


def test_a_state_comes_back_as_it_was(tmp_path):
    state = a_state()
    write_state(tmp_path / "step00000003", state)
    for path in (tmp_path, tmp_path / "step00000003"):
        back = read_state(path)
        assert (back.step, back.run_id, back.described) == (3, "mine", {"held": {}})
        assert (back.metadata, back.log) == ({"ss": "1"}, b"step\n1\n")
        assert torch.equal(back.weights["w"], state.weights["w"])
        assert torch.equal(back.machine["optimizers"][0]["state"]["state"][0]["step"], torch.tensor(2.0))


def test_a_state_holds_safetensors_json_and_text_alone(tmp_path):
    write_state(tmp_path / "step00000003", a_state())
    names = {path.name for path in (tmp_path / "step00000003").iterdir()}
    assert names == {"weights.safetensors", "optimizer.safetensors", "state.json", "loss.csv"}
    json.loads((tmp_path / "step00000003" / "state.json").read_text())


@pytest.mark.parametrize("keep, kept", [(1, [4]), (2, [3, 4]), (4, [1, 2, 3, 4])])
def test_the_last_states_are_kept(tmp_path, keep, kept):
    folder = StateFolder(tmp_path / "s", "mine", keep)
    for step in (1, 2, 3, 4):
        folder.save(a_state(step))
    assert [path.name for path in states_in(tmp_path / "s")] == [f"step{step:08d}" for step in kept]
    assert len(list((tmp_path / "s").iterdir())) == len(kept)


def test_states_of_another_run_and_of_a_way_that_was_left_go_once_there_is_a_new_one(tmp_path):
    StateFolder(tmp_path / "s", "old").save(a_state(9, "old"))
    new = StateFolder(tmp_path / "s", "mine", keep=9)
    assert new.save(a_state(2)) == tmp_path / "s" / "step00000002"
    assert states_in(tmp_path / "s") == [tmp_path / "s" / "step00000002"]
    new.save(a_state(5))
    new.save(a_state(3))
    assert [path.name[-1] for path in states_in(tmp_path / "s")] == ["2", "3"]


def test_a_state_of_a_way_that_was_left_gives_way_to_the_new_one_of_its_step(tmp_path):
    states = [a_state(step) for step in (60, 120, 60)]
    folder = StateFolder(tmp_path / "s", "mine", keep=2)
    for state in states:
        folder.save(state)
    last = read_state(tmp_path / "s")
    assert last.step == 60 and torch.equal(last.weights["w"], states[2].weights["w"])
    assert len(list((tmp_path / "s").iterdir())) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "state.json").write_text("{"), "state.json"),
        (lambda folder: (folder / "state.json").write_text('{"format": "other"}'), "another program's"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b""), "weights.safetensors"),
        (lambda folder: os.truncate(folder / "optimizer.safetensors", 60), "truncated"),
        (shutil.rmtree, "no state of a run"),
    ],
)
def test_a_damaged_state_is_named(tmp_path, damage, words):
    write_state(tmp_path / "step00000003", a_state())
    damage(tmp_path / "step00000003")
    with pytest.raises(StudioError, match=words):
        read_state(tmp_path)


OPTIMIZERS = [
    ("AdamW", {}),
    ("AdaFactor", {"learning_rate": None}),
    ("AdaFactor", {"optimizer_args": ["relative_step=False"], "lr_scheduler": "constant"}),
    ("Lion", {}),
    ("Prodigy", {"learning_rate": None}),
    ("DAdaptAdam", {"learning_rate": None}),
    ("DAdaptLion", {"learning_rate": None}),
    ("DAdaptAdan", {"learning_rate": None}),
    ("DAdaptAdaGrad", {"learning_rate": None}),
    ("DAdaptSGD", {"learning_rate": None}),
    ("CAME", {}),
    ("AdamWScheduleFree", {}),
    ("RAdamScheduleFree", {}),
    ("SGDNesterov", {}),
    ("torch.optim.RAdam", {"lr_scheduler": "cosine_with_restarts"}),
    ("torch.optim.ASGD", {}),
]


@pytest.mark.parametrize(("optimizer", "more"), OPTIMIZERS)
def test_a_resumed_run_gives_the_lora_of_the_unbroken_one_bit_for_bit(train_options, tiny_model, optimizer, more):
    options = {
        **train_options,
        "optimizer_type": optimizer,
        "max_train_steps": 4,
        "network_train_unet_only": True,
        "network_targets": "cross-attention",
        **more,
    }
    jobs = [run(options, output_name="whole"), run(options, save_state_every_n_steps=1)]
    for job in jobs:
        job.model = tiny_model
    list(jobs[0].events())
    for event in jobs[1].events():
        if isinstance(event, StateSaved) and event.step == 2:
            break  # as if it had been killed
    resumed = run(options, resume=event.path)
    resumed.model = tiny_model
    assert [event.step for event in resumed.events() if isinstance(event, StepDone)] == [3, 4]
    assert same(lora(options), lora(options, "whole"))
    assert rows(options) == rows(options, "whole")


def test_a_run_goes_on_within_and_between_epochs(train_options):
    """Batches of two buckets, accumulation, every dropout and draw, a schedule; stopped after each step in turn."""
    options = {
        **train_options,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_train_steps": 7,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 2,
        "network_dropout": 0.2,
        "rank_dropout": 0.2,
        "module_dropout": 0.2,
        "noise_offset": 0.1,
        "noise_offset_random_strength": True,
        "multires_noise_iterations": 3,
        "ip_noise_gamma": 0.1,
        "ip_noise_gamma_random_strength": True,
        "loss_type": "huber",
        "scale_weight_norms": 0.05,
        "save_every_n_epochs": 1,
    }
    list(run(options, output_name="whole").events())
    for step in range(1, 7):
        job = run(options, resume=None if step == 1 else train_options["output_dir"] / "zorb-state")
        for event in job.events():
            if isinstance(event, StepDone) and event.step == step:
                job.control.save_state()
                job.control.stop()
        assert event.stopped and event.state.name == f"step{step:08d}"
    end = list(run(options, resume=train_options["output_dir"] / "zorb-state").events())[-1]
    assert isinstance(end, TrainingEnded) and not end.stopped and end.step == 7
    assert same(lora(options), lora(options, "whole"))
    assert rows(options) == rows(options, "whole") and len(rows(options)) == 7
    for epoch in ("000001", "000002"):
        assert same(lora(options, f"zorb-{epoch}"), lora(options, f"whole-{epoch}"))


def test_metadata_count_a_resumed_run_as_one(train_options):
    from safetensors import safe_open

    values = []
    for more in ({"max_train_steps": 2, "save_state": True}, {"resume": train_options["output_dir"] / "a-state"}):
        list(run(train_options, output_name="a", overwrite=True, **more).events())
        with safe_open(train_options["output_dir"] / "a.safetensors", framework="pt") as file:
            values.append(file.metadata())
    assert [own["ss_steps"] for own in values] == ["2", "3"]
    for key in ("ss_session_id", "ss_training_started_at"):
        assert values[0][key] == values[1][key]


def test_a_pause_saves_frees_the_model_and_changes_nothing(train_options, tiny_model):
    before = {key: tensor.clone() for key, tensor in tiny_model.unet.state_dict().items()}
    list(run(train_options, output_name="whole").events())
    job = run(train_options)
    job.model = tiny_model
    seen = []
    for event in job.events():
        if isinstance(event, StepDone) and event.step == 2:
            job.control.pause()
        if isinstance(event, Paused):
            assert not any(module._forward_hooks for module in tiny_model.unet.modules())
            assert all(torch.equal(before[key], tensor) for key, tensor in tiny_model.unet.state_dict().items())
            assert read_state(event.state).step == event.step == 2
            job.control.resume()
        if isinstance(event, (Paused, Resumed)):
            seen.append(type(event))
    assert seen == [Paused, Resumed]
    assert same(lora(train_options), lora(train_options, "whole"))
    assert rows(train_options) == rows(train_options, "whole")


def test_a_pause_may_leave_the_lora_on_the_model(train_options, tiny_model):
    job = run(train_options)
    job.model = tiny_model
    job.control.pause(free_model=False)
    for event in job.events():
        if isinstance(event, Paused):
            assert event.step == 0 and event.state is None
            assert any(module._forward_hooks for module in tiny_model.unet.modules())
            job.control.resume()
    assert not any(module._forward_hooks for module in tiny_model.unet.modules())


def test_a_paused_run_can_be_stopped(train_options):
    job = run(train_options)
    for event in job.events():
        if isinstance(event, StepDone) and event.step == 1:
            job.control.pause()
        if isinstance(event, Paused):
            job.control.stop()
    assert event.stopped and event.step == 1 and event.state == train_options["output_dir"] / "zorb-state/step00000001"


@pytest.fixture
def state(train_options):
    list(run(train_options, save_state=True, max_train_steps=2, output_name="first").events())
    return train_options["output_dir"] / "first-state"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"learning_rate": 2e-2, "network_dim": 4},
            ["learning_rate was 0.01 and is 0.02", "network_dim was 2 and is 4"],
        ),
        ({"mixed_precision": "bf16"}, ["mixed_precision was 'no' and is 'bf16'"]),
        ({"train_batch_size": 2}, ["train_batch_size was 1 and is 2"]),
        ({"gradient_accumulation_steps": 2}, ["pictures of a step was 1 and is 2"]),
        ({"max_train_steps": 1}, ["max_train_steps", "2 steps old"]),
    ],
)
def test_a_state_of_other_settings_is_refused_and_each_difference_named(train_options, state, more, words):
    with pytest.raises(StudioError) as caught:
        list(run(train_options, resume=state, **more).events())
    assert all(word in str(caught.value) for word in words)


def test_a_state_of_another_dataset_is_refused_and_each_difference_named(train_options, pictures, state):
    folder = pictures / "2_zorb"
    (folder / "1.txt").write_text("another caption")
    (folder / "2.png").write_bytes((folder / "3.png").read_bytes())
    (folder / "0.png").rename(folder / "9.png")
    with pytest.raises(StudioError) as caught:
        list(run(train_options, resume=state).events())
    message = str(caught.value)
    for words in ("missing: 2_zorb/0.png", "new: 2_zorb/9.png", "another picture: 2_zorb/2.png"):
        assert words in message
    assert "another caption: 2_zorb/1.png" in message


def test_a_state_of_another_checkpoint_is_refused(train_options, state, tmp_path):
    from tiny import write_checkpoint

    other = write_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(StudioError, match="another checkpoint"):
        list(run(train_options, resume=state, pretrained_model_name_or_path=other).events())


def test_moved_files_and_a_longer_run_are_allowed_and_said(train_options, pictures, state):
    moved = pictures.rename(pictures.with_name("moved"))
    events = list(run(train_options, resume=state, train_data_dir=moved, max_train_steps=5).events())
    assert [event.step for event in events if isinstance(event, StepDone)] == [3, 4, 5]
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("max_train_steps was 2 and is 5" in note for note in notes)


def test_a_state_of_an_unfinished_run_is_not_lost_by_beginning_anew(train_options, state):
    (train_options["output_dir"] / "first.safetensors").unlink()
    with pytest.raises(StudioError, match="unfinished run"):
        list(run(train_options, output_name="first").events())
    list(run(train_options, output_name="first", overwrite=True, save_state=True).events())
    assert [path.name for path in states_in(state)] == ["step00000003"]


def test_leftovers_of_a_killed_run_go_at_the_next_start_and_nobody_elses(train_options):
    folder = train_options["output_dir"]
    (folder / "zorb-state" / ".step00000002.0123456789ab.tmp").mkdir(parents=True)
    mine = [folder / ".zorb.safetensors.0123456789ab.tmp", folder / ".zorb-step00000002.safetensors.0123456789ab.tmp"]
    others = [folder / ".zorb-2.safetensors.0123456789ab.tmp", folder / ".zorb.safetensors.tmp"]
    for path in mine + others:
        path.write_bytes(b"half")
    events = list(run(train_options).events())
    assert any(isinstance(event, Saved) for event in events)
    assert not any(path.exists() for path in mine) and all(path.exists() for path in others)
    assert not any((folder / "zorb-state").iterdir())


@pytest.mark.parametrize("name", ["a" * 29, "a" * 40])
def test_leftovers_of_long_names_are_found(train_options, name):
    folder = train_options["output_dir"]
    folder.mkdir()
    left = folder / f".{(name + '-step00000002.safetensors')[:32]}.0123456789ab.tmp"
    left.write_bytes(b"half")
    list(run(train_options, output_name=name, max_train_steps=1).events())
    assert not left.exists()


def test_a_run_that_was_killed_after_its_last_save_goes_on_although_its_own_lora_is_there(train_options):
    folder = train_options["output_dir"]
    list(run(train_options, save_state=True).events())
    assert list(run(train_options, resume=folder / "zorb-state").events())[-1].step == 3
    list(run(train_options, output_name="other").events())
    (folder / "other.safetensors").replace(folder / "zorb.safetensors")
    with pytest.raises(StudioError, match="a LoRA of this name exists"):
        list(run(train_options, resume=folder / "zorb-state").events())
