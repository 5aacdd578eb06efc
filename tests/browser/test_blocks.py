"""The tab Block weights as a person uses it, on real files and pictures: standalone, and in the real WebUI."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.layers import block_of_key
from studio_page import FAINT, STARTED_MS, UNLABELLED, WIDER_THAN_THEIR_BOX, Studio, expect, opened

pytestmark = pytest.mark.browser

DEMO = next((Path(__file__).parents[2] / "demo" / "model").glob("*.safetensors"))
BLOCKS = ("BASE", "M00", "OUT03")  # those in which the tests' LoRA has weights
OUT03 = ",".join("1" if place == 8 else "0" for place in range(17))
SMALL = {"steps": "2", "width": "64", "height": "64"}


class Blocks(Studio):
    """The words for the tab Block weights."""

    def load(self) -> None:
        super().load()
        self.tab("Block weights")
        self(".ls-experiments").wait_for(timeout=STARTED_MS)

    def reopen(self) -> None:
        """To another tab and back, which asks what files there are."""
        self.tab("Queue")
        with self.page.expect_response("**/lora-studio/blocks"):
            self.tab("Block weights")

    def pick(self, lora: str) -> None:
        picker = self(".ls-blocks .ls-left .ls-picker input")
        picker.fill(lora)
        with self.page.expect_response("**/blocks/norms*"):
            picker.press("Enter")

    def choose(self, lora: str) -> None:
        self.pick(lora)
        self(".ls-mixer-rows .ls-norm > i").first.wait_for(timeout=STARTED_MS)

    def block(self, name: str) -> Any:
        return self(f".ls-mixer-row[data-block={name}]")

    def weight(self, name: str, value: str) -> None:
        number = self.block(name).locator("input.ls-number")
        number.fill(value)
        number.press("Enter")

    def mark(self, which: str, name: str) -> None:
        self.block(name).locator(f"[data-mark={which}]").click()

    @property
    def vector(self) -> Any:
        return self(".ls-vector-text")

    def tag_text(self) -> str:
        return self(".ls-tag-text").inner_text()

    def experiment(self, name: str) -> None:
        self(".ls-experiments").get_by_role("tab", name=name, exact=True).click()

    def own(self, option: str) -> Any:
        """A field of the chosen experiment."""
        return self(f".ls-experiment:visible [data-option={option}] :is(input, select, textarea)").first

    def small_pictures(self, **values: str) -> None:
        summary = self(".ls-pictures-form summary")
        summary.click()
        for option, value in {"prompts": "a red circle", **SMALL, **values}.items():
            self(f".ls-pictures-form [data-option={option}] :is(input, textarea)").fill(value)
        summary.click()

    @property
    def result(self) -> Any:
        return self(".ls-blocks .ls-tool-run")

    def start(self) -> None:
        """Start, and wait until the new job is the one that is shown."""
        before = self.result.get_attribute("data-job")
        self(".ls-make .ls-start").click()
        expect(lambda: self.result.get_attribute("data-job") != before, STARTED_MS)

    def make(self) -> dict[str, Any]:
        """Start, and wait until it is done."""
        self.start()

        def ended() -> bool:
            status = self.result.locator(".ls-pill").first.inner_text()
            assert status != "failed", self.result.locator(".ls-failure").inner_text()
            return status == "done"

        expect(ended, STARTED_MS)
        return self.answer(f"jobs/{self.result.get_attribute('data-job')}")

    def loaded(self, selector: str) -> None:
        """Wait until all pictures there are drawn."""
        drawn = "all => all.length && all.every((each) => each.complete && each.naturalWidth > 0)"
        expect(lambda: self.result.locator(f"{selector} img").evaluate_all(drawn), STARTED_MS)

    def csv(self) -> list[dict[str, str]]:
        address = self.result.get_by_text("Figures as CSV").get_attribute("href")
        return list(csv.DictReader(io.StringIO(self.page.request.get(address).text())))


def write_lora(path: Path, strength: float = 3.0) -> None:
    """A LoRA of the demo's checkpoint with weights in ``BLOCKS`` alone."""
    generator, tensors = torch.Generator().manual_seed(1), {}
    for key, layer in BaseModel(DEMO).layers.items():
        if len(layer.shape) not in (2, 4) or "resnets" in key or "sampler" in key or block_of_key(key) not in BLOCKS:
            continue
        out, size, *kernel = layer.shape
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, 2, *[1] * len(kernel), generator=generator)
        down = torch.randn(2, size, *kernel, generator=generator) / size
        tensors[f"{key}.lora_down.weight"] = strength * down
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"ss_base_model_version": "sd_v1", "ss_sd_model_name": DEMO.name, "ss_network_module": "networks.lora"}
    rates = {"ss_learning_rate": "0.0001", "ss_unet_lr": "0.0001", "ss_text_encoder_lr": "0.00005"}
    save_file(tensors, path, metadata={**metadata, **rates})


