"""The Dataset tab as a person uses it: standalone, and in the real WebUI where there is one."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio_page import FAINT, STARTED_MS, UNLABELLED, WIDER_THAN_THEIR_BOX, Studio, act_on_all, expect, opened

pytestmark = pytest.mark.browser

PICTURES = 60
COMMAND = "Control"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty small pictures; every third has the tag hat, the last has no caption."""
    root = tmp_path / "pictures"
    place = root / "10_zorb"
    place.mkdir(parents=True)
    draw = random.Random(1)
    for index in range(PICTURES):
        size = draw.choice([(64, 96), (96, 64), (64, 64)])
        Image.new("RGB", size, tuple(draw.randrange(256) for _ in range(3))).save(place / f"{index:02}.png")
        caption = "zorb, red hair" + (", hat" if index % 3 == 0 else "")
        if index < PICTURES - 1:
            (place / f"{index:02}.txt").write_text(caption, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def one_page(context, site, dataset) -> Iterator[Studio]:
    """One page for all tests: loading it takes longer than most of them."""
    with opened(context, site, dataset) as studio:
        yield studio


@pytest.fixture
def desk(one_page: Studio, folder: Path) -> Desk:
    expect.page = one_page.page
    desk = Desk(one_page, folder)
    desk.save_by_itself(True)
    return desk


class Desk:
    """The open dataset on a page."""

    def __init__(self, studio: Studio, folder: Path) -> None:
        self.studio, self.folder = studio, folder
        self.page = studio.page
        self.page.set_default_timeout(15_000)
        self.open()

    def open(self) -> None:
        self.studio.tab("Dataset")
        if self(".ls-work").is_visible():
            self.panel("Caption")
            self.studio.button("Another folder …").click()
        self(".ls-opening input").fill(str(self.folder))
        self.studio.button("Open", ".ls-opening").click()
        self(".ls-tile").first.wait_for()

    def __call__(self, selector: str, **kwargs: Any) -> Any:
        return self.studio(selector, **kwargs)

    def tile(self, index: int) -> Any:
        return self(f'.ls-tile[title^="10_zorb/{index:02}.png"]')

    def chips(self) -> list[str]:
        return self(".ls-editor:visible .ls-chip-tag").all_inner_texts()

    def count(self) -> str:
        return self(".ls-filter .ls-found").inner_text()

    def chosen(self) -> int:
        return self('.ls-tile[aria-selected="true"]:visible').count()

    def caption(self, index: int) -> str | None:
        try:
            return (self.folder / "10_zorb" / f"{index:02}.txt").read_text("utf-8")
        except FileNotFoundError:
            return None

    def panel(self, name: str) -> None:
        self(".ls-side [role=tab]", has_text=name).click()

    def save_by_itself(self, on: bool) -> None:
        self(".ls-editor:visible .ls-check").set_checked(on)

    def gallery(self) -> Any:
        self(".ls-gallery").focus()
        return self.page.keyboard

    def filter(self, query: str) -> None:
        self(".ls-filter input").fill(query)


def test_only_what_is_seen_is_in_the_page_and_keys_choose(desk):
    assert desk.count() == "60 pictures, 1 chosen"
    assert desk(".ls-tile").count() < PICTURES
    keys = desk.gallery()
    keys.press("End")
    expect(lambda: desk.tile(59).get_attribute("aria-selected") == "true")
    assert desk("h3.ls-editor-name").inner_text() == "10_zorb/59.png"
    keys.press("Home")
    keys.press("ArrowRight")
    keys.press("Shift+ArrowRight")
    keys.press("Shift+ArrowRight")
    assert desk.count() == "60 pictures, 3 chosen"
    keys.press("Control+ArrowRight")
    keys.press("Control+ArrowRight")
    keys.press("Space")
    assert desk.count() == "60 pictures, 4 chosen"
    keys.press("Control+a")
    assert desk.count() == "60 pictures, 60 chosen"
    keys.press("Escape")
    assert desk.count() == "60 pictures"
    desk.tile(1).click()
    desk.tile(6).click(modifiers=["Shift"])
    desk.tile(3).click(modifiers=["Control"])
    assert desk.count() == "60 pictures, 5 chosen"
    expect(lambda: desk('.ls-tile img[src^="blob:"]').count() > 8)


def test_a_filter_shows_what_fits_and_a_mistake_is_told_at_its_place(desk):
    desk.filter("hat")
    expect(lambda: desk.count().startswith("20 of 60"))
    desk.filter("-hat is:captioned")
    expect(lambda: desk.count().startswith("39 of 60"))
    desk.filter("hat tags>x")
    desk(".ls-filter-error:visible").wait_for()
    assert "a number is missing" in desk(".ls-filter-error").inner_text()
    assert desk(".ls-filter-error mark").inner_text() == "x"
    assert desk.count().startswith("39 of 60")
    desk.studio.button("", ".ls-filter .ls-search-box").click()
    expect(lambda: desk.count().startswith("60 pictures"))


def test_a_caption_is_written_with_chips_and_text_and_undone(desk):
    desk.tile(0).click()
    desk.save_by_itself(False)
    expect(lambda: desk.chips() == ["zorb", "red hair", "hat"])
    add = desk(".ls-editor:visible input[aria-label='Add a tag']")
    add.fill("sky")
    add.press("Enter")
    assert desk.chips() == ["zorb", "red hair", "hat", "sky"]
    desk(".ls-editor:visible .ls-chip", has_text="hat").locator(".ls-chip-remove").click()
    chip = desk(".ls-editor:visible .ls-chip").nth(2)
    chip.focus()
    desk.page.keyboard.press("Alt+ArrowLeft")
    assert desk.chips() == ["zorb", "sky", "red hair"]
    assert desk(".ls-caption-text").input_value() == "zorb, sky, red hair"
    desk.page.keyboard.press(f"{COMMAND}+s")
    expect(lambda: desk.caption(0) == "zorb, sky, red hair")
    desk.save_by_itself(True)
    desk(".ls-caption-text").fill("zorb, typed")
    expect(lambda: desk.caption(0) == "zorb, typed")  # by itself, after a rest
    keys = desk.gallery()
    keys.press(f"{COMMAND}+z")
    expect(lambda: desk.chips() == ["zorb", "sky", "red hair"])
    keys.press(f"{COMMAND}+z")
    expect(lambda: desk.caption(0) == "zorb, red hair, hat")
    keys.press(f"{COMMAND}+y")
    expect(lambda: desk.caption(0) == "zorb, sky, red hair")


def test_a_chip_is_dragged_to_another_place(desk):
    desk.tile(0).click()
    expect(lambda: desk.chips() == ["zorb", "red hair", "hat"])
    # By hand, a step at a time: a drag that begins after the button is let go of never ends.
    chips, mouse = desk(".ls-editor:visible .ls-chip"), desk.page.mouse
    start, end = chips.nth(2).bounding_box(), chips.nth(0).bounding_box()
    mouse.move(start["x"] + 8, start["y"] + 8)
    mouse.down()
    mouse.move(start["x"] + 2, start["y"] + 8, steps=4)
    desk(".ls-chip.ls-lifted").wait_for()
    mouse.move(end["x"] + 3, end["y"] + 8, steps=4)
    desk(".ls-chip.ls-before").wait_for()
    mouse.up()
    expect(lambda: desk.caption(0) == "hat, zorb, red hair")


def test_sentences_stay_whole_beside_tags(desk):
    desk.tile(1).click()
    text = desk(".ls-caption-text")
    expect(lambda: text.input_value() == "zorb, red hair")
    sentence = "A tall girl in a red coat stands under a tree, holding the hat of her old aunt."
    text.fill(f"zorb, {sentence} indoors")
    expect(lambda: desk.chips() == ["zorb", sentence, "indoors"])
    desk(".ls-chip.ls-prose").wait_for()
    desk(".ls-editor:visible .ls-chip", has_text="indoors").locator(".ls-chip-remove").click()
    expect(lambda: desk.caption(1) == f"zorb, {sentence}")


def test_what_was_typed_outlives_a_reload_without_being_saved(desk):
    desk.tile(1).click()
    desk.save_by_itself(False)
    expect(lambda: desk.chips() == ["zorb", "red hair"])
    desk(".ls-caption-text").fill("zorb, long work")
    assert desk(".ls-save-state").inner_text() == "not saved yet"
    desk.studio.load()
    desk.tile(1).click()
    expect(lambda: desk(".ls-caption-text").input_value() == "zorb, long work")
    assert desk.tile(1).get_attribute("data-mark") == "unsaved"
    assert desk.caption(1) == "zorb, red hair"
    desk(".ls-caption-text").press(f"{COMMAND}+s")
    expect(lambda: desk.caption(1) == "zorb, long work")


def test_two_pages_do_not_lose_each_others_edits(desk, browser, site, dataset):
    desk.tile(1).click()
    desk.save_by_itself(False)
    expect(lambda: desk.chips() == ["zorb", "red hair"])
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        with opened(context, site, dataset) as studio:
            other = Desk(studio, desk.folder)
            other.tile(1).click()
            expect(lambda: other.chips() == ["zorb", "red hair"])
            other(".ls-caption-text").fill("zorb, theirs")
            other(".ls-caption-text").press(f"{COMMAND}+s")
            expect(lambda: desk.caption(1) == "zorb, theirs")
    finally:
        context.close()
    expect.page = desk.page
    expect(lambda: desk.chips() == ["zorb", "theirs"])  # no draft here: what the other has saved is shown
    desk(".ls-caption-text").fill("zorb, mine")
    (desk.folder / "10_zorb" / "01.txt").write_text("zorb, a third", encoding="utf-8")
    desk(".ls-conflict:visible").wait_for()
    desk(".ls-caption-text").press(f"{COMMAND}+s")
    assert desk.caption(1) == "zorb, a third"
    assert desk(".ls-conflict .ls-difference").all_inner_texts() == ["zorb, a third", "zorb, mine"]
    desk.studio.button("Keep mine", ".ls-conflict").click()
    expect(lambda: desk.caption(1) == "zorb, mine")
    expect(lambda: not desk(".ls-conflict").is_visible())


def test_tags_are_counted_filtered_by_and_renamed(desk):
    desk.panel("Tags")
    row = desk('.ls-tag-row[data-tag="hat"]:visible')
    expect(lambda: row.count() and row.locator(".ls-count").inner_text() == "20")
    row.locator("[data-act=filter]").click()
    expect(lambda: desk.count().startswith("20 of 60"))
    row.hover()
    row.locator("[data-act=rename]").click()
    desk("dialog input").fill("top hat")
    desk.studio.button("Rename", "dialog .ls-answers").click()
    expect(lambda: desk.caption(0) == "zorb, red hair, top hat")
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: desk.caption(57) == "zorb, red hair, hat")


