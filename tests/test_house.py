"""The house: who may import whom, what must stay light, and that the files about packages agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lib_lora"

# Imports run only to an earlier line; rooms of one line do not import each other.
ORDER = [
    {"base"},
    {"files"},
    {"arch", "text"},
    {"models", "adapters", "dataset"},
    {"weights", "tagging", "training"},
    {"evaluate"},
    {"jobs"},
    {"hosts"},
    {"api", "ui", "cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
LIGHT_ROOMS = ("base", "files", "arch", "text", "dataset")
# These name them inside functions only: the WebUI's start must not wait for them.
LATE_ROOMS = (*LIGHT_ROOMS, "jobs", "api")
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "lycoris", "gradio", "tensorboard")


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(name: str) -> str | None:
    """ "lib_lora.arch.ldm" -> "arch"; None for the package itself and for what is not ours."""
    parts = name.split(".")
    return parts[1] if parts[0] == "lib_lora" and len(parts) > 1 else None


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, also those inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return _imports_of(tree, _name(file), is_package=file.name == "__init__.py")


def _imports_of(tree: ast.AST, here: str, is_package: bool) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                parts = here.split(".")
                base = parts[: len(parts) - node.level + is_package] + base
            for alias in node.names:
                # `from lib_lora import arch` imports a room, too.
                yield node.lineno, ".".join([*base, alias.name])


def _breaches(allowed) -> list[str]:
    return [
        f"{file.relative_to(ROOT).as_posix()}:{line} imports {name}"
        for file in _modules()
        for line, name in _imports(file)
        if not allowed(file, name)
    ]


def test_every_room_is_known():
    rooms = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and any(folder.glob("*.py"))}
    assert rooms <= set(LEVEL)


def test_imports_run_only_leftwards():
    def allowed(file: Path, name: str) -> bool:
        here, there = _room(_name(file)), _room(name)
        # Outside the rooms lie only the entry points (__main__) and the package's own __init__.
        return here not in LEVEL or there not in LEVEL or here == there or LEVEL[there] < LEVEL[here]

    assert _breaches(allowed) == []


def test_the_package_itself_imports_no_room():
    assert not [name for _, name in _imports(PACKAGE / "__init__.py") if _room(name) in LEVEL]


@pytest.mark.parametrize(
    "code, here, is_package, name",
    [
        ("from ..models import loader", "lib_lora.arch.ldm", False, "lib_lora.models.loader"),
        ("from ..models import loader", "lib_lora.arch", True, "lib_lora.models.loader"),
        ("from . import ldm", "lib_lora.arch.detect", False, "lib_lora.arch.ldm"),
        ("from lib_lora import models", "lib_lora.arch.ldm", False, "lib_lora.models"),
        ("def f():\n    import torch.nn", "lib_lora.arch.ldm", False, "torch.nn"),
    ],
)
def test_every_form_of_import_is_seen(code, here, is_package, name):
    assert [found for _, found in _imports_of(ast.parse(code), here, is_package)] == [name]


def test_gradio_stays_in_ui_and_the_webui_in_its_host():
    def allowed(file: Path, name: str) -> bool:
        path = file.relative_to(PACKAGE).as_posix()
        first = name.split(".")[0]
        if first == "gradio":
            return path.startswith("ui/")
        return first != "modules" or path.startswith("hosts/webui/")

    assert _breaches(allowed) == []


def test_nothing_unpickles():
    """Model files are other people's programs: only ``files.pickle_data`` reads pickles, and as data."""
    unpicklers = {"pickle", "_pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "copyreg", "cloudpickle"}
    assert _breaches(lambda _, name: name.split(".")[0] not in unpicklers) == []
    calls = [
        f"{file.relative_to(ROOT).as_posix()}:{node.lineno}"
        for file in _modules()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file)))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in _UNPICKLING_CALLS
    ]
    assert calls == []


_UNPICKLING_CALLS = ("torch.load", "torch.jit.load", "torch.hub.load", "torch.serialization", "np.load", "numpy.load")


def test_light_rooms_name_no_heavy_library():
    def allowed(file: Path, name: str) -> bool:
        return _room(_name(file)) not in LIGHT_ROOMS or name.split(".")[0] not in HEAVY

    assert _breaches(allowed) == []


def test_late_rooms_load_no_heavy_library_by_way_of_others():
    names = [_name(file) for file in _modules() if _room(_name(file)) in LATE_ROOMS]
    assert names
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def _requirements(file: str) -> dict[str, Requirement]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    names = [canonicalize_name(requirement.name) for requirement in found]
    assert len(names) == len(set(names)), "a package is named twice"
    return dict(zip(names, found))


@pytest.mark.parametrize("environment, python", [("standalone", "3.11"), ("host", "3.10")])
@pytest.mark.parametrize("file", ["requirements.txt", "requirements-test.txt"])
def test_every_requirement_has_an_exact_tested_version_in_its_range(file, environment, python):
    pins = _requirements(f"constraints/{environment}.txt")
    for name, requirement in _requirements(file).items():
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        assert name in pins, f"{requirement} has no pin in constraints/{environment}.txt"
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version, prereleases=True), f"{pins[name]} is not {requirement}"


@pytest.mark.parametrize("environment", ["standalone", "host"])
def test_constraints_hold_exact_versions_and_nothing_of_one_machine(environment):
    pins = _requirements(f"constraints/{environment}.txt")
    for requirement in pins.values():
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        assert requirement.url is None and "+" not in pin.version


def test_the_host_constraints_are_the_webuis_own_pins():
    # requirements_versions.txt of AUTOMATIC1111's stable-diffusion-webui v1.10.1, the lines that concern us.
    webui = {
        "setuptools": "69.5.1",
        "pillow": "9.5.0",
        "accelerate": "0.21.0",
        "fastapi": "0.94.0",
        "gradio": "3.41.2",
        "numpy": "1.26.2",
        "protobuf": "3.20.0",
        "safetensors": "0.4.2",
        "transformers": "4.30.2",
        "httpx": "0.24.1",
        "httpcore": "0.15.0",
        "psutil": "5.9.5",
    }
    pins = _requirements("constraints/host.txt")
    assert {name: str(pins[name].specifier) for name in webui} == {name: f"=={webui[name]}" for name in webui}


def test_pyproject_takes_its_dependencies_and_version_from_where_they_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["license"] == {"text": "AGPL-3.0-or-later"}
    assert set(project["project"]["dynamic"]) == {"version", "dependencies"}
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    assert re.search(r"AFFERO GENERAL PUBLIC LICENSE\s+Version 3", (ROOT / "LICENSE").read_text(encoding="utf-8"))


def test_readme_says_what_each_dependency_is_for():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {canonicalize_name(name) for name in re.findall(r"^\| `([\w.-]+)` \|", readme, re.MULTILINE)}
    assert {*_requirements("requirements.txt"), *_requirements("requirements-test.txt")} <= named


@pytest.mark.parametrize("file", ["run.py", "README.md", "CONTRIBUTING.md", "pyproject.toml", ".ci/run"])
def test_no_path_of_one_machine(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not re.search(r"/(root|home|Users)/\w|[A-Z]:\\Users", text)