@pytest.fixture(scope="module")
def loras(site) -> Path:
    """Two epochs of a LoRA."""
    write_lora(site.lora_dir / "blocky-000002.safetensors", 1.0)
    write_lora(site.lora_dir / "blocky.safetensors")
    return site.lora_dir


@pytest.fixture(scope="module")
def studio(context, site, dataset, loras):
    """One page for all tests here: to load it takes longer than most of them."""
    with opened(context, site, dataset, Blocks) as blocks:
        blocks.choose("blocky")
        yield blocks


@pytest.fixture
def blocks(studio) -> Blocks:
    expect.page = studio.page
    studio.tab("Block weights")
    studio.button("Reset", ".ls-weights").click()
    return studio


def test_a_lora_shows_what_it_changes_block_by_block(blocks):
    assert blocks(".ls-mixer-rows .ls-mixer-row").count() == 17  # the list of the blocks with attention has all of its
    bars = blocks(".ls-mixer-rows .ls-mixer-row:not(.ls-without)")
    assert bars.evaluate_all("all => all.map((each) => each.dataset.block)") == list(BLOCKS)
    widths = bars.locator(".ls-norm > i").evaluate_all("all => all.map((each) => parseFloat(each.style.width))")
    assert max(widths) == 100 and min(widths) > 0
    blocks(".ls-weights").get_by_role("radio", name="26 blocks").click()
    assert blocks(".ls-mixer-rows .ls-mixer-row").count() == 26
    assert blocks.vector.input_value() == ",".join(["1"] * 26)
    blocks(".ls-weights").get_by_role("radio", name="17 blocks").click()


