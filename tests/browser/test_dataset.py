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
# By how much the document is longer than what the page shows: an empty part into which it could be scrolled.
LONGER_THAN_ITS_CONTENT = """() => {
    const footer = document.querySelector("footer");
    const end = footer ? footer.getBoundingClientRect().bottom : document.body.getBoundingClientRect().bottom;
    return document.documentElement.scrollHeight - Math.max(innerHeight, end + scrollY + 60);
}"""
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
    one_page.page.mouse.up()  # a test that failed may still hold a chip
    try:
        desk = Desk(one_page, folder)
    except Exception:  # the test before has left the page in the middle of something, such as a dialog
        one_page.page.evaluate("localStorage.removeItem('lora-studio:dataset')")
        one_page.load()
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
        self(".ls-opening input").first.fill(str(self.folder))
        self(".ls-opening select").select_option(".txt")
        self(".ls-opening .ls-check").check()
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
    desk.open()
    desk.tile(0).wait_for()  # not where the folder before was scrolled to
    keys = desk.gallery()
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
    start, end = (expect(chips.nth(place).bounding_box) for place in (2, 0))
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
    desk("[data-option=tags] :is(input, textarea)").fill("outdoors")
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


def test_an_edit_of_very_many_shows_how_far_it_is_and_can_be_stopped(desk, tmp_path):
    folder = tmp_path / "many" / "1_zorb"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "0.png")
    for index in range(3000):
        if index:
            os.link(folder / "0.png", folder / f"{index}.png")
        (folder / f"{index}.txt").write_text("zorb, hat", encoding="utf-8")
    many = Desk(desk.studio, folder.parent)
    many.panel("Edit")
    many("select[aria-label=Edit]").select_option("add")
    many("[data-option=tags] :is(input, textarea)").fill("outdoors")
    many.studio.button("Change 3,000 captions").click()
    bar = many(".ls-work > .ls-task")
    words = expect(lambda: re.search(r"of 3,000, [\d,]+ a second", bar.inner_text()) and bar.inner_text(), every_ms=20)
    assert words.startswith("add outdoors")
    bar.locator("button", has_text="Stop").click()
    expect(lambda: not bar.is_visible())
    done = sum("outdoors" in path.read_text("utf-8") for path in folder.glob("*.txt"))
    assert 0 < done < 3000
    many.gallery().press(f"{COMMAND}+z")
    expect(lambda: not any("outdoors" in path.read_text("utf-8") for path in folder.glob("*.txt")))
    many.panel("Caption")


def test_captions_come_from_a_metadata_file_and_go_into_one(desk, tmp_path):
    file = tmp_path / "meta_cap.json"
    file.write_text(json.dumps({f"/elsewhere/{name}.png": {"tags": "zorb, sky"} for name in ("00", "01", "99")}))
    desk.panel("Edit")
    desk("summary", has_text="Metadata files").click()
    desk(".ls-metadata input[type=file]").set_input_files(str(file))
    expect(lambda: desk(".ls-metadata .ls-primary").inner_text() == "Nothing to write")  # they have captions
    assert "/elsewhere/99.png" in desk(".ls-metadata").inner_text()
    desk.studio.control("policy").select_option("overwrite")
    desk.studio.button("Write 2 captions").click()
    expect(lambda: [desk.caption(index) for index in (0, 1)] == ["zorb, sky"] * 2)
    desk.studio.control("keys").select_option("stem")
    with desk.page.expect_download() as download:
        desk.studio.button("Save as json").click()
    assert download.value.suggested_filename == "meta_cap.json"
    entries = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert len(entries) == PICTURES - 1 and entries["00"] == {"tags": "zorb, sky"}
    desk.gallery().press(f"{COMMAND}+z")
    expect(lambda: desk.caption(0) == "zorb, red hair, hat")
    desk.panel("Caption")


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


