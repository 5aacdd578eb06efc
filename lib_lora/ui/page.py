"""The page: one mount that ``javascript/`` fills. Forms, charts and the queue are the same under every gradio."""

from __future__ import annotations

from pathlib import Path

from lib_lora.ui import compat_gradio
from lib_lora.ui.compat_gradio import gr

TITLE = "LoRA Studio"
LOADER = Path(__file__).resolve().parents[2] / "javascript" / "lora_studio.js"


def make_page() -> gr.Blocks:
    """The tab's content, for a host that loads ``javascript/lora_studio.js`` and ``style.css`` by itself."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        _mount()
    return blocks


def make_app() -> gr.Blocks:
    """The same as a page of its own, which loads the script too. ``compat_gradio.launch`` serves it."""
    with compat_gradio.make_blocks(TITLE) as blocks:
        _mount()
        compat_gradio.run_on_load(blocks, f"() => {{\n{LOADER.read_text(encoding='utf-8')}\n}}")
    return blocks


def _mount() -> None:
    gr.HTML('<div id="lora-studio"></div>', elem_id="lora-studio-block")
