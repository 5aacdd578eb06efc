"""The Tools tab as a person uses it, on real files: standalone, and in the real WebUI where there is one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lora.text.extra_networks import split_tags
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.blocks.words import read_tag
from studio_page import FAINT, STARTED_MS, UNLABELLED, WIDER_THAN_THEIR_BOX, Studio, expect, opened

pytestmark = pytest.mark.browser

DEMO = next((Path(__file__).parents[2] / "demo" / "model").glob("*.safetensors"))


class Tools(Studio):
    """The words for the Tools tab."""

    def load(self) -> None:
        super().load()
        self.tab("Tools")
        self(".ls-tool-name").first.wait_for(timeout=STARTED_MS)

    def tool(self, name: str) -> None:
        """A tool's form, empty."""
        self(f".ls-tool-name[data-tool={name}]").click()
        self.button("Clear the form").click()

    def reopen(self) -> None:
        """To another tab and back, which asks what files there are."""
        self.tab("Queue")
        with self.page.expect_response("**/lora-studio/tools"):
            self.tab("Tools")

    def field(self, name: str) -> Any:
        return self(f".ls-tool-form:visible [data-option={name}]")

    def pick(self, place: Any, words: str) -> None:
        """Type to search, and take the first of what is found."""
        picker = place.locator(".ls-picker input")
        picker.fill(words)
        picker.press("Enter")

    def row(self, number: int) -> Any:
        return self(".ls-tool-form:visible .ls-recipe-row").nth(number)

    def start(self) -> None:
        self(".ls-tool-start .ls-start:visible").click()

    def start_job(self) -> None:
        """Start, and wait until the new job is the one that is shown."""
        shown = self(".ls-tool-run").get_attribute("data-job")
        self.start()
        expect(lambda: self(".ls-tool-run").get_attribute("data-job") != shown, STARTED_MS)

    def status(self) -> str:
        return self(".ls-tool-run .ls-pill").inner_text()

    def done(self, name: str) -> dict[str, Any]:
        """Wait for the job of this name that is shown."""
        expect(lambda: self(".ls-tool-run h2").inner_text() == name)

        def ended() -> bool:
            assert self.status() != "failed", self(".ls-tool-run .ls-failure").inner_text()
            return self.status() == "done"

        expect(ended, STARTED_MS)
        return next(job for job in reversed(self.answer("jobs")["jobs"]) if job["name"] == name)


@pytest.fixture(scope="module")
def loras(site) -> Path:
    """Two LoRAs for the demo's checkpoint, one of them in a folder."""
    write_lora(site.lora_dir / "zorb.safetensors", seed=1, rank=4)
    write_lora(site.lora_dir / "people" / "style.safetensors", seed=2, rank=2)
    return site.lora_dir


