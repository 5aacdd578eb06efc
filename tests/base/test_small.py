"""Errors, registries, seeds and signals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Checked, StepDone, TrainingEnded, event_from_json, event_to_json
from lib_lora.base.registry import Registry
from lib_lora.base.seeds import derive_seed
from lib_lora.base.signals import Control


def test_an_error_names_field_file_value_and_what_is_allowed():
    error = StudioError("not allowed", field="rank", file="x.toml", came=0, allowed=["1", "2"])
    assert str(error) == "rank: not allowed; file: x.toml; got: 0; allowed: 1, 2"


def test_an_error_about_a_file_begins_with_it():
    assert str(StudioError("is empty", file="a.txt")) == "a.txt: is empty"


def test_a_registry_finds_names_without_case_and_refuses_a_second_of_one_name():
    registry = Registry("optimizer_type")
    registry.register("AdamW")(1)
    assert registry.get("adamw") == 1 and "ADAMW" in registry and list(registry) == ["AdamW"]
    with pytest.raises(ValueError, match="adamw"):
        registry.register("adamw")(2)
    with pytest.raises(StudioError, match="allowed: AdamW"):
        registry.get("SGD")


def test_a_seed_hangs_on_every_part_of_its_owner():
    owners = [
        (1, "noise", 1, 2),
        (2, "noise", 1, 2),
        (1, "time", 1, 2),
        (1, "noise", 12),
        (1, "noise", "1", 2),
        (1, "noise", 2, 1),
    ]
    seeds = {derive_seed(*owner) for owner in owners}
    assert len(seeds) == len(owners)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_another_process():
    code = "from lib_lora.base.seeds import derive_seed; print(derive_seed(42, 'noise', 3, 4))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == derive_seed(42, "noise", 3, 4)


def test_control_remembers_that_it_was_asked_to_stop():
    control = Control()
    assert not control.stopping
    control.stop()
    assert control.stopping


def test_events_go_through_json_and_back():
    events = [
        StepDone(3, 1, 0.5, {"unet": 1e-3}, 0.25, memory_mb=12.5),
        TrainingEnded(3, True, 2.5, [Path("a/b.safetensors")], Path("states")),
        TrainingEnded(0, True, 0.0),
        Checked(Path("x.safetensors"), 4, 3, ["lora_unet_x"], 0.1),
    ]
    for event in events:
        assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event
    assert event_to_json(events[0])["event"] == "StepDone"


def test_an_abort_is_a_stop_and_a_wish_for_a_lora_is_taken_once():
    control = Control()
    control.pause()
    control.save_lora()
    assert control.take_lora_wish() and not control.take_lora_wish()
    control.abort()
    assert control.stopping and control.aborting and not control.pausing
