"""install.py in a real environment with a real pip, whose packages are tiny ones of ours in a local folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow  # an environment is made, and pip is slow to start

# What a host has, and what pip can find beside it: what fits, and newer releases that pip must not take.
HOST = {
    "torch": "2.1.2",
    "gradio": "3.41.2",
    "transformers": "4.30.2",
    "accelerate": "0.21.0",
    "safetensors": "0.4.2",
    "tokenizers": "0.13.3",
    "numpy": "1.26.2",
    "Pillow": "9.5.0",
    "PyYAML": "6.0.3",
    "tqdm": "4.66.1",
    "psutil": "5.9.5",
    "huggingface_hub": "0.36.2",
}
WHEELS = {
    ("diffusers", "0.31.0"): ["huggingface-hub>=0.23.2", "numpy"],
    ("diffusers", "0.42.1"): ["huggingface-hub>=1.0"],
    ("huggingface_hub", "1.2.0"): [],
    ("lycoris_lora", "3.2.0.post2"): ["toml", "torch"],
    ("lycoris_lora", "4.1.0"): ["torch>=2.4"],
    ("toml", "0.10.2"): [],
    ("prodigyopt", "1.1.2"): [],
    ("dadaptation", "3.2"): [],
    ("lion_pytorch", "0.2.5"): ["torch>=1.6"],
    ("came_pytorch", "0.1.3"): ["torch>=1.6"],
    ("schedulefree", "1.4.1"): ["torch"],
    ("tensorboard", "2.20.0"): ["numpy>=1.12"],
    ("tomli", "2.5.0"): [],
    ("numpy", "2.4.0"): [],
    ("torch", "2.13.0"): [],
    ("accelerate", "1.15.0"): [],
    ("ImageHash", "4.3.2"): ["numpy", "pillow"],
    ("onnxruntime", "1.23.2"): ["numpy>=1.21.6"],
}


def _metadata(name: str, version: str, needs: list[str]) -> str:
    return "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"] +
                     [f"Requires-Dist: {need}" for need in needs]) + "\n"  # fmt: skip


def _write_wheel(folder: Path, name: str, version: str, needs: list[str]) -> Path:
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", _metadata(name, version, needs))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "".join(f"{info}/{each},,\n" for each in ("METADATA", "WHEEL", "RECORD")))
    return path


class HostEnvironment:
    """A virtual environment with a host's packages, and the extension in a folder whose name has spaces."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        self.python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.packages = next((folder / "venv").rglob("site-packages"))
        self.own = {item.name for item in self.packages.iterdir()}
        self.wheels = folder / "wheels"
        self.extension = folder / "LoRA Studio main"
        self.record = self.extension / ".install-failures.json"
        (self.extension / "lib_lora").mkdir(parents=True)
        for name in ("install.py", "requirements.txt", "lib_lora/__init__.py"):
            shutil.copyfile(ROOT / name, self.extension / name)
        shutil.copytree(ROOT / "lib_lora" / "base", self.extension / "lib_lora" / "base")

    def reset(self) -> None:
        """The host as it was, without ours."""
        for item in self.packages.iterdir():
            if item.name not in self.own:
                shutil.rmtree(item)
        self.record.unlink(missing_ok=True)
        shutil.rmtree(self.wheels, ignore_errors=True)
        self.wheels.mkdir()
        for name, version in HOST.items():
            self.put(name, version)
        for (name, version), needs in WHEELS.items():
            _write_wheel(self.wheels, name, version, needs)

    def put(self, name: str, version: str) -> None:
        for old in self.packages.glob(f"{name}-*.dist-info"):
            shutil.rmtree(old)
        info = self.packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(_metadata(name, version, []), encoding="utf-8")
        (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n", encoding="utf-8")

    def freeze(self) -> set[str]:
        command = [str(self.python), "-m", "pip", "freeze", "--all"]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    def install(self, **variables: str) -> str:
        """What install.py prints, run as the WebUI's launcher runs it."""
        outside = ("PIP_", "INDEX_URL", "COMMANDLINE_ARGS", "PYTHONPATH")
        surroundings = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
        surroundings |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        surroundings |= {"PYTHONPATH": str(self.extension.parent), **variables}
        command = f'"{self.python}" "{self.extension / "install.py"}"'
        done = subprocess.run(command, shell=True, capture_output=True, text=True, env=surroundings)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def _environment(tmp_path_factory) -> HostEnvironment:
    return HostEnvironment(tmp_path_factory.mktemp("webui"))


@pytest.fixture
def host(_environment) -> HostEnvironment:
    _environment.reset()
    return _environment


def _without_pip(host: HostEnvironment):
    """Whoever calls pip now gets an error, and says so."""
    (host.packages / "pip").rename(host.packages / "no pip")


def _with_pip_again(host: HostEnvironment):
    (host.packages / "no pip").rename(host.packages / "pip")


@pytest.fixture
def no_pip(host):
    yield lambda: _without_pip(host)
    if (host.packages / "no pip").exists():
        _with_pip_again(host)


def test_what_is_missing_is_added_and_nothing_that_was_there_changes(host):
    before = host.freeze()
    said = host.install()
    after = host.freeze()
    assert before <= after
    added = {line.partition("==")[0].lower().replace("_", "-") for line in after - before}
    named = "diffusers lycoris-lora toml prodigyopt dadaptation lion-pytorch came-pytorch schedulefree"
    named += " tensorboard imagehash onnxruntime"
    assert added == {*named.split()} | ({"tomli"} if sys.version_info < (3, 11) else set())
    assert "diffusers==0.31.0" in after and "lycoris_lora==3.2.0.post2" in {line.replace("-", "_") for line in after}
    assert "dadaptation 3.2, diffusers 0.31.0" in said


def test_another_build_of_a_package_is_not_given_a_second_one_beside_it(host):
    host.put("onnxruntime_gpu", "1.17.0")
    host.install()
    assert "onnxruntime" not in {line.partition("==")[0].lower() for line in host.freeze()}


def test_with_all_there_pip_is_not_called_and_nothing_is_said(host, no_pip):
    host.install()
    no_pip()
    assert host.install() == ""


def test_an_optional_package_that_cannot_be_had_costs_its_own_feature_alone(host):
    (host.wheels / "prodigyopt-1.1.2-py3-none-any.whl").unlink()
    _write_wheel(host.wheels, "prodigyopt", "1.2", ["numpy>=2"])
    before = host.freeze()
    said = host.install()
    after = {line.partition("==")[0] for line in host.freeze() - before}
    assert {"diffusers", "dadaptation", "tensorboard"} <= after and "prodigyopt" not in after
    (line,) = [line for line in said.splitlines() if "could not" in line]
    assert "prodigyopt" in line and "numpy==1.26.2 is there" in line and "the optimizer Prodigy cannot be used" in line
    assert f'"{host.python}" -m pip install "prodigyopt>=1.1.2"' in line


def test_it_is_not_tried_again_at_every_start_but_some_day(host, no_pip):
    (host.wheels / "dadaptation-3.2-py3-none-any.whl").unlink()
    assert "D-Adaptation" in host.install()
    no_pip()
    assert host.install() == ""
    _with_pip_again(host)
    _write_wheel(host.wheels, "dadaptation", "3.2", [])
    record = json.loads(host.record.read_text("utf-8"))
    host.record.write_text(json.dumps({**record, "time": record["time"] - 2 * 24 * 3600}), encoding="utf-8")
    assert "added dadaptation 3.2" in host.install()


def test_a_needed_package_that_does_not_fit_is_explained_and_nothing_is_changed(host):
    host.put("huggingface_hub", "0.17.3")
    before = host.freeze()
    said = host.install()
    assert host.freeze() == before
    assert "cannot train yet" in said
    assert "diffusers 0.31.0 depends on huggingface-hub>=0.23.2" in said and "huggingface-hub==0.17.3 is there" in said
    (command,) = [line for line in said.splitlines() if "by hand" in line]
    assert f'"{host.python}" -m pip install "diffusers==0.31.0"' in command
    assert '"transformers==4.30.2" "accelerate==0.21.0"' in command


def test_a_package_of_the_hosts_that_is_too_old_is_named_and_left(host):
    host.put("accelerate", "0.20.3")
    said = host.install()
    assert "accelerate==0.20.3" in host.freeze()
    assert "accelerate 0.20.3 is too old for training, which wants 0.21.0 or newer" in said
    assert '-m pip install "accelerate==0.21.0"' in said  # not the newest, which the host's others may not stand


def test_skip_install_of_the_webui_is_heeded(host, no_pip):
    no_pip()
    assert host.install(COMMANDLINE_ARGS="--medvram --skip-install") == ""


def test_the_webuis_index_is_asked(host):
    index = host.wheels / "simple"
    for (name, version) in WHEELS:
        page = index / name.lower().replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        wheel = next(host.wheels.glob(f"{name}-{version}-*"))
        with page.open("a", encoding="utf-8") as file:
            file.write(f'<a href="{wheel.as_uri()}">{wheel.name}</a><br>\n')
    said = host.install(INDEX_URL=index.as_uri(), PIP_NO_INDEX="", PIP_FIND_LINKS="")
    assert "added" in said and "diffusers 0.31.0" in said