def test_an_edit_of_many_is_counted_and_shown_before_it_is_made(desk):
    desk.filter("hat")
    expect(lambda: desk.count().startswith("20 of 60"))
    desk.panel("Edit")
    desk("select[aria-label=Edit]").select_option("add")
    desk("[data-option=tags] input").fill("outdoors")
    expect(lambda: desk(".ls-panel .ls-primary:visible").inner_text() == "Change 20 captions")
    assert desk(".ls-examples ins").first.inner_text() == "outdoors"
    assert desk.caption(0) == "zorb, red hair, hat"
    desk.studio.button("Change 20 captions").click()
    expect(lambda: desk.caption(57) == "zorb, red hair, hat, outdoors")
    assert desk.caption(1) == "zorb, red hair"
    desk("button[aria-label=History]").click()
    expect(lambda: "add outdoors" in desk("dialog .ls-history").inner_text())
    desk.studio.button("Undo", "dialog").click()
    expect(lambda: desk.caption(57) == "zorb, red hair, hat")
    expect(lambda: "taken back" in desk("dialog .ls-history").inner_text())
    desk.page.keyboard.press("Escape")


def test_several_pictures_get_a_tag_together(desk):
    desk.tile(0).click()
    desk.tile(2).click(modifiers=["Shift"])
    desk("input[aria-label='Add a tag to all of them']").fill("group")
    desk("input[aria-label='Add a tag to all of them']").press("Enter")
    expect(lambda: [desk.caption(index).endswith(", group") for index in range(4)] == [True, True, True, False])
    desk(".ls-chip:visible", has_text="hat").locator(".ls-chip-remove").click()
    expect(lambda: desk.caption(0) == "zorb, red hair, group")


