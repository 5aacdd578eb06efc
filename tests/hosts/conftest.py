"""The real WebUI in a process of its own, for the tests that want it as their judge."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "demo" / "model"


@pytest.fixture(scope="session")
def run_in_webui() -> Callable[..., None]:
    """Runs a script of this folder with the WebUI's interpreter: ``run_in_webui("driver.py", arguments...)``."""
    webui, python = os.environ.get("SD_WEBUI_DIR"), os.environ.get("SD_WEBUI_PYTHON")
    if not (webui and python):
        pytest.skip("SD_WEBUI_DIR and SD_WEBUI_PYTHON do not name a WebUI and its interpreter")

    def run(script: str, *arguments: object) -> None:
        command = [python, str(HERE / script), webui, *map(str, arguments)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.fixture(scope="session")
def webui_checkpoint(tmp_path_factory, tiny_checkpoint) -> Path:
    """``SD_WEBUI_CKPT``, or the demo's checkpoint, or a tiny one: a copy of it whose yaml names the text encoder's
    folder absolutely, for the WebUI knows no other way."""
    demos = sorted(DEMO.glob("*.safetensors"))
    source = Path(os.environ.get("SD_WEBUI_CKPT") or (demos[0] if demos else tiny_checkpoint)).resolve()
    copy = tmp_path_factory.mktemp("webui") / source.name
    shutil.copyfile(source, copy)
    config = source.with_suffix(".yaml")
    if config.is_file():
        text = re.sub(
            r"(?m)^(\s*version:\s*)(\S+)", lambda m: m[1] + _absolute(m[2], source.parent), config.read_text("utf-8")
        )
        copy.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return copy


def _absolute(version: str, folder: Path) -> str:
    version = version.strip("'\"")
    return str(folder / version) if (folder / version).is_dir() else version