def test_an_sdxl_lora_has_the_blocks_of_sdxl(blocks, loras):
    tensors = {}
    unet = [f"lora_unet_{place}_1_proj_in" for place in ("input_blocks_4", "output_blocks_5")]
    for key in (*unet, "lora_te2_text_model_encoder_layers_0_mlp_fc1"):
        tensors[f"{key}.lora_up.weight"] = torch.ones(4, 1)
        tensors[f"{key}.lora_down.weight"] = torch.ones(1, 4)
    save_file(tensors, loras / "large.safetensors", metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    blocks.reopen()
    blocks.choose("large")
    names = blocks(".ls-mixer-rows .ls-mixer-row").evaluate_all("all => all.map((each) => each.dataset.block)")
    assert (len(names), names[0], names[-1]) == (12, "BASE", "OUT05")
    assert blocks(".ls-mixer-rows .ls-norm > i").count() == 3
    blocks(".ls-preset-row select").select_option("OUTALL")  # of 17 values
    expect(lambda: blocks.vector.input_value() == "1,0,0,0,0,0,1,1,1,1,1,1")
    assert blocks.tag_text() == "<lora:large:1:lbw=OUTALL>"
    blocks.choose("blocky")
    (loras / "large.safetensors").unlink()


def test_sliders_numbers_and_text_say_the_same(blocks):
    assert blocks.tag_text() == "<lora:blocky:1>"
    slider = blocks.block("IN01").locator("input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")
    assert blocks.vector.input_value().startswith("1,0.95,1,")
    blocks.weight("BASE", "0,25")
    blocks.weight("OUT11", "x-0.2")
    assert blocks.vector.input_value() == "0.25,0.95,1,1,1,1,1,1,1,1,1,1,1,1,1,1,X-0.2"
    x = blocks(".ls-strengths").get_by_label("X", exact=True)
    x.fill("0.7")
    blocks(".ls-strengths").get_by_label("UNet strength").fill("0.8")
    assert blocks.tag_text() == f"<lora:blocky:1:0.8:lbw={blocks.vector.input_value()}:x=0.7>"
    assert blocks.block("OUT11").locator("input[type=range]").input_value() == "0.5"
    blocks.vector.fill(OUT03)
    expect(lambda: blocks.block("IN01").locator("input.ls-number").input_value() == "0")
    assert blocks.block("OUT03").locator("input.ls-number").input_value() == "1"
    assert not x.is_visible()
    blocks.vector.fill(OUT03.replace("0", "x+0.1", 1))
    expect(lambda: f"lbw={OUT03.replace('0', 'X+0.1', 1)}:x=0.7>" in blocks.tag_text())
    blocks(".ls-strengths").get_by_label("UNet strength").fill("1")


def test_solo_and_mute_lie_over_the_weights(blocks):
    blocks.weight("OUT03", "0.5")
    blocks.mark("solo", "OUT03")
    assert blocks.vector.input_value() == OUT03.replace("1", "0.5")
    blocks.mark("solo", "M00")
    blocks.mark("muted", "OUT03")
    assert blocks.vector.input_value() == "0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0"
    assert blocks.block("M00").locator("[data-mark=solo]").get_attribute("aria-pressed") == "true"
    blocks(".ls-mixer-head").get_by_role("button", name="Clear solo and mute").click()
    assert blocks.vector.input_value() == "1,1,1,1,1,1,1,1,0.5,1,1,1,1,1,1,1,1"


def test_presets_are_taken_saved_and_deleted(blocks):
    presets = blocks(".ls-preset-row select")
    presets.select_option("OUTD")
    expect(lambda: blocks.vector.input_value() == "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0")
    assert blocks.tag_text() == "<lora:blocky:1:lbw=OUTD>"
    presets.select_option("OUTX")
    blocks(".ls-strengths").get_by_label("X", exact=True).fill("0.3")
    expect(lambda: blocks.tag_text() == "<lora:blocky:1:lbw=OUTX:x=0.3>")
    blocks.weight("M00", "0.4")
    assert presets.input_value() == ""
    values = blocks.vector.input_value()
    blocks.button("Save as …", ".ls-weights").click()
    blocks("dialog input").fill("MINE")
    blocks("dialog button", has_text="Save").click()
    expect(lambda: presets.input_value() == "MINE")
    assert {"name": "MINE", "values": values, "own": True} in blocks.answer("blocks")["presets"]
    blocks.button("Delete", ".ls-weights").click()
    blocks("dialog .ls-answers button", has_text="Delete").click()
    expect(lambda: presets.locator("option[value=MINE]").count() == 0)
    assert blocks.vector.input_value() == values


def test_a_text_that_says_nothing_is_refused_at_its_field(blocks):
    blocks.vector.fill("OUTT")
    fault = blocks(".ls-weights .ls-error:visible")
    fault.wait_for()
    assert "OUTT" in fault.inner_text() and "OUTS" in fault.inner_text()
    blocks.vector.fill("0,1,0")
    expect(lambda: "3" in fault.inner_text())
    assert blocks.tag_text() == "<lora:blocky:1>"  # the sliders stay as they were
    blocks.button("Reset", ".ls-weights").click()
    assert not fault.is_visible()


def test_a_list_for_another_length_is_converted_and_said_so(blocks):
    blocks.vector.fill(",".join(["1"] * 11 + ["0"]))  # SDXL's
    note = blocks(".ls-weights-body > .ls-help:visible")
    note.wait_for()
    assert "SD1" in note.inner_text()
    expect(lambda: blocks.block("OUT11").locator("input.ls-number").input_value() == "0")


@pytest.mark.usefixtures("empty_queue")
def test_a_grid_of_presets_comes_in_and_can_be_enlarged(blocks):
    blocks.small_pictures(seeds="1, 2")
    blocks.experiment("Presets")
    while (chips := blocks(".ls-several-chip button:visible")).count():
        chips.first.click()
    for name in ("the sliders", "NONE"):
        blocks.own("weights").fill(name)
        blocks.own("weights").press("Enter")
    blocks.weight("OUT03", "0.5")
    assert blocks(".ls-make .ls-start").inner_text() == "Make the grid: 6 pictures"
    job = blocks.make()
    assert job["values"]["weights"] == [blocks.vector.input_value(), "NONE"]
    blocks.loaded(".ls-picture-table")
    assert blocks.result.locator(".ls-picture-table img").count() == 6
    heads = blocks.result.locator(".ls-picture-table thead th").all_inner_texts()
    assert heads == ["without the LoRA", blocks.vector.input_value(), "NONE"]
    cells = {tuple(cell["place"]): cell["change"] for cell in job["grid"]["cells"]}
    assert cells[0, 1] > 0 and cells[0, 2] == 0
    assert len(blocks.csv()) == 6
    blocks.result.locator(".ls-thumb").nth(1).click()
    image = blocks("dialog .ls-large")
    with_lora = image.get_attribute("src")
    blocks.page.keyboard.press("b")
    assert image.get_attribute("src") != with_lora
    blocks.page.keyboard.press("b")
    blocks.page.keyboard.press("ArrowDown")
    assert "seed 2" in blocks("dialog .ls-caption").inner_text()
    blocks.page.keyboard.press("Escape")


@pytest.mark.usefixtures("empty_queue")
def test_the_analysis_ranks_the_blocks_and_becomes_a_preset(blocks):
    blocks.small_pictures(seeds="1")
    blocks.experiment("Analyse")
    blocks.own("ways").select_option("alone")
    job = blocks.make()
    figures = {row["block"]: row["alone"]["mean"] for row in job["blocks"]}
    assert {block for block, figure in figures.items() if figure > 0} == set(BLOCKS)
    order = blocks.result.locator(".ls-data-table tbody td:first-child").all_inner_texts()
    assert set(order[:3]) == set(BLOCKS) and order[0] == max(figures, key=figures.get)
    assert [row["block"] for row in blocks.csv()][:3] == order[:3]
    blocks.loaded(".ls-maps")
    assert blocks.result.locator(".ls-maps figcaption").all_inner_texts() == list(BLOCKS)
    assert order[0] in blocks.result.locator(".ls-bars").get_attribute("aria-label")
    blocks.result.get_by_label("Blocks from % of the strongest").fill("100")
    assert blocks.result.get_by_text(f"Keeps {order[0]}", exact=True).is_visible()
    blocks.button("To the sliders").click()
    expect(lambda: blocks.vector.input_value().split(",").count("1") == 1)
    assert blocks.block(order[0]).locator("input.ls-number").input_value() == "1"


@pytest.mark.usefixtures("empty_queue")
def test_the_best_strengths_become_advice_for_the_train_tab(blocks):
    blocks.small_pictures()
    blocks.experiment("UNet × TE")
    blocks.own("unet").fill("0.5, 1")
    blocks.own("te").fill("1")
    blocks.own("without").uncheck()
    blocks.make()
    blocks.loaded(".ls-picture-table")
    blocks.result.locator(".ls-star").first.click()
    advice = blocks.result.locator(".ls-advice")
    advice.wait_for()
    assert "unet_lr" in advice.inner_text() and "5e-05" in advice.inner_text()
    advice.get_by_role("button", name="To the Train tab").click()
    assert blocks("[data-option=unet_lr] input").input_value() in ("0.00005", "5e-05", "5e-5")
    blocks.tab("Block weights")
    advice.get_by_role("button", name="Use it").click()
    expect(lambda: blocks.tag_text() == "<lora:blocky:1:0.5>")
    blocks(".ls-strengths").get_by_label("UNet strength").fill("1")


@pytest.mark.usefixtures("empty_queue")
def test_the_best_epoch_is_noted_with_its_checkpoint(blocks, loras):
    blocks.small_pictures()
    blocks.experiment("Epochs")
    blocks.button("All epochs").click()
    blocks.own("unet").fill("1")
    (checkpoint,) = blocks.answer("blocks")["checkpoints"]
    blocks.own("checkpoints").fill(checkpoint["name"])
    blocks.own("checkpoints").press("Enter")
    blocks.own("without").uncheck()
    assert blocks(".ls-make .ls-start").inner_text() == "Make the grid: 2 pictures"
    job = blocks.make()
    assert job["values"]["loras"] == ["blocky-000002", "blocky"]
    blocks.loaded(".ls-picture-table")
    blocks.result.locator(".ls-star").last.click()
    blocks.button("Note the checkpoint …").click()
    blocks("dialog button", has_text="Write it").click()

    def hint() -> str:
        with safe_open(loras / "blocky.safetensors", "pt") as file:
            return file.metadata().get("modelspec.usage_hint", "")

    expect(lambda: DEMO.stem in hint())


@pytest.mark.usefixtures("empty_queue")
def test_what_a_checkpoint_knows_of_tags_is_looked_up(blocks):
    blocks.small_pictures()
    blocks.experiment("Tags")
    (checkpoint,) = blocks.answer("blocks")["checkpoints"]
    blocks(".ls-pictures-form [data-option=checkpoint] select").select_option(checkpoint["path"])
    blocks.own("tags").fill("circle")
    blocks.make()
    blocks.loaded(".ls-picture-table")
    assert blocks.result.locator(".ls-data-table tbody tr").all_inner_texts()[0].startswith("circle\t")
    blocks(".ls-pictures-form [data-option=checkpoint] select").select_option("")


@pytest.mark.usefixtures("empty_queue")
def test_a_grid_is_stopped_and_its_pictures_stay(blocks):
    blocks.small_pictures(steps="40", seeds="1, 2, 3, 4, 5, 6, 7, 8")
    blocks.experiment("Picture")
    blocks.start()
    blocks.result.locator(".ls-picture-table img").first.wait_for(timeout=STARTED_MS)
    blocks.result.get_by_role("button", name="Stop").click()
    expect(lambda: blocks.result.locator(".ls-pill").first.inner_text() == "stopped", STARTED_MS)
    assert 0 < blocks.result.locator(".ls-picture-table img").count() < 16
    blocks.result.get_by_role("button", name="Duplicate …").click()
    expect(lambda: blocks(".ls-experiments [aria-selected=true]").inner_text() == "Picture")


@pytest.mark.usefixtures("empty_queue")
def test_the_weighted_lora_is_saved_by_the_tool(blocks, loras):
    blocks.mark("solo", "OUT03")
    blocks.button("Save as a LoRA …").click()
    blocks(".ls-tool-name[data-tool=blocks][aria-selected=true]").wait_for(timeout=STARTED_MS)
    assert blocks(".ls-tool-form:visible [data-option=lbw] input").input_value() == OUT03
    assert blocks.control("output").input_value() == "blocky-weighted"
    blocks(".ls-tool-start .ls-start:visible").click()
    path = loras / "blocky-weighted.safetensors"
    expect(path.exists, STARTED_MS)
    keys = {name.split(".")[0] for name in load_file(path)}
    assert keys and {block_of_key(key) for key in keys} == {"OUT03"}
    blocks(".ls-tool-run:visible .ls-data-table").wait_for(timeout=STARTED_MS)
    blocks.tab("Block weights")


def test_the_weights_become_learning_rates(blocks):
    blocks.vector.fill(OUT03)
    expect(lambda: blocks.block("M00").locator("input.ls-number").input_value() == "0")
    blocks.button("To Train as learning rates").click()
    field = blocks("[data-option=block_lr_weight] input")
    expect(lambda: field.input_value() != "")
    factors = field.input_value().split(", ")
    assert [place for place, factor in enumerate(factors) if float(factor) == 1] == [17]  # OUT03 of the list of 26
    blocks.tab("Block weights")


def test_prompts_are_kept_as_a_list(blocks):
    blocks.small_pictures(prompts="a red circle\na blue square")
    blocks.button("Save the prompts …").click()
    blocks("dialog input").fill("shapes")
    blocks("dialog button", has_text="Save").click()
    saved = blocks(".ls-saved-row select")
    expect(lambda: saved.input_value() == "shapes")
    prompts = blocks(".ls-pictures-form [data-option=prompts] textarea")
    prompts.fill("")
    saved.select_option("")
    saved.select_option("shapes")
    assert prompts.input_value() == "a red circle\na blue square"
    blocks.button("Delete", ".ls-saved-row").click()
    blocks("dialog .ls-answers button", has_text="Delete").click()
    expect(lambda: blocks.answer("blocks")["prompts"] == [])


@pytest.mark.usefixtures("empty_queue")
def test_a_job_of_the_plain_lora_is_changed_as_it_was(blocks):
    blocks.small_pictures()
    blocks.experiment("Picture")
    job = blocks.make()
    assert job["values"]["weights"] == []
    blocks.weight("OUT03", "0.35")
    blocks.result.get_by_role("button", name="Duplicate …").click()
    expect(lambda: blocks.tag_text() == "<lora:blocky:1>")


@pytest.mark.usefixtures("empty_queue")
def test_a_job_whose_lora_is_gone_says_so(blocks, loras):
    (loras / "gone.safetensors").write_bytes((loras / "blocky.safetensors").read_bytes())
    blocks.reopen()
    blocks.choose("gone")
    blocks.small_pictures()
    blocks.experiment("Picture")
    blocks.make()
    blocks.choose("blocky")
    (loras / "gone.safetensors").unlink()
    blocks.reopen()
    blocks.result.get_by_role("button", name="Duplicate …").click()
    expect(lambda: "gone is not in the LoRA folder" in blocks(".ls-blocks .ls-left .ls-help").first.inner_text())
    assert blocks(".ls-make .ls-start").is_disabled()
    blocks.choose("blocky")


def test_what_was_set_survives_a_reload(blocks):
    blocks.weight("OUT03", "0.35")
    blocks.small_pictures(seeds="5, 6")
    blocks.experiment("UNet × TE")
    blocks.own("te").fill("0.1, 0.2")
    blocks.page.wait_for_timeout(500)  # drafts are kept when the keys have rested
    blocks.load()
    expect(lambda: blocks.tag_text().startswith("<lora:blocky:1:lbw=1,1"))
    assert blocks.block("OUT03").locator("input.ls-number").input_value() == "0.35"
    assert blocks.own("te").input_value() == "0.1, 0.2"
    assert blocks(".ls-pictures-form [data-option=seeds] input").input_value() == "5, 6"
    assert blocks(".ls-pictures-form summary").inner_text().endswith("2 steps, 64 × 64")


def test_foreign_names_stay_text(blocks, loras):
    path = loras / "<img src=x onerror=window.hacked=1>.safetensors"
    path.write_bytes((loras / "blocky-000002.safetensors").read_bytes())
    blocks.reopen()
    blocks.pick("<img")
    expect(lambda: "<img" in blocks(".ls-blocks .ls-left .ls-help").first.inner_text())  # such a name is refused
    assert blocks.page.evaluate("window.hacked") is None
    blocks.choose("blocky")
    path.unlink()


def test_nothing_is_cut_off_and_all_text_can_be_read(blocks):
    def faults() -> list[str]:
        found = [*blocks.page.evaluate(UNLABELLED), *blocks.page.evaluate(WIDER_THAN_THEIR_BOX)]
        if not blocks.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"):
            found.append("the page is wider than the window")
        return [*found, *blocks.page.evaluate(FAINT)]

    names = blocks(".ls-experiments [role=tab]").all_inner_texts()
    for scheme, widths in (("light", (1280, 800)), ("dark", (1280,))):
        blocks.page.emulate_media(color_scheme=scheme)
        blocks.load()
        for width in widths:
            blocks.page.set_viewport_size({"width": width, "height": 900})
            for name in names:
                blocks.experiment(name)
                assert faults() == [], (scheme, width, name)
    blocks.page.emulate_media(color_scheme="light")
    blocks.page.set_viewport_size({"width": 1280, "height": 900})