def test_pictures_go_to_the_trash_and_come_back(desk):
    desk.tile(3).click()
    desk.gallery().press("Delete")
    expect(lambda: desk.count() == "59 pictures, 1 chosen")
    assert not (desk.folder / "10_zorb" / "03.png").exists() and desk.caption(3) is None
    assert desk("h3.ls-editor-name").inner_text() == "10_zorb/04.png"
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: desk.count().startswith("60 pictures"))
    assert (desk.folder / "10_zorb" / "03.png").exists() and desk.caption(3) == "zorb, red hair, hat"


def test_suggestions_come_from_the_dataset_and_from_a_list_that_is_dropped_in(desk, tmp_path):
    csv = tmp_path / "booru.csv"
    csv.write_text('red_shoes,0,900,"crimson_shoes"\nred_fox_(zorb),4,50,\n', encoding="utf-8")
    desk.panel("Tags")
    desk("summary", has_text="Lists of tags").click()
    desk(".ls-tag-lists input[type=file]").set_input_files(str(csv))
    expect(lambda: "booru.csv" in desk(".ls-tag-lists").inner_text())
    desk.panel("Caption")
    desk.tile(1).click()
    add = desk(".ls-editor:visible input[aria-label='Add a tag']")
    add.fill("red")
    rows = desk(".ls-complete:visible li > span:first-child")
    expect(lambda: rows.all_inner_texts() == ["red hair", "red shoes", "red fox (zorb)"])
    add.press("ArrowDown")
    add.press("ArrowDown")
    add.press("Enter")
    expect(lambda: desk.chips() == ["zorb", "red hair", "red shoes"])
    expect(lambda: desk.caption(1) == "zorb, red hair, red shoes")


