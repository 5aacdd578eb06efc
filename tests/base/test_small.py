"""Errors, registries, seeds and signals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lib_lora.base.errors import StudioError
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
