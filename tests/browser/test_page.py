"""The page as a person uses it, in headless Chromium: standalone, and in the real WebUI where there is one."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest

from studio_page import FAINT, STARTED_MS, UNLABELLED, WIDER_THAN_THEIR_BOX, Studio, expect, opened

pytestmark = pytest.mark.browser

ONE_STEP = {"max_train_steps": "1"}
MANY_STEPS = {"max_train_steps": "5000"}


def test_the_plan_is_shown_while_the_form_is_filled_in(studio):
    studio.write("train_data_dir", str(studio.dataset))
    studio(".ls-plan-body").wait_for(timeout=STARTED_MS)
    facts = studio(".ls-plan .ls-facts")
    # First another folder's may stand there.
    expect(lambda: re.search(r"Pictures\s*3\b", facts.inner_text()), STARTED_MS)
    studio.write("max_train_epochs", "3")
    expect(lambda: re.search(r"Epochs\s*3\b", studio(".ls-outcome").inner_text()))
    assert studio(".ls-buckets svg .ls-bar").count() > 0
    assert studio(".ls-rates canvas").get_attribute("aria-label").startswith("Learning rate up to step")


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
    studio(".ls-advanced input[type=search]").fill("arxiv 2303.09556")
    expect(lambda: studio(".ls-advanced .ls-field:visible").count() == 1)
    assert studio.field("min_snr_gamma").is_visible()
    studio(".ls-advanced input[type=search]").fill("no such option")
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
def test_settings_of_another_program_fill_the_form_and_what_is_left_out_is_listed(studio):
    studio.button("From elsewhere …").click()
    studio("dialog textarea").fill("accelerate launch train_network.py --network_dim=48 --flip_aug --odd_one=3")
    studio.button("Take over").click()
    taken = studio("dialog", has_text="Taken over")
    taken.wait_for()
    assert "odd_one there is no such option here" in taken.inner_text()
    studio.button("Close", "dialog").last.click()
    assert studio.control("network_dim").input_value() == "48"
    studio.button("From elsewhere …").click()
    studio("dialog textarea").fill("nothing of this kind")
    studio.button("Take over").click()
    studio(".ls-message.ls-error").wait_for()
    studio(".ls-message.ls-error button").click()
    assert studio.control("network_dim").input_value() == "48"


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
    studio.button("Train again …").click()
    expect(lambda: studio.control("output_name").input_value() == "second-2")
    assert studio.control("train_data_dir").input_value() == str(studio.dataset)


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