def test_a_picture_goes_to_the_webuis_own_tabs_where_there_are_any(desk, site):
    desk.tile(1).click()
    buttons = [desk.studio.button(f"Edit in {name}") for name in ("img2img", "inpaint")]
    assert [button.count() for button in buttons] == [bool(site.tab)] * 2
    if site.tab:
        buttons[0].click()
        prompt = desk.page.locator("#img2img_prompt textarea")
        expect(lambda: prompt.input_value() == "zorb, red hair")
        desk.page.locator("#tabs > .tab-nav > button", has_text=site.tab).click()


def test_the_folder_goes_to_train_and_comes_back(desk):
    desk.studio.button("Train with this folder").click()
    assert desk.studio.control("train_data_dir").input_value() == str(desk.folder)
    desk.studio.button("Edit captions").click()
    assert desk.tile(0).is_visible()


def test_what_other_programs_do_to_the_folder_is_seen(desk):
    place = desk.folder / "10_zorb"
    shutil.copy(place / "00.png", place / "99.png")
    (place / "99.txt").write_text("zorb, new", encoding="utf-8")
    expect(lambda: desk.count().startswith("61 pictures"))
    desk.filter('"new"')
    expect(lambda: desk.count().startswith("1 of 61"))


def test_the_open_folder_is_opened_again_after_a_reload(desk):
    desk.studio.load()
    desk.tile(0).wait_for()
    assert json.loads(desk.page.evaluate("localStorage['lora-studio:dataset']")) == str(desk.folder)


def test_the_health_report_shows_pictures_and_mends_them(desk):
    (desk.folder / "10_zorb" / "04.txt").write_text("zorb, red hair, red hair", encoding="utf-8")
    desk.studio.button("Look again").click()
    desk.panel("Health")
    desk.studio.button("Check the dataset").click()
    one_picture = desk.page.locator("button", has_text="Show 1 picture")
    finding = desk(".ls-finding", has_text="red hair").filter(has=one_picture).first
    finding.wait_for()
    assert desk(".ls-buckets svg .ls-bar").count() > 0 and desk("svg.ls-bars").count() >= 2
    finding.locator("button", has_text="Show 1 picture").click()
    expect(lambda: desk.count() == "1 of 60, 1 chosen")
    finding.locator("button").nth(1).click()
    desk("dialog .ls-examples del").wait_for()
    desk("dialog .ls-answers .ls-primary").click()
    expect(lambda: desk.caption(4) == "zorb, red hair")
    desk.panel("Caption")


