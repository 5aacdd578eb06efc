"""The page as a person uses it, in headless Chromium: standalone, and in the real WebUI where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

STARTED_MS, SOON_MS = 90_000, 15_000  # a job's process loads torch first
ONE_STEP = {"max_train_steps": "1"}
MANY_STEPS = {"max_train_steps": "5000"}


class Studio:
    """The page in a browser's tab, with the words that the tests need for it."""

    def __init__(self, context: Any, site: Any, dataset: Path) -> None:
        self.site = site
        self.dataset = dataset
        self.faults: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(SOON_MS)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
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
def opened(context: Any, site: Any, dataset: Path) -> Iterator[Studio]:
    """A page that remembers nothing of earlier ones."""
    page = context.new_page()
    page.goto(f"{site.url}lora-studio/jobs")
    page.evaluate("localStorage.clear()")
    page.close()
    studio = Studio(context, site, dataset)
    expect.page = studio.page
    yield studio
    studio.page.close()
    assert studio.faults == []


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
    expect(lambda: not any("abort" in job["can"] for job in studio.answer("jobs")["jobs"]), STARTED_MS)
    act_on_all(studio, "remove")


def act_on_all(studio: Studio, action: str) -> None:
    for job in studio.answer("jobs")["jobs"]:
        if action in job["can"]:
            studio.send(f"jobs/{job['id']}/{action}")


def test_the_plan_is_shown_while_the_form_is_filled_in(studio):
    studio.write("train_data_dir", str(studio.dataset))
    studio(".ls-plan-body").wait_for(timeout=STARTED_MS)
    assert re.search(r"Pictures\s*3\b", studio(".ls-plan .ls-facts").inner_text())
    studio.write("max_train_epochs", "3")
    expect(lambda: re.search(r"Epochs\s*3\b", studio(".ls-outcome").inner_text()))
    assert studio(".ls-buckets svg .ls-bar").count() > 0


def test_a_mistake_is_told_at_its_field_and_opens_its_group(studio):
    studio.fill_in("zorb", {})
    studio.write("min_timestep", "4000")
    studio("details:has([data-option=min_timestep]) > summary").click()
    studio(".ls-start").click()
    error = studio.field("min_timestep").locator(".ls-error")
    error.wait_for()
    assert "from 0 to 999" in error.inner_text()
    assert studio.control("min_timestep").evaluate("each => each === document.activeElement")
    assert studio.answer("jobs")["jobs"] == []
    studio.write("min_timestep", "400")
    expect(lambda: not error.is_visible())


def test_what_must_be_given_is_asked_for_at_start_and_not_before(studio):
    studio.write("train_data_dir", str(studio.dataset))
    studio.control("output_name").fill("")
    studio(".ls-plan-body").wait_for(timeout=STARTED_MS)
    assert studio(".ls-field .ls-error:visible").count() == 0
    studio(".ls-start").click()
    error = studio.field("output_name").locator(".ls-error:visible")
    error.wait_for()
    studio.write("max_train_epochs", "3")  # a plan that is made after it does not take it away
    expect(lambda: re.search(r"Epochs\s*3\b", studio(".ls-outcome").inner_text()))
    assert error.count() == 1


def test_a_draft_survives_a_reload_and_a_value_goes_back_to_its_default(studio):
    default = studio.control("network_dim").input_value()
    studio.write("network_dim", "7")
    studio.write("activation_text", "zorb <b>red</b>")
    studio.page.wait_for_timeout(600)  # drafts are kept when the keys have rested
    studio.load()
    assert studio.control("network_dim").input_value() == "7"
    assert studio.control("activation_text").input_value() == "zorb <b>red</b>"
    studio.field("network_dim").locator(".ls-reset").click()
    assert studio.control("network_dim").input_value() == default
    assert not studio.field("network_dim").locator(".ls-reset").is_visible()


def test_options_are_found_by_words_of_their_help(studio):
    studio("input[type=search]").fill("arxiv 2303.09556")
    expect(lambda: studio(".ls-advanced .ls-field:visible").count() == 1)
    assert studio.field("min_snr_gamma").is_visible()
    studio("input[type=search]").fill("no such option")
    studio(".ls-advanced .ls-empty:visible").wait_for()