def test_the_trash_is_emptied_and_the_history_forgotten_after_a_question(desk):
    desk.tile(1).click()
    desk(".ls-caption-text").fill("zorb, written")
    desk.tile(3).click()
    desk.gallery().press("Delete")
    expect(lambda: desk.count().startswith("59 pictures"))
    trash = desk.folder / ".lora_studio" / "trash"
    assert len([path for path in trash.rglob("*") if path.is_file()]) == 2
    desk("button[aria-label=History]").click()
    desk.studio.button("Empty the trash …").click()
    assert "2 files in the trash" in desk("dialog").last.inner_text()
    desk.studio.button("Cancel", "dialog .ls-answers").click()
    assert trash.exists()
    desk.studio.button("Empty the trash …").click()
    desk.studio.button("Delete for good").click()
    expect(lambda: not trash.exists())
    assert "delete" in desk("dialog .ls-history").inner_text()
    desk.studio.button("Forget the history …").click()
    assert "2 entries of the history" in desk("dialog").last.inner_text()
    desk.studio.button("Forget").click()
    expect(lambda: "Nothing has been changed here yet" in desk("dialog .ls-history").inner_text())
    desk.page.keyboard.press("Escape")
    assert desk("button[aria-label=Undo]").is_disabled()
    desk.gallery().press(f"{COMMAND}+z")
    assert desk.caption(1) == "zorb, written"


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


def test_a_person_s_own_groups_are_kinds_of_tags_and_suggested(desk):
    desk.panel("Tags")
    desk("summary", has_text="Groups of tags of your own").click()
    lines = desk("textarea[aria-label='Groups of tags']")
    lines.fill("outfit hat")
    desk.studio.button("Save the groups").click()
    expect(lambda: "line 1" in desk(".ls-tag-groups .ls-error").inner_text())
    lines.fill("outfit: hat, purple boots")
    desk.studio.button("Save the groups").click()
    kinds = desk("select[aria-label='Kind of the tags']")
    expect(lambda: kinds.locator("option").all_inner_texts() == ["all kinds", "looks", "outfit"])
    kinds.select_option("outfit")
    expect(lambda: desk(".ls-tag-row:visible").count() == 1)
    assert desk('.ls-tag-row[data-tag="hat"]:visible').get_attribute("data-category") == "outfit"
    kinds.select_option("")
    desk.panel("Caption")
    desk.tile(0).click()
    expect(lambda: desk(".ls-editor:visible .ls-kind[data-category=outfit]").count() == 1)
    add = desk(".ls-editor:visible input[aria-label='Add a tag']")
    add.fill("boots")
    expect(lambda: desk(".ls-complete:visible li > span:first-child").all_inner_texts() == ["purple boots"])
    add.fill("")
    desk.panel("Tags")
    lines.fill("")
    desk.studio.button("Save the groups").click()
    expect(lambda: kinds.locator("option").all_inner_texts() == ["all kinds", "looks"])
    desk.panel("Caption")


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
    place = {"folder": str(desk.folder), "caption_extension": ".txt", "recursive": True}
    assert json.loads(desk.page.evaluate("localStorage['lora-studio:dataset']")) == place