def write_lora(path: Path, seed: int, rank: int) -> None:
    """LoRA of every fifth layer of the demo's checkpoint."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    layers = {key: layer for key, layer in BaseModel(DEMO).layers.items() if len(layer.shape) in (2, 4)}
    for key in list(layers)[::5]:
        out, size, *kernel = layers[key].shape
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, rank, *[1] * len(kernel), generator=generator)
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, size, *kernel, generator=generator) / 100
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = json.dumps({"2_zorb": {"zorb": 8, "red <b>hat</b>": 3}})
    save_file(tensors, path, metadata={"ss_base_model_version": "sd_v1", "ss_tag_frequency": tags})


@pytest.fixture(scope="module")
def studio(context, site, dataset, loras) -> Iterator[Tools]:
    """One page for all tests here: to load it takes longer than most of them."""
    with opened(context, site, dataset, Tools) as tools:
        yield tools


@pytest.fixture
def tools(studio) -> Tools:
    expect.page = studio.page
    return studio


def ranks(path: Path) -> set[int]:
    return {tensor.shape[0] for name, tensor in load_file(path).items() if name.endswith("lora_down.weight")}


@pytest.mark.usefixtures("empty_queue")
def test_loras_are_merged_by_rows(tools, loras):
    tools.tool("merge")
    tools.pick(tools.row(0), "zor")
    tools.row(0).locator("[data-part=strength]").fill("0,7")
    tools.button("Add a LoRA").click()
    tools.pick(tools.row(1), "sty")
    tools.row(1).locator("[data-part=te]").fill("0")
    tools.row(1).locator("[data-part=blocks]").fill("OUTD")
    assert tools.control("output").input_value() == "zorb-style"
    expect(lambda: str(loras / "zorb-style.safetensors") in tools(".ls-tool-start .ls-help:visible").inner_text())
    tools.start_job()
    job = tools.done("zorb-style")
    assert job["values"]["prompt"] == "<lora:zorb:0.7> <lora:people/style:1:1:te=0:lbw=OUTD>"
    box = tools(".ls-tool-run .ls-result")
    box.wait_for()
    assert str(loras / "zorb-style.safetensors") in box.inner_text()
    assert "<lora:zorb-style:1>" in box.inner_text() and re.search(r"MB|KB", box.inner_text())
    assert tools.button("Send to txt2img", ".ls-tool-run").count() == bool(tools.site.tab)
    assert tools(".ls-tool-run .ls-data-table tbody tr").count() == 12
    expect(lambda: tools.control("output").input_value() == "zorb-style-2")  # the next one's name


def test_a_pasted_prompt_becomes_rows(tools):
    tools.tool("merge")
    tools.row(0).locator(".ls-picker input").fill("a cat <lora:style:0.5> in a hat <lora:zorb:1:-0.25:lbw=MIDD>")
    tools.row(0).locator(".ls-picker input").press("Tab")
    parts = ".ls-picker input, [data-part]"
    rows = [tools.row(number).locator(parts).evaluate_all("all => all.map((each) => each.value)") for number in (0, 1)]
    assert rows == [["people/style", "0.5", "", "", ""], ["zorb", "1", "", "-0.25", "MIDD"]]
    tools.button("Prompt", ".ls-tool-form").click()
    area = tools(".ls-tool-form:visible textarea")
    assert area.input_value() == "<lora:people/style:0.5> <lora:zorb:1:-0.25:lbw=MIDD>"
    area.fill("<lora:zorb:0.3>")
    tools.button("Rows", ".ls-tool-form").click()
    assert tools(".ls-tool-form:visible .ls-recipe-row").count() == 1
    assert tools.row(0).locator("[data-part=strength]").input_value() == "0.3"


PROMPTS = [
    "<lora:a>",
    "<lora:a:0.7>",
    "<lora:a:1:0.5:lbw=OUTD>",
    "<lora:a:te=0.8>",
    "<lora:a:0.8:te=0:unet=0.25>",
    "<lora:folder/a:0.4:0.4:te=-1:dyn=4>",
    "<lora:a:1:0.5:8:lbw=1,0,0,X,0,0,0,0,0,0,0,1:x=0.3>",
]


def test_rows_say_the_same_as_the_prompt_that_they_were_read_from(tools):
    turned = tools.page.evaluate(
        """async (prompts) => {
            const address = new URL("lora-studio/static/tools/recipe_text.js", document.baseURI);
            const { promptOf, rowsOf } = await import(address);
            return prompts.map((prompt) => promptOf(rowsOf(prompt)));
        }""",
        PROMPTS,
    )
    for before, after in zip(PROMPTS, turned):
        (one,), (other,) = (split_tags(text)[1] for text in (before, after))
        assert read_tag(other, family=None) == read_tag(one, family=None), after


@pytest.mark.usefixtures("empty_queue")
def test_a_smaller_lora_is_made_looked_at_and_given_a_title(tools, loras):
    tools.tool("resize")
    tools.pick(tools.field("model"), "zorb")
    tools.write("new_rank", "2")
    tools.pick(tools.field("model"), "zorb")
    assert tools.control("output").input_value() == "zorb-r2"
    tools.start_job()
    tools.done("zorb-r2")
    assert ranks(loras / "zorb-r2.safetensors") == {2}
    tools(".ls-tool-run .ls-data-table").wait_for()
    lost = tools(".ls-tool-run .ls-data-table td:last-child").all_inner_texts()
    figures = [float(text.removesuffix(" %")) for text in lost]
    assert figures == sorted(figures, reverse=True) and figures[0] > 0
    tools(".ls-tool-run .ls-result select").select_option("inspect")
    assert tools.field("model").locator("input").input_value() == "zorb-r2"
    tools.start_job()
    expect(lambda: tools(".ls-tool-run .ls-tags").count() == 1, STARTED_MS)
    assert "red <b>hat</b>" in tools(".ls-tool-run .ls-tags").inner_text()
    tools(".ls-tool-run .ls-bars").hover()
    assert re.match(r"(BASE|IN|M|OUT)\d*: norm [\d.]+", tools(".ls-tool-run .ls-readout").inner_text())
    tools(".ls-tool-run .ls-metadata > summary").click()
    tools(".ls-tool-run .ls-metadata").get_by_label("Title", exact=True).fill("A title, with a comma")
    tools(".ls-tool-run .ls-metadata").get_by_role("button", name="Remove ss_tag_frequency").click()
    tools.button("Write into the file").click()

    def metadata() -> dict[str, str]:
        with safe_open(loras / "zorb-r2.safetensors", "pt") as file:
            return file.metadata()

    expect(lambda: metadata().get("modelspec.title") == "A title, with a comma", STARTED_MS)
    assert "ss_tag_frequency" not in metadata()
    expect(lambda: "A title, with a comma" in (tools(".ls-tool-run .ls-metadata-list").text_content() or ""))


@pytest.mark.usefixtures("empty_queue")
def test_two_loras_are_compared_with_a_picture_and_a_file_is_verified(tools):
    tools.tool("compare")
    tools.pick(tools.field("first"), "zorb")
    tools.pick(tools.field("second"), "people/style")
    tools.start_job()
    tools(".ls-tool-run .ls-bars").wait_for(timeout=STARTED_MS)
    tools(".ls-tool-run summary", has_text="picture").click()
    picture = tools(".ls-tool-picture")
    expect(lambda: picture.evaluate("(each) => each.complete && each.naturalWidth > 100"))
    tools.tool("verify")
    tools.pick(tools.field("model"), "people/style")
    tools.start_job()
    tools(".ls-tool-run .ls-verdict", has_text="No errors").wait_for(timeout=STARTED_MS)


@pytest.mark.usefixtures("empty_queue")
def test_a_lora_is_baked_into_a_checkpoint_and_extracted_again(tools, loras):
    tools.tool("bake")
    tools.pick(tools.row(0), "zorb")
    tools.pick(tools.field("checkpoint"), DEMO.stem)
    name = tools.control("output").input_value()
    assert name == f"{DEMO.stem}-zorb"
    tools.start_job()
    baked = tools.done(name)["tool"]["output"]
    tools.tool("extract")
    tools.pick(tools.field("model_org"), DEMO.name)
    expect(lambda: any(each["path"] == baked for each in tools.answer("tools")["checkpoints"]))
    tools.pick(tools.field("model_tuned"), name)
    tools.write("dim", "4")
    tools.start_job()
    tools.done(f"{name}-r4")
    assert ranks(loras / f"{name}-r4.safetensors") <= {1, 2, 3, 4}
    Path(baked).unlink()


@pytest.mark.usefixtures("empty_queue")
def test_names_are_converted(tools, loras):
    tools.tool("convert")
    tools.pick(tools.field("model"), "zorb")
    tools.control("names").select_option("diffusers")
    tools.start_job()
    tools.done("zorb-diffusers")
    assert any(".lora_A." in name or "processor" in name for name in load_file(loras / "zorb-diffusers.safetensors"))


def test_a_mistake_is_told_at_its_field_and_nothing_is_started(tools):
    tools.tool("resize")
    tools.pick(tools.field("model"), "zorb")
    tools.write("new_rank", "0")
    error = tools.field("new_rank").locator(".ls-error:visible")
    error.wait_for()
    tools.start()
    assert "at least 1" in error.inner_text()
    expect(lambda: tools.control("new_rank").evaluate("(each) => each === document.activeElement"))
    tools.write("new_rank", "1")
    expect(lambda: error.count() == 0)
    tools.tool("merge")
    tools.row(0).locator(".ls-picker input").fill("nobody")
    tools.row(0).locator("[data-part=strength]").fill("1")
    tools.field("prompt").locator(".ls-error:visible").wait_for()
    assert tools.answer("jobs")["jobs"] == []


def test_what_must_be_given_is_asked_for_at_start_and_not_before(tools):
    tools.tool("compare")
    tools.pick(tools.field("first"), "zorb")
    tools.page.wait_for_timeout(700)  # a plan is made when the keys have rested
    assert tools(".ls-tool-form .ls-error:visible").count() == 0
    tools.start()
    tools.field("second").locator(".ls-error:visible").wait_for()


@pytest.mark.usefixtures("empty_queue")
def test_a_job_is_stopped_and_its_values_come_back_into_the_form(tools, loras):
    generator = torch.Generator().manual_seed(4)
    keys = [f"lora_unet_down_blocks_3_resnets_{number}_conv{part}" for number in (0, 1) for part in (1, 2)]
    slow = {f"{key}.diff": torch.randn(1280, 1280, 1, 1, generator=generator).half() for key in keys}
    save_file(slow, loras / "slow.safetensors", metadata={"ss_base_model_version": "sd_v1"})
    tools.reopen()
    tools.tool("merge")
    tools.pick(tools.row(0), "slow")
    tools.write("new_rank", "4")
    tools(".ls-tool-form:visible .ls-group:not([open]) > summary").click()
    tools.control("exact").check()
    tools.start_job()
    tools.button("Stop", ".ls-tool-run").click(timeout=STARTED_MS)
    expect(lambda: tools.status() == "stopped", STARTED_MS)
    assert not (loras / "slow-copy-r4.safetensors").exists()
    tools.tool("merge")
    tools.button("Duplicate …").click()
    assert tools.control("new_rank").input_value() == "4"
    assert tools.row(0).locator(".ls-picker input").input_value() == "slow"
    tools.tab("Queue")
    assert "merge" in tools("tr.ls-job").inner_text() and "stopped" in tools("tr.ls-job").inner_text()
    tools("tr.ls-job").get_by_role("button", name="Watch").click()
    tools(".ls-tool-run:visible").wait_for()


def test_a_file_that_exists_is_asked_about(tools, loras):
    (loras / "taken.safetensors").write_bytes(b"somebody's")
    tools.tool("resize")
    tools.pick(tools.field("model"), "zorb")
    tools.control("output").fill("taken")
    tools.start()
    assert tools("dialog input").input_value() == "taken-2"
    tools.page.keyboard.press("Escape")
    expect(lambda: tools("dialog").count() == 0)
    assert (loras / "taken.safetensors").read_bytes() == b"somebody's"
    assert tools.answer("jobs")["jobs"] == []


def test_a_draft_survives_a_reload(tools):
    tools.tool("merge")
    tools.pick(tools.row(0), "people")
    tools.row(0).locator("[data-part=unet]").fill("0.5")
    tools.tool("resize")
    tools.write("new_rank", "7")
    tools.page.wait_for_timeout(500)  # drafts are kept when the keys have rested
    tools.load()
    assert tools.control("new_rank").input_value() == "7"
    tools(".ls-tool-name[data-tool=merge]").click()
    assert tools.row(0).locator(".ls-picker input").input_value() == "people/style"
    assert tools.row(0).locator("[data-part=unet]").input_value() == "0.5"
    tools.button("Clear the form").click()
    assert tools.row(0).locator(".ls-picker input").input_value() == ""


def test_foreign_names_stay_text(tools, loras):
    write_lora(loras / "<img src=x onerror=window.hacked=1>.safetensors", seed=3, rank=1)
    tools.reopen()
    tools.tool("inspect")
    tools.field("model").locator("input").click()
    tools(".ls-option", has_text="<img").first.wait_for()
    assert tools.page.evaluate("window.hacked") is None


@pytest.mark.usefixtures("empty_queue")
def test_nothing_is_cut_off_and_all_text_can_be_read(tools):
    tools.tool("inspect")
    tools.pick(tools.field("model"), "zorb")
    tools.start_job()
    tools(".ls-tool-run .ls-metadata > summary").click(timeout=STARTED_MS)
    for name in every_tool(tools):
        for summary in tools(".ls-tool-form:visible .ls-group > summary").all():
            summary.click()
        assert tools.page.evaluate(UNLABELLED) == []
        assert tools.page.evaluate(FAINT) == [], name
        for width in (1920, 1280):
            tools.page.set_viewport_size({"width": width, "height": 900})
            assert tools.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert tools.page.evaluate(WIDER_THAN_THEIR_BOX) == []
    tools.page.emulate_media(color_scheme="dark")
    tools.load()
    assert [fault for _ in every_tool(tools) for fault in tools.page.evaluate(FAINT)] == []
    tools.page.emulate_media(color_scheme="light")


def every_tool(tools: Tools) -> Iterator[str]:
    for name in tools(".ls-tool-name").evaluate_all("all => all.map((each) => each.dataset.tool)"):
        tools.tool(name)
        yield name