def test_a_folder_is_chosen_in_a_dialog(studio):
    studio.write("train_data_dir", str(studio.dataset))
    studio.button("Choose …").click()
    studio("dialog .ls-folder", has_text="..").click()
    studio("dialog .ls-folder", has_text=studio.dataset.name).first.click()
    expect(lambda: studio("dialog .ls-path").inner_text() == str(studio.dataset))
    studio.button("Take this folder").click()
    assert studio.control("train_data_dir").input_value() == str(studio.dataset)
    studio.button("Choose …").click()
    studio.page.keyboard.press("Escape")
    expect(lambda: studio("dialog").count() == 0)


def test_a_preset_fills_the_form_and_another_one_takes_its_values_back(studio):
    presets = [each for each in studio.answer("form")["presets"] if "network_dim" in each["values"]]
    first, second = presets[0], next(each for each in presets if each["values"] != presets[0]["values"])
    studio.write("activation_text", "zorb")
    studio(".ls-presets select").select_option(first["id"])
    assert studio.control("network_dim").input_value() == str(first["values"]["network_dim"])
    studio(".ls-presets select").select_option(second["id"])
    assert studio.control("network_dim").input_value() == str(second["values"]["network_dim"])
    studio(".ls-presets select").select_option("")
    assert studio.control("activation_text").input_value() == "zorb"
    assert not studio.field("network_dim").evaluate("each => each.classList.contains('ls-changed')")


def test_a_preset_of_ones_own_is_saved_and_deleted(studio):
    studio.write("network_dim", "5")
    studio.button("Save as …").click()
    studio("dialog input").fill("five")
    studio.button("Save", "dialog .ls-answers").click()
    studio.button("Delete", ".ls-presets").wait_for()
    studio.load()
    studio(".ls-presets select").select_option("")
    studio(".ls-presets select").select_option(label="five")
    assert studio.control("network_dim").input_value() == "5"
    studio.button("Delete", ".ls-presets").click()
    studio.button("Delete", "dialog .ls-answers").click()
    expect(lambda: "five" not in studio(".ls-presets select").inner_text())


@pytest.mark.usefixtures("empty_queue")
def test_jobs_from_start_to_end(studio):
    """Progress, a reload in the middle, pause, other jobs that wait, resume, stop, and a result."""
    studio.start("first", **MANY_STEPS)
    studio.reach(3)
    studio(".ls-run canvas").first.wait_for()
    assert "s/it" in studio(".ls-run .ls-progress-words").inner_text()
    studio.start("second", **ONE_STEP)
    studio.tab("Queue")
    assert "waiting" in studio.row("second").inner_text()

    studio.load()
    assert "running" in studio.row("first").inner_text()
    studio.tab("Train")
    expect(lambda: studio(".ls-run h2").inner_text() == "first" and studio.step() >= 3)
    assert studio.control("output_name").input_value() == "second"
    assert studio.control("train_data_dir").input_value() == str(studio.dataset)

    studio.button("Pause", ".ls-run").click()
    expect(lambda: studio.status() == "paused", STARTED_MS)
    paused_at = studio.step()
    put_in_another_order(studio)
    studio.button("Resume", ".ls-run").click()
    studio.reach(paused_at + 1)
    studio.button("Stop and save", ".ls-run").click()
    expect(lambda: studio.status() == "stopped", STARTED_MS)
    assert list(studio.site.lora_dir.glob("first*.safetensors"))

    studio.tab("Queue")
    expect(lambda: "done" in studio.row("second").inner_text(), STARTED_MS)
    studio.row("second").get_by_role("button", name="Watch").click()
    studio(".ls-result .ls-path").wait_for()
    assert studio(".ls-result .ls-path").inner_text() == str(studio.site.lora_dir / "second.safetensors")
    assert studio.button("Send to txt2img").count() == bool(studio.site.tab)