def test_a_folder_is_opened_without_subfolders_and_with_other_caption_files(desk):
    shutil.copy(desk.folder / "10_zorb" / "00.png", desk.folder / "flat.png")
    (desk.folder / "flat.txt").write_text("zorb", encoding="utf-8")
    (desk.folder / "flat.caption").write_text("A tall girl.", encoding="utf-8")
    desk.studio.button("Another folder …").click()
    desk(".ls-opening select").select_option(".caption")
    desk(".ls-opening .ls-check").uncheck()
    desk.studio.button("Open", ".ls-opening").click()
    expect(lambda: desk.count().startswith("1 picture"))
    assert "captions in .caption, without subfolders" in desk(".ls-work-bar .ls-path").inner_text()
    expect(lambda: desk(".ls-caption-text").input_value() == "A tall girl.")
    desk(".ls-caption-text").fill("A small girl.")
    expect(lambda: (desk.folder / "flat.caption").read_text("utf-8") == "A small girl.")
    assert (desk.folder / "flat.txt").read_text("utf-8") == "zorb"
    desk.studio.load()
    expect(lambda: desk(".ls-caption-text").input_value() == "A small girl.")
    desk.studio.button("Train with this folder").click()
    expect(lambda: desk.studio.field("caption_extension").locator("select").input_value() == ".caption")
    desk.studio.tab("Dataset")
    desk.studio.button("Another folder …").click()
    desk(".ls-recent-folder").first.click()
    expect(lambda: desk(".ls-caption-text").input_value() == "A small girl.")


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
    Image.new("RGB", (1000, 170), (9, 9, 9)).save(desk.folder / "10_zorb" / "wide.png")  # its fix has a long name
    desk.studio.button("Look again").click()
    for name in ("Caption", "Tags", "Edit", "Tagger", "Health", "Pictures"):
        desk.panel(name)
        desk.page.wait_for_timeout(400)
        if name == "Edit":
            desk("summary", has_text="Metadata files").click()
            desk("[data-option=keys]:visible").wait_for()
        if name == "Health":
            desk.studio.button("Check the dataset").click()
            desk(".ls-finding button", has_text="bucket's shape").wait_for()
        for look in (UNLABELLED, WIDER_THAN_THEIR_BOX, FAINT):
            assert desk.page.evaluate(look) == [], name
        if desk.studio.site.tab is None:  # below our tab the WebUI has room of its own
            assert desk.page.evaluate(LONGER_THAN_ITS_CONTENT) <= 0, name
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
    expect(lambda: desk("h3.ls-editor-name").inner_text() == "10_zorb/zebra.png")
    expect(lambda: desk(".ls-editor-picture img").get_attribute("alt") == "10_zorb/zebra.png")
    desk.filter("name:0*")
    expect(lambda: desk.count().startswith("9 of 60"))
    assert desk.tile(2).count() == 1 and desk.tile(2).is_visible()
    assert desk.tile(1).count() == 0
    desk.filter("")
    desk.studio.button("Tag this picture …").click()
    expect(lambda: desk.studio.button("Tag 1 picture").is_visible())
    desk.panel("Caption")


def test_what_was_undone_is_redone_though_an_older_answer_comes_late(desk):
    desk.tile(1).click()
    expect(lambda: desk.chips() == ["zorb", "red hair"])
    desk(".ls-caption-text").fill("zorb, new")
    expect(lambda: desk.caption(1) == "zorb, new" and desk(".ls-save-state").inner_text() == "saved")
    held, status = [], re.compile(r"/lora-studio/dataset/[0-9a-f]+$")
    answers = []

    def hold(route):
        """The answer of before the undo comes after it."""
        if not held:
            answers.append(route.fetch())
            held.append(route)
        else:
            route.continue_()

    desk.page.route(status, hold)
    try:
        expect(lambda: answers)
        keys = desk.gallery()
        keys.press(f"{COMMAND}+z")
        expect(lambda: desk.caption(1) == "zorb, red hair")
        expect(lambda: desk(".ls-caption-text").input_value() == "zorb, red hair")
        held[0].fulfill(response=answers[0])
        desk.page.wait_for_timeout(150)
        assert desk(".ls-caption-text").input_value() == "zorb, red hair"
        keys.press(f"{COMMAND}+y")
        expect(lambda: desk.caption(1) == "zorb, new", 1200)
    finally:
        desk.page.unroute(status)


def test_chips_that_are_removed_while_the_caption_is_taken_apart_go_and_are_undone_first(desk):
    desk.tile(1).click()
    sentence = "A tall girl in a red coat stands under a tree, holding the hat of her old aunt."
    desk(".ls-caption-text").fill(f"zorb, {sentence} indoors, sky")
    expect(lambda: desk.chips() == ["zorb", sentence, "indoors", "sky"])
    expect(lambda: desk(".ls-save-state").inner_text() == "saved")
    desk.page.evaluate(
        """() => {
            const close = (tag) => [...document.querySelectorAll(".ls-editor .ls-chip")]
                .find((each) => each.querySelector(".ls-chip-tag").textContent === tag)
                .querySelector(".ls-chip-remove").click();
            close("sky");
            close("indoors");
        }"""
    )
    expect(lambda: desk.chips() == ["zorb", sentence])
    expect(lambda: desk.caption(1) == f"zorb, {sentence}")
    keys = desk.gallery()
    keys.press(f"{COMMAND}+z")
    expect(lambda: desk.caption(1) == f"zorb, {sentence} indoors, sky")
    keys.press(f"{COMMAND}+y")
    expect(lambda: desk.caption(1) == f"zorb, {sentence}")
