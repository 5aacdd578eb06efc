from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs gradio")

from lib_lora.ui import compat_gradio
from lib_lora.ui.page import LOADER, make_app, make_page

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "javascript").rglob("*.js"))


def test_the_tab_is_one_mount_and_runs_nothing():
    config = make_page().get_config_file()
    (mount,) = [each["props"] for each in config["components"] if each["type"] == "html"]
    assert mount["value"] == '<div id="lora-studio"></div>' and mount["elem_id"] == "lora-studio-block"
    assert config["dependencies"] == []


def test_the_page_of_its_own_loads_the_script_when_it_is_opened():
    (opened,) = make_app().get_config_file()["dependencies"]
    assert LOADER.read_text(encoding="utf-8") in opened["js"]


def test_importing_the_page_loads_neither_torch_nor_what_trains():
    code = "import sys, lib_lora.ui.page; print({'torch', 'diffusers', 'lib_lora.training'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_the_page_is_served_with_its_title_and_without_fonts_of_others():
    blocks = make_app()
    _, url, _ = compat_gradio.launch(
        blocks, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False, inbrowser=False
    )
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode("utf-8")
        assert "LoRA Studio" in text
        with urllib.request.urlopen(f"{url}theme.css", timeout=30) as answer:
            assert "@import" not in answer.read().decode("utf-8")
    finally:
        blocks.close(verbose=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_markup_of_texts_and_load_nothing_from_elsewhere(script):
    text = script.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    addresses = set(re.findall(r"https?://[^\s\"'`]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_the_style_sheet_touches_nothing_outside_the_page_and_loads_nothing():
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "url(" not in text and "@import" not in text
    selectors = [part.strip() for part in re.findall(r"([^{}]+)\{", text)]
    ours = ("#lora-studio", ".dark #lora-studio", "@media", "@keyframes ls-", "from", "to")
    assert [each for each in selectors if not each.startswith(ours)] == []