def put_in_another_order(studio: Studio) -> None:
    """A third job goes before the second, is duplicated into the form, and is taken out again."""
    studio.start("third", **MANY_STEPS)
    studio.tab("Queue")
    names = studio("tr.ls-job .ls-job-name")
    studio.row("third").get_by_role("button", name="Move third up").click()
    expect(lambda: names.all_inner_texts() == ["first", "third", "second"])
    studio.row("third").get_by_role("button", name="Duplicate").click()
    assert studio.control("output_name").input_value() == "third"
    assert studio.control("max_train_steps").input_value() == MANY_STEPS["max_train_steps"]
    studio.tab("Queue")
    studio.row("third").get_by_role("button", name="Remove").click()
    expect(lambda: names.all_inner_texts() == ["first", "second"])
    studio.tab("Train")


def test_a_name_that_exists_is_asked_about_and_never_replaced_silently(studio):
    studio.site.lora_dir.mkdir(parents=True, exist_ok=True)
    (studio.site.lora_dir / "taken.safetensors").write_bytes(b"somebody's")
    asked: list[Any] = []

    def keep(route: Any) -> None:
        if route.request.method == "POST":
            asked.append(route.request.post_data_json["values"])
            route.abort()
        else:
            route.continue_()

    studio.page.route("**/lora-studio/jobs", keep)
    studio.fill_in("taken", ONE_STEP)
    studio(".ls-start").click()
    studio("dialog").wait_for()
    studio.page.keyboard.press("Escape")
    expect(lambda: studio("dialog").count() == 0)
    assert asked == []
    studio(".ls-start").click()
    assert studio("dialog input").input_value() == "taken-2"
    studio.button("Take the other name").click()
    expect(lambda: [each["output_name"] for each in asked] == ["taken-2"])
    studio.write("output_name", "taken")
    studio(".ls-start").click()
    studio.button("Replace the file").click()
    expect(lambda: [each["overwrite"] for each in asked] == [False, True])


def test_a_lost_connection_is_said_and_comes_back(studio):
    studio.page.route("**/lora-studio/jobs", lambda route: route.abort())
    studio(".ls-banner", has_text="connection").wait_for()
    studio.page.unroute("**/lora-studio/jobs")
    studio(".ls-banner", has_text="connection").wait_for(state="hidden")


def test_foreign_names_stay_text(studio, tmp_path):
    markup = "<img src=x onerror=window.hacked=1>"
    folder = tmp_path / markup / "2_zorb"
    folder.mkdir(parents=True)
    shutil.copyfile(next(studio.dataset.rglob("*.png")), folder / "1.png")
    (folder / f"{markup}.gif").write_bytes(b"no picture that is read")
    studio.write("train_data_dir", str(tmp_path / markup))
    studio(".ls-left-out summary").click()
    assert markup in studio(".ls-left-out ul").inner_text()
    studio.write("train_data_dir", str(tmp_path))
    studio.button("Choose …").click()
    studio("dialog .ls-folder", has_text=markup).wait_for()
    assert studio.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_off_and_all_text_can_be_read(browser, standalone, dataset, theme):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme)
    with opened(context, standalone, dataset) as studio:
        for summary in studio(".ls-advanced .ls-group > summary").all():
            summary.click()
        assert studio.page.evaluate(UNLABELLED) == []
        assert studio.page.evaluate(FAINT) == []
        for width in (1280, 1920):
            studio.page.set_viewport_size({"width": width, "height": 900})
            assert studio.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert studio.page.evaluate(WIDER_THAN_THEIR_BOX) == []
    context.close()


WIDER_THAN_THEIR_BOX = """
() => [...document.querySelectorAll("#lora-studio .ls-field, #lora-studio .ls-section, #lora-studio .ls-row")]
    .filter((each) => each.offsetParent && each.scrollWidth > each.clientWidth + 1)
    .map((each) => each.className + ": " + each.textContent.slice(0, 60))
"""

UNLABELLED = """
() => [...document.querySelectorAll("#lora-studio :is(input, select, textarea, button)")]
    .filter((each) => !(each.getAttribute("aria-label") || each.labels?.length || each.textContent.trim()))
    .map((each) => each.outerHTML.slice(0, 80))
"""

# Contrast as WCAG 2 counts it, of the texts against the first background behind them that is not transparent.
FAINT = """
() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
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
