"""How the page's Dataset tab feels with ten thousand pictures, in headless Chromium: ``python bench/dataset_page.py``.

Draws the dataset of ``bench/dataset.py``, starts the standalone page on it, and prints the time until the first
pictures are seen, how many are in the document, how long a filter takes from the key to the screen, and the frames
while the gallery scrolls. Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset import draw_dataset

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
START_SECONDS = 120
FILTER_LIMIT_MS = 100
FILTERS = ("1girl -red_hair_0", "red_*", "tags>29 width<512", "caption:boots", "name:*77*", "")
SPEEDS_PX = (30, 150, 600)  # a frame
SCROLL_MS = 4000

_FILTER = """async (query) => {
  const [input, found] = [".ls-filter input", ".ls-filter .ls-found"].map((each) => document.querySelector(each));
  const [before, began] = [found.textContent, performance.now()];
  input.value = query;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  while (found.textContent === before && performance.now() - began < 5000) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""
_SCROLL = """async ([speed, milliseconds]) => {
  const gallery = document.querySelector(".ls-gallery");
  gallery.scrollTop = 0;
  const frames = [];
  const end = performance.now() + milliseconds;
  for (let last = performance.now(); last < end; ) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
    gallery.scrollTop += speed;
  }
  return frames;
}"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the standalone page with folders of its own in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lib_lora", "ui", "--no-inbrowser", "--port", str(port)]
    for flag, name in (("--data-dir", "data"), ("--models-dir", "models"), ("--lora-dir", "Lora")):
        command += [flag, str(folder / name)]
    address = f"http://127.0.0.1:{port}/"
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        _wait(address, server, folder / "server.log")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}lora-studio/jobs", timeout=10):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the page is not served:\n{log.read_text('utf-8', 'replace')[-2000:]}") from None
            time.sleep(0.1)


@contextmanager
def chromium_page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def measure(page: Any, address: str, dataset: Path, scroll_ms: int = SCROLL_MS) -> None:
    """Print what is measured."""
    page.goto(address)
    page.get_by_role("tab", name="Dataset", exact=True).click(timeout=1000 * START_SECONDS)
    page.get_by_label("Folder of pictures").fill(str(dataset))
    began = time.perf_counter()
    page.locator("#lora-studio .ls-opening button", has_text="Open").last.click()
    page.wait_for_selector(".ls-tile", timeout=1000 * START_SECONDS)
    print(f"  open until the first picture stands       {time.perf_counter() - began:8.2f} s")
    page.wait_for_timeout(3000)  # what follows the opening is not part of what follows
    print(f"  pictures in the document                  {page.locator('.ls-tile').count():8d}")
    for query in FILTERS:
        took = page.evaluate(_FILTER, query)
        over = "  OVER" if took > FILTER_LIMIT_MS else ""
        print(f"  filter {query or '(none)':<34} {took:8.0f} ms  (limit {FILTER_LIMIT_MS} ms){over}")
        page.wait_for_timeout(500)
    for speed in SPEEDS_PX:
        frames = sorted(page.evaluate(_SCROLL, [speed, scroll_ms]))
        late = frames[int(len(frames) * 0.95)]
        rate = 1000 * len(frames) / sum(frames)
        median = statistics.median(frames)
        print(f"  scrolling {speed:4d} px a frame: {rate:5.1f} frames/s, median {median:5.1f} ms, 95th {late:5.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--scroll_ms", type=int, default=SCROLL_MS, help="how long each speed is scrolled")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_dataset(folder / "dataset", args.pictures)
        print(f"{args.pictures} pictures")
        with served(folder) as address, chromium_page() as page:
            measure(page, address, folder / "dataset", args.scroll_ms)


if __name__ == "__main__":
    main()
