"""A page in a real browser, served by the program itself and by the real WebUI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio_page import STARTED_MS, Studio, act_on_all, expect, opened
from webui_server import start_webui, webui_server  # noqa: F401 - fixtures of ours, too

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


@dataclass(frozen=True)
class Site:
    """Where a page is served. ``tab`` is the WebUI's tab that holds it, None standalone."""

    url: str
    lora_dir: Path
    tab: str | None = None


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium to drive")
    with playwright.sync_playwright() as started:
        # Without the sandbox: a container's root has none.
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def standalone(tmp_path_factory) -> Iterator[Site]:
    """``python -m lib_lora ui`` with folders of its own and the demo's checkpoint."""
    folder = tmp_path_factory.mktemp("page")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lib_lora", "ui", "--no-inbrowser", "--port", str(port)]
    for flag, name in (("--data-dir", "data"), ("--models-dir", "models"), ("--lora-dir", "Lora")):
        command += [flag, str(folder / name)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    site = Site(f"http://127.0.0.1:{port}/", folder / "Lora")
    try:
        _wait(site.url, server, log)
        yield site
    finally:
        server.terminate()
        server.wait(30)


def _wait(url: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}lora-studio/jobs", timeout=10):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the page is not served:\n{log.read_text('utf-8', 'replace')[-4000:]}") from None
            time.sleep(0.1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Three small pictures with captions."""
    folder = tmp_path_factory.mktemp("dataset") / "1_zorb"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (64, 64), (80 * index, 90, 200)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text("zorb, red", encoding="utf-8")
    return folder.parent


@pytest.fixture(scope="session", params=["standalone", pytest.param("webui", marks=pytest.mark.webui)])
def site(request) -> Site:
    if request.param == "standalone":
        return request.getfixturevalue("standalone")
    server = request.getfixturevalue("webui_server")
    return Site(f"{server.url}/", server.lora_dir, tab="LoRA Studio")


@pytest.fixture(scope="module")
def context(browser) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture
def studio(context, site, dataset) -> Iterator[Studio]:
    with opened(context, site, dataset) as studio:
        yield studio


@pytest.fixture
def empty_queue(studio) -> Iterator[None]:
    """A test that starts jobs leaves none behind."""
    yield
    act_on_all(studio, "remove")  # those that wait first, or the next one would start
    act_on_all(studio, "abort")
    act_on_all(studio, "stop")  # a tool's job has no abort
    expect(lambda: not any({"abort", "stop"} & set(job["can"]) for job in studio.answer("jobs")["jobs"]), STARTED_MS)
    act_on_all(studio, "remove")
