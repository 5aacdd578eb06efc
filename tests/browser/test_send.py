"""From the real WebUI's results into a dataset, and back into img2img and inpaint, in headless Chromium."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.webui]

STARTED_MS, SOON_MS = 90_000, 30_000


@pytest.fixture(scope="module")
def page(browser, webui_server) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(SOON_MS)
    page.goto(webui_server.url)
    page.wait_for_selector("#txt2img_prompt textarea", timeout=STARTED_MS)
    yield page
    context.close()


def generate(page: Any, tab: str, prompt: str) -> None:
    page.locator(f"#{tab}_prompt textarea").fill(prompt)
    page.locator(f"#{tab}_steps input[type=number]").fill("1")
    for side in ("width", "height"):
        page.locator(f"#{tab}_{side} input[type=number]").fill("64")
    page.locator(f"#{tab}_generate").click()
    page.locator(f"#{tab}_gallery img").first.wait_for(timeout=STARTED_MS)


def send(page: Any, tab: str, folder: Path, caption: str | None = None) -> None:
    """Press the button below a tab's results and fill in what it asks."""
    page.locator(f"#image_buttons_{tab} .lora-studio-send").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_label("Folder").fill(str(folder))
    if caption is not None:
        dialog.get_by_label("Caption", exact=True).fill(caption)
    press_send(page)


def press_send(page: Any) -> None:
    with page.expect_response("**/lora-studio/pictures") as answer:
        page.locator("dialog[open]").get_by_role("button", name="Send", exact=True).click()
    assert answer.value.ok
    page.get_by_text("1 picture added to").last.wait_for()


def test_a_result_becomes_a_picture_of_the_dataset_with_its_prompt(page, tmp_path):
    page.locator("#tabs > .tab-nav > button", has_text="txt2img").click()
    generate(page, "txt2img", "zorb, (red:1.2) <lora:nowhere:1>")
    send(page, "txt2img", tmp_path)
    (picture,) = tmp_path.glob("*.png")
    assert picture.with_suffix(".txt").read_text("utf-8") == "zorb, red\n"
    with Image.open(picture) as image:
        assert image.size == (64, 64) and "Steps: 1" in image.info["parameters"]

    send(page, "txt2img", tmp_path, "mine")
    (second,) = set(tmp_path.glob("*.png")) - {picture}
    assert second.with_suffix(".txt").read_text("utf-8") == "mine\n"


def test_a_folder_that_is_not_there_is_said(page, tmp_path):
    page.locator("#tabs > .tab-nav > button", has_text="txt2img").click()
    generate(page, "txt2img", "zorb")
    page.locator("#image_buttons_txt2img .lora-studio-send").click()
    page.locator("dialog[open]").get_by_label("Folder").fill(str(tmp_path / "nowhere"))
    page.locator("dialog[open]").get_by_role("button", name="Send", exact=True).click()
    page.get_by_text("no such folder").wait_for()


@pytest.mark.parametrize("mode", ["img2img", "inpaint"])
def test_a_picture_of_the_dataset_is_edited_and_comes_back(page, tmp_path, mode):
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    picture = {"url": url, "name": "sea.png", "folder": str(tmp_path), "caption": "zorb, sea"}
    module = "new URL('lora-studio/static/webui.js', document.baseURI).href"
    for _ in range(2):  # the second finds a picture there
        edit = f"([mode, picture]) => import({module}).then((it) => it.editPicture(mode, picture))"
        page.evaluate(edit, [mode, picture])
        component = {"img2img": "#img2img_image", "inpaint": "#img2maskimg"}[mode]
        # The inpaint canvas is drawn from an image that is itself not shown.
        page.locator(f"{component} img[src^='data:image']").first.wait_for(state="attached")
    assert page.locator("#img2img_prompt textarea").input_value() == "zorb, sea"
    if mode == "img2img":
        generate(page, "img2img", "zorb, wide sea")
        page.locator("#image_buttons_img2img .lora-studio-send").click()
        dialog = page.locator("dialog[open]")
        assert dialog.get_by_label("Folder").input_value() == str(tmp_path)
        assert dialog.get_by_label("Caption", exact=True).input_value() == "zorb, sea"
        press_send(page)
        (made,) = tmp_path.glob("*.png")
        assert made.with_suffix(".txt").read_text("utf-8") == "zorb, sea\n"
        page.locator("#image_buttons_img2img .lora-studio-send").click()  # what was sent back is nobody's now
        assert dialog.get_by_label("Caption", exact=True).input_value() == ""
        page.keyboard.press("Escape")
