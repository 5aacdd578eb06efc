from __future__ import annotations

import importlib
import sys

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.jobs.failure import as_studio_error


@pytest.mark.parametrize(
    "name, command", [("diffusers.models", "diffusers"), ("lycoris", "lycoris_lora"), ("yaml", "PyYAML")]
)
def test_a_missing_package_is_named_with_the_way_to_get_it(name, command):
    error = as_studio_error(ModuleNotFoundError(f"No module named {name!r}", name=name))
    assert error.problem == f"the Python package {name.partition('.')[0]} is not installed"
    assert f'"{sys.executable}" -m pip install "{command}' in str(error.allowed)


def test_nobody_is_told_to_install_what_is_none_of_ours():
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("no_such_package.inner")
    error = as_studio_error(caught.value)
    assert "no_such_package" in error.problem and error.allowed is None


def test_a_full_memory_is_advice():
    error = as_studio_error(MemoryError("cannot allocate 8 GB"))
    assert error.field == "train_batch_size" and "memory is full" in error.problem


def test_what_can_be_shown_stays_and_the_unforeseen_is_told_by_its_type():
    known = StudioError("too large", field="network_dim")
    assert as_studio_error(known) is known
    assert as_studio_error(KeyError("unet")).problem == "KeyError: 'unet'"