def test_a_picture_is_cropped_by_hand_and_masked(desk):
    desk.tile(0).click()
    width, height = Image.open(desk.folder / "10_zorb" / "00.png").size
    desk.panel("Pictures")
    desk.studio.button("Crop by hand …").click()
    handle = desk(".ls-crop-handle.ls-se").bounding_box()
    stage = desk(".ls-crop-stage").bounding_box()
    desk.page.mouse.move(handle["x"] + 8, handle["y"] + 8)
    desk.page.mouse.down()
    desk.page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2, steps=3)
    desk.page.mouse.up()
    desk.studio.button("Crop", "dialog").click()
    expect(lambda: desk.count().startswith("61 pictures"))
    cropped = Image.open(desk.folder / "10_zorb" / "00-crop.png").size
    assert abs(cropped[0] - width / 2) <= 2 and abs(cropped[1] - height / 2) <= 2
    desk.studio.button("Paint a mask …").click()
    canvas = desk(".ls-mask-canvas").bounding_box()
    desk.page.mouse.move(canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2)
    desk.page.mouse.down()
    desk.page.mouse.up()
    desk.studio.button("Write the mask", "dialog").click()
    path = desk.folder / "10_zorb" / "masks" / "00.png"
    expect(path.exists)
    mask = Image.open(path)
    assert mask.getpixel((width // 2, height // 2)) == 0 and mask.getpixel((1, 1)) == 255
    desk.panel("Caption")


def test_a_tool_makes_new_pictures_of_those_that_are_chosen(desk):
    desk.tile(0).click()
    desk.tile(1).click(modifiers=["Shift"])
    desk.panel("Pictures")
    desk("select[aria-label=Tool]").select_option("flip")
    desk.studio.button("Flip: 2 pictures").click()
    expect(lambda: desk.count().startswith("62 pictures"))
    assert desk.caption(0) == (desk.folder / "10_zorb" / "00-flip.txt").read_text("utf-8")
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: desk.count().startswith("60 pictures"))
    desk.panel("Caption")


def test_pictures_dropped_onto_the_gallery_are_added(desk, tmp_path):
    file = tmp_path / "dropped.png"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(file)
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    desk(".ls-gallery").evaluate(
        """(gallery, data) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File(["no picture"], "first.png", { type: "image/png" }));
            dataTransfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            gallery.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        data,
    )
    expect(lambda: desk.count().startswith("61 pictures"))
    assert (desk.folder / "dropped.png").read_bytes() == file.read_bytes()
    desk.page.get_by_text("Not added: first.png").wait_for()
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: desk.count().startswith("60 pictures"))


def test_taggers_are_chosen_and_what_they_cannot_do_is_told_at_its_place(desk):
    desk.panel("Tagger")
    desk(".ls-tagger").first.wait_for()
    expect(lambda: desk.studio.button("Tag 60 pictures").is_visible())
    desk.studio.write("exclude", "(")
    desk.studio.button("Tag 60 pictures").click()
    error = desk.studio.field("exclude").locator(".ls-error")
    expect(lambda: "regular expression" in error.inner_text())
    desk.studio.write("exclude", "")
    desk.panel("Caption")


def test_nothing_sticks_out_and_all_can_be_read(desk):
    for name in ("Caption", "Tags", "Edit", "Tagger", "Health", "Pictures"):
        desk.panel(name)
        desk.page.wait_for_timeout(400)
        for look in (UNLABELLED, WIDER_THAN_THEIR_BOX, FAINT):
            assert desk.page.evaluate(look) == [], name
    desk.panel("Caption")


@pytest.fixture
def tiny_tagger(one_page, site) -> Iterator[None]:
    """A tagger of one's own in the page's data folder."""
    pytest.importorskip("onnx")
    python = os.environ["SD_WEBUI_PYTHON"] if site.tab else sys.executable
    if subprocess.run([python, "-c", "import onnxruntime"], capture_output=True).returncode:
        pytest.skip("the page's Python has no onnxruntime, which install.py adds")
    from tiny_taggers import write_tagger

    home = site.lora_dir.parents[1] / "lora_studio" if site.tab else site.lora_dir.parent / "data"
    models = home / "taggers"
    write_tagger(models / "tiny")
    yield
    act_on_all(one_page, "remove")
    shutil.rmtree(models)


@pytest.mark.usefixtures("tiny_tagger")
def test_pictures_are_tagged_and_thresholds_move_afterwards(one_page, folder):
    one_page.page.evaluate("localStorage.removeItem('lora-studio:dataset')")
    one_page.load()  # the taggers are asked for once
    desk = Desk(one_page, folder)
    expect.page = desk.page
    desk.panel("Tagger")
    desk(".ls-tagger", has_text="tiny").wait_for()
    for each in desk(".ls-tagger:has(:checked)").all():
        each.locator("input").uncheck()
    desk(".ls-tagger", has_text="tiny").locator("input").check()
    desk.studio.control("policy").select_option("append")
    desk.filter("hat")
    desk.studio.button("Tag 20 pictures").click()
    tagged = range(0, PICTURES - 1, 3)
    expect(lambda: desk(".ls-task:visible").inner_text().startswith("done"), STARTED_MS)
    new = next(index for index in tagged if desk.caption(index) != "zorb, red hair, hat")
    expect(lambda: re.search(r"20 pictures, [\d.]+ tags each", desk("section.ls-panel .ls-found").inner_text()))
    assert desk.caption(1) == "zorb, red hair"
    own = desk(".ls-threshold").first
    own.locator("input[type=checkbox]").uncheck()
    desk.filter("")
    figures = []
    for value in ("0.95", "0.1"):
        own.locator("input[type=range]").fill(value)
        desk.page.wait_for_timeout(400)
        figures.append(desk("section.ls-panel .ls-found").inner_text())
    assert figures[0] != figures[1]
    button = desk("section.ls-panel button")
    expect(lambda: re.match(r"Write \d+ captions?", button.inner_text()))
    before = {index: desk.caption(index) for index in tagged}
    button.click()
    expect(lambda: {index: desk.caption(index) for index in tagged} != before)
    desk("summary", has_text="taggers and captions differ").click()
    desk(".ls-disagreement, .ls-more .ls-empty").first.wait_for()
    desk.panel("Caption")
    desk.tile(0).click()
    desk("summary", has_text="What the taggers say").click()
    desk(".ls-editor:visible button.ls-chip", has_text="long hair").wait_for()
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: {index: desk.caption(index) for index in tagged} == before)
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: desk.caption(new) == "zorb, red hair, hat")


def test_a_space_that_a_person_types_on_behind_stays_and_a_caption_is_one_line(desk):
    desk.tile(1).click()
    expect(lambda: desk.chips() == ["zorb", "red hair"])
    text = desk(".ls-caption-text")
    text.press("End")
    text.press_sequentially(", sky, ")
    expect(lambda: desk.caption(1) == "zorb, red hair, sky,")
    expect(lambda: desk(".ls-save-state").inner_text() == "saved")
    text.press_sequentially("tree")
    text.press("Enter")
    expect(lambda: desk.caption(1) == "zorb, red hair, sky, tree")
    text.fill("")
    desk.page.wait_for_timeout(1500)
    assert desk.caption(1) == "zorb, red hair, sky, tree" and "deletes" in desk(".ls-save-state").inner_text()
    text.press(f"{COMMAND}+s")
    expect(lambda: desk.caption(1) is None)
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: desk.caption(1) == "zorb, red hair, sky, tree")


def test_another_pages_edit_outlives_that_a_chip_is_being_written(desk):
    desk.tile(1).click()
    expect(lambda: desk.chips() == ["zorb", "red hair"])
    desk(".ls-editor:visible .ls-chip", has_text="red hair").dblclick()
    (desk.folder / "10_zorb" / "01.txt").write_text("sky, zorb, red hair", encoding="utf-8")
    expect(lambda: desk(".ls-caption-text").input_value() == "sky, zorb, red hair")
    desk(".ls-chip-input").fill("green hair")
    desk(".ls-chip-input").press("Enter")
    expect(lambda: desk.caption(1) == "sky, zorb, green hair")
    assert desk.chips() == ["sky", "zorb", "green hair"]


def test_keys_in_a_chip_that_is_being_written_are_its_own(desk):
    desk.tile(0).click()
    expect(lambda: desk.chips() == ["zorb", "red hair", "hat"])
    desk(".ls-editor:visible .ls-chip", has_text="hat").dblclick()
    for key in ("Control+Backspace", "Control+ArrowLeft", "Control+Delete"):
        desk.page.keyboard.press(key)
    assert desk(".ls-chip-input").evaluate("input => input === document.activeElement")
    assert desk(".ls-caption-text").input_value() == "zorb, red hair, hat"
    desk.page.keyboard.type("cap")
    desk.page.keyboard.press(f"{COMMAND}+s")
    expect(lambda: desk.caption(0) == "zorb, red hair, cap")


def test_a_refused_caption_stays_a_draft_and_is_no_conflict(desk):
    desk.tile(1).click()
    desk.save_by_itself(False)
    expect(lambda: desk.chips() == ["zorb", "red hair"])
    text = desk(".ls-caption-text")
    text.evaluate("""area => {
        area.value = "zorb, half \\ud83d";
        area.dispatchEvent(new Event("input", { bubbles: true }));
    }""")
    text.press(f"{COMMAND}+s")
    desk.page.get_by_text("Not saved: ").wait_for()
    assert desk(".ls-save-state").inner_text() == "not saved yet" and not desk(".ls-conflict").is_visible()
    assert desk.caption(1) == "zorb, red hair"
    desk.studio.button("Revert").click()
    expect(lambda: desk.chips() == ["zorb", "red hair"])


def test_a_tag_with_a_wildcard_in_its_name_is_removed_alone(desk):
    (desk.folder / "10_zorb" / "01.txt").write_text("zorb, v, ?", encoding="utf-8")
    desk.studio.button("Look again").click()
    desk.panel("Tags")
    desk("input[aria-label='Find a tag']").fill("?")
    row = desk('.ls-tag-row[data-tag="?"]:visible')
    expect(lambda: row.count() and desk(".ls-tag-row:visible").count() == 1)
    row.hover()
    row.locator("[data-act=remove]").click()
    assert "out of 1 caption?" in desk("dialog").inner_text()
    desk.studio.button("Remove", "dialog .ls-answers").click()
    expect(lambda: desk.caption(1) == "zorb, v")
    desk("input[aria-label='Find a tag']").fill("")
    desk.panel("Caption")


def test_what_is_done_to_the_chosen_picture_stays_so_when_another_one_is_chosen(desk):
    desk.tile(1).click()
    desk.panel("Pictures")
    desk("select[aria-label=Tool]").select_option("flip")
    desk(".ls-scope:visible label", has_text="Chosen").click()
    desk.studio.button("Flip: 1 picture").wait_for()
    desk.tile(2).click()
    assert desk.studio.button("Flip: 1 picture").is_visible()
    desk(".ls-scope:visible label", has_text="Shown").click()
    desk.studio.button("Flip: 60 pictures").click()
    desk("dialog").get_by_text("Of 60 pictures?").wait_for()
    desk.page.keyboard.press("Escape")
    desk.panel("Caption")


def test_a_caption_is_given_to_all_that_are_chosen_and_a_picture_gets_another_name(desk):
    desk.tile(1).click()
    desk.tile(3).click(modifiers=["Shift"])
    desk.studio.button("Caption of 03.png for all …").click()
    desk.studio.button("Write", "dialog .ls-answers").click()
    expect(lambda: [desk.caption(index) for index in (1, 2)] == ["zorb, red hair, hat"] * 2)
    desk.tile(1).click()
    desk.studio.button("Rename …").click()
    desk("dialog input").fill("zebra")
    desk.studio.button("Rename", "dialog .ls-answers").click()
    expect(lambda: (desk.folder / "10_zorb" / "zebra.txt").exists() and desk.caption(1) is None)
    desk.studio.button("Tag this picture …").click()
    expect(lambda: desk.studio.button("Tag 1 picture").is_visible())
    desk.panel("Caption")
