"""Words for a page in a browser's tab: what several files of tests say of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTED_MS, SOON_MS = 90_000, 15_000  # a job's process loads torch first


class Studio:
    """The page in a browser's tab, with the words that the tests need for it."""

    def __init__(self, context: Any, site: Any, dataset: Path) -> None:
        self.site = site
        self.dataset = dataset
        self.faults: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(SOON_MS)
        self.page.on("pageerror", lambda error: self.faults.append(getattr(error, "stack", None) or str(error)))
        self.load()

    def load(self) -> None:
        self.page.goto(self.site.url)
        if self.site.tab:
            self.page.locator("#tabs > .tab-nav > button", has_text=self.site.tab).click(timeout=STARTED_MS)
        self.page.wait_for_selector("#lora-studio .ls-tabs", timeout=STARTED_MS)

    def __call__(self, selector: str, **kwargs: Any) -> Any:
        return self.page.locator(f"#lora-studio {selector}", **kwargs)

    def field(self, name: str) -> Any:
        return self(f"[data-option={name}]")

    def control(self, name: str) -> Any:
        return self.field(name).locator("input, textarea, select").locator("visible=true").last

    def write(self, name: str, value: str) -> None:
        """A person's entry, wherever the field is folded away."""
        group = self(f"details.ls-group:has([data-option={name}]):not([open]) > summary")
        if group.count():
            group.click()
        self.control(name).fill(value)

    def button(self, name: str, within: str = "") -> Any:
        return self(f"{within} button:visible", has_text=re.compile(f"^{re.escape(name)}$"))

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).locator("visible=true").last.click()

    def row(self, name: str) -> Any:
        return self("tr.ls-job", has=self.page.locator(f'.ls-job-name:text-is("{name}")'))

    def fill_in(self, name: str, values: dict[str, str]) -> None:
        """A small run on the demo's checkpoint."""
        small = {"resolution": "64", "min_bucket_reso": "64", "train_batch_size": "1", "network_dim": "1"}
        small["reg_data_dir"] = ""  # the demo's own options have one
        self.write("train_data_dir", str(self.dataset))
        self.write("output_name", name)
        for option, value in {**small, **values}.items():
            self.write(option, value)

    def start(self, name: str, **values: str) -> None:
        self.fill_in(name, values)
        before = self("tr.ls-job").count()
        self(".ls-start").click()
        expect(lambda: self("tr.ls-job").count() == before + 1)

    def status(self) -> str:
        return self(".ls-run .ls-pill").inner_text()

    def step(self) -> int:
        found = re.search(r"step ([\d,]+) of", self(".ls-run .ls-progress-words").inner_text())
        return int(found[1].replace(",", "")) if found else 0

    def answer(self, path: str) -> Any:
        return self.page.request.get(f"{self.site.url}lora-studio/{path}").json()

    def reach(self, step: int) -> None:
        """Wait until the run has made so many steps."""

        def reached() -> bool:
            assert self.status() != "failed", self(".ls-run .ls-failure").inner_text()
            return self.step() >= step

        expect(reached, STARTED_MS)

    def send(self, path: str) -> None:
        headers = {"Content-Type": "application/json"}
        self.page.request.post(f"{self.site.url}lora-studio/{path}", headers=headers, data="{}")


def expect(condition: Callable[[], Any], timeout_ms: int = SOON_MS, every_ms: int = 100) -> Any:
    """Wait until it is so; Playwright's own waits need a page's JavaScript."""
    page = expect.page
    for _ in range(timeout_ms // every_ms):
        if found := condition():
            return found
        page.wait_for_timeout(every_ms)
    raise AssertionError(f"waited {timeout_ms / 1000:g} s in vain")


@contextmanager
def opened(context: Any, site: Any, dataset: Path, words: type[Studio] = Studio) -> Iterator[Studio]:
    """A page that remembers nothing of earlier ones."""
    page = context.new_page()
    page.goto(f"{site.url}lora-studio/jobs")
    page.evaluate("localStorage.clear()")
    page.close()
    studio = words(context, site, dataset)
    expect.page = studio.page
    yield studio
    studio.page.close()
    assert studio.faults == [], studio.faults


def act_on_all(studio: Studio, action: str) -> None:
    for job in studio.answer("jobs")["jobs"]:
        if action in job["can"]:
            studio.send(f"jobs/{job['id']}/{action}")


WIDER_THAN_THEIR_BOX = """
() => [...document.querySelectorAll("#lora-studio .ls-field, #lora-studio .ls-section, #lora-studio .ls-row")]
    .filter((each) => each.offsetParent && each.scrollWidth > each.clientWidth + 1)
    .map((each) => each.className + ": " + each.textContent.slice(0, 60))
"""

UNLABELLED = """
() => [...document.querySelectorAll("#lora-studio :is(input, select, textarea, button):not([hidden])")]
    .filter((each) => !(each.getAttribute("aria-label") || each.title || each.labels?.length))
    .filter((each) => !each.textContent.trim())
    .map((each) => each.outerHTML.slice(0, 80))
"""

# Contrast as WCAG 2 counts it, of the texts against the first background behind them that is not transparent.
FAINT = """
() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map(); // drawing takes its time, and a page has few colours
  const rgba = (color) => {
    if (!known.has(color)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = color;
      pen.fillRect(0, 0, 1, 1);
      known.set(color, [...pen.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(color);
  };
  const light = (color) => {
    const linear = (part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = color.map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = rgba(getComputedStyle(each).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const contrast = (element) => {
    const [a, b] = [rgba(getComputedStyle(element).color), behind(element)].map(light);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const texts = "h2, h3, dt, dd, summary, .ls-help, .ls-label, .ls-empty, .ls-unit, .ls-name, .ls-found, .ls-tab";
  return [...document.querySelectorAll(`#lora-studio :is(${texts})`)]
    .filter((each) => each.offsetParent && each.textContent.trim() && contrast(each) < 4.5)
    .map((each) => `${each.className || each.tagName} ${contrast(each).toFixed(2)}: ${each.textContent.slice(0, 40)}`);
}
"""
