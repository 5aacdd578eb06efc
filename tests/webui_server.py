"""A real WebUI's server in a process of its own, with LoRA Studio installed in it as a user would install it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo" / "model"
START_SECONDS = 240
_FLAGS = (
    *("--skip-prepare-environment", "--skip-install", "--skip-torch-cuda-test", "--use-cpu", "all", "--no-half"),
    *("--no-download-sd-model", "--do-not-download-clip", "--disable-console-progressbars"),
)


@dataclass
class WebuiServer:
    """A WebUI that answers at ``url``. Its settings, extensions and LoRAs are its own, below ``data_dir``."""

    url: str
    data_dir: Path
    extension: Path
    checkpoint: Path
    log: Path
    process: subprocess.Popen
    startup_seconds: float

    @property
    def lora_dir(self) -> Path:
        return self.data_dir / "models" / "Lora"

    def get(self, path: str) -> Any:
        """The JSON or text that a path answers with.

        Raises:
            urllib.error.HTTPError: it answers with another status than 200.
        """
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        return self._ask(urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}))

    def _ask(self, request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read().decode("utf-8")
            return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def webui_and_python() -> tuple[Path, str]:
    """``SD_WEBUI_DIR`` and ``SD_WEBUI_PYTHON``; skips the test without."""
    webui, python = os.environ.get("SD_WEBUI_DIR"), os.environ.get("SD_WEBUI_PYTHON")
    if not (webui and python):
        pytest.skip("SD_WEBUI_DIR and SD_WEBUI_PYTHON do not name a WebUI and its interpreter")
    return Path(webui), python


def copy_for_webui(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose yaml names the text encoder's folder absolutely: the WebUI knows no other way."""
    copy = folder / checkpoint.name
    shutil.copyfile(checkpoint, copy)
    config = checkpoint.with_suffix(".yaml")
    if config.is_file():
        text = re.sub(
            r"(?m)^(\s*version:\s*)(\S+)",
            lambda match: match[1] + _absolute(match[2].strip("'\""), checkpoint.parent),
            config.read_text("utf-8"),
        )
        copy.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return copy


def _absolute(version: str, folder: Path) -> str:
    return str(folder / version) if (folder / version).is_dir() else version


def install_extension(folder: Path) -> None:
    """A copy of what git knows or would take, without git's own data, as from a downloaded archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():  # git also lists what was deleted and not yet committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def prepare_data_dir(data_dir: Path, *, extension_name: str = "LoRA Studio") -> Path:
    """A fresh ``--data-dir`` with the extension and the demo's checkpoint; the checkpoint."""
    models = data_dir / "models"
    (models / "Lora").mkdir(parents=True)
    (models / "Stable-diffusion").mkdir()
    install_extension(data_dir / "extensions" / extension_name)
    return copy_for_webui(next(DEMO.glob("*.safetensors")), models / "Stable-diffusion")


def start_server(data_dir: Path, *flags: str, python: str | None = None) -> WebuiServer:
    """Start the WebUI on a data folder that ``prepare_data_dir`` has made, and wait until it answers."""
    webui, usual_python = webui_and_python()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (checkpoint,) = (data_dir / "models" / "Stable-diffusion").glob("*.safetensors")
    # The yaml beside the checkpoint is read by the WebUI when it is in the checkpoint's folder.
    command = [
        *(python or usual_python, "launch.py", *_FLAGS, "--data-dir", str(data_dir), "--port", str(port)),
        *("--ckpt-dir", str(checkpoint.parent), "--ckpt", str(checkpoint), *flags),
    ]
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMMANDLINE_ARGS")}
    surroundings |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    surroundings |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    log = data_dir / f"webui-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=webui, env=surroundings, stdout=output, stderr=subprocess.STDOUT)
    began = time.monotonic()
    server = WebuiServer(
        f"http://127.0.0.1:{port}", data_dir, next((data_dir / "extensions").iterdir(), Path()), checkpoint, log,
        process, 0.0,
    )  # fmt: skip
    while not _answers(server):
        if process.poll() is not None or time.monotonic() > began + START_SECONDS:
            server.stop()
            raise AssertionError(f"the WebUI does not answer:\n{log.read_text('utf-8', 'replace')[-4000:]}")
        time.sleep(0.05)
    server.startup_seconds = time.monotonic() - began
    return server


def _answers(server: WebuiServer) -> bool:
    """Whether it has come as far as its last words at a start, after which all routes are there."""
    if "Startup time:" not in server.log.read_text("utf-8", "replace"):
        return False
    try:
        server.get("/internal/ping" if "--nowebui" not in server.process.args else "/docs")
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def start_webui(tmp_path_factory) -> Iterator[Callable[..., WebuiServer]]:
    """Starts a WebUI with the extension and further flags: ``start_webui("--api", data_dir=...)``."""
    webui_and_python()
    servers = []

    def start(*flags: str, data_dir: Path | None = None) -> WebuiServer:
        if data_dir is None:
            data_dir = tmp_path_factory.mktemp("webui_data")
            prepare_data_dir(data_dir)
        servers.append(start_server(data_dir, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def webui_server(start_webui) -> WebuiServer:
    """A WebUI with ``--api`` that tests share: who changes its settings puts them back."""
    return start_webui("--api")
