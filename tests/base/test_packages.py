from __future__ import annotations

from pathlib import Path

import pytest

from lib_lora.base.packages import OPTIONAL, fitting_requirement, release, wanted_packages

ROOT = Path(__file__).resolve().parents[2]
LINES = [line for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines() if not line.startswith("#")]

# Versions of the hosts' own requirements_versions.txt and launch_utils.py.
A1111 = {"torch": "2.1.2+cu121", "transformers": "4.30.2", "accelerate": "0.21.0"}
FORGE = {"torch": "2.3.1+cu121", "transformers": "4.46.1", "accelerate": "0.31.0", "diffusers": "0.31.0"}
NEW = {"torch": "2.9.1+cu128", "transformers": "4.57.1", "accelerate": "1.12.0"}
A1111_ON_A_NEW_CARD = {**A1111, "torch": "2.7.0+cu128"}


@pytest.mark.parametrize(
    "host, name, requirement",
    [
        (A1111, "diffusers", "diffusers==0.31.0"),
        (A1111, "lycoris_lora", "lycoris_lora==3.2.0.post2"),
        (A1111, "bitsandbytes", "bitsandbytes==0.45.3"),
        (A1111, "prodigyopt", "prodigyopt>=1"),
        (FORGE, "diffusers", "diffusers==0.31.0"),
        (FORGE, "lycoris_lora", "lycoris_lora==3.2.0.post2"),
        (FORGE, "bitsandbytes", "bitsandbytes==0.45.3"),
        (A1111_ON_A_NEW_CARD, "diffusers", "diffusers==0.31.0"),
        (A1111_ON_A_NEW_CARD, "lycoris_lora", "lycoris_lora>=1"),
        (NEW, "diffusers", "diffusers>=1"),
        (NEW, "lycoris_lora", "lycoris_lora>=1"),
        (NEW, "bitsandbytes", "bitsandbytes>=1"),
        ({}, "diffusers", "diffusers==0.31.0"),
    ],
)
def test_a_version_fits_the_hosts_torch_and_transformers(host, name, requirement):
    assert fitting_requirement(name, "1", host) == requirement


def test_the_webui_lacks_diffusers_and_one_package_for_each_feature_and_has_the_rest():
    there = ("safetensors", "transformers", "accelerate", "tokenizers", "numpy", "Pillow", "PyYAML", "tqdm", "psutil")
    found = {**dict.fromkeys(there, "999"), "torch": "2.1.2", "gradio": "3.41.2"}
    missing = [package for package in wanted_packages(LINES, (3, 10), found) if package.found is None]
    assert [package.name for package in missing if package.feature is None] == ["diffusers", "tomli"]
    assert {package.name for package in missing if package.feature} == set(OPTIONAL)


def test_what_the_newer_python_has_built_in_is_not_wanted():
    assert "tomli" not in [package.name for package in wanted_packages(LINES, (3, 11), {})]


def test_torch_and_gradio_are_the_hosts_own_business():
    assert not {"torch", "gradio"} & {package.name for package in wanted_packages(LINES, (3, 10), {})}


def test_a_package_that_is_there_but_too_old_is_named_outdated():
    packages = {each.name: each for each in wanted_packages(LINES, (3, 10), {"accelerate": "0.20.3", "tqdm": "4.65.0"})}
    assert packages["accelerate"].outdated
    assert not packages["tqdm"].outdated
    assert not packages["diffusers"].outdated  # missing is another matter


@pytest.mark.parametrize(
    "version, numbers",
    [("2.1.2+cu121", (2, 1, 2)), ("3.2.0.post2", (3, 2, 0)), ("2.0.0a0+gite9", (2, 0, 0)), ("x", ())],
)
def test_the_numbers_of_a_version(version, numbers):
    assert release(version) == numbers
