"""What differs between gradio 3.41 (the WebUI's) and the current release."""

from __future__ import annotations

import inspect
import os
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr


def make_blocks(title: str, css: str) -> gr.Blocks:
    """An empty page. Up to gradio 5 the page holds its look, since 6 ``launch`` does."""
    look = {} if _launch_takes_look() else _look(css)
    return gr.Blocks(title=title, analytics_enabled=False, **look)


def launch(blocks: gr.Blocks, css: str, **options: Any) -> Any:
    """``blocks.launch`` with enough handlers at once: each open page holds one that follows the run."""
    handlers = 32
    if "concurrency_count" in inspect.signature(blocks.queue).parameters:
        blocks.queue(concurrency_count=handlers)
    else:
        blocks.queue(default_concurrency_limit=handlers)
    look = _look(css) if _launch_takes_look() else {}
    return blocks.launch(**look, **options)


def _launch_takes_look() -> bool:
    return "css" in inspect.signature(gr.Blocks.launch).parameters


def _look(css: str) -> dict[str, Any]:
    # The themes' own fonts come from the network.
    theme = gr.themes.Default(
        primary_hue="indigo", font=["system-ui", "Segoe UI", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    # The options' help is what a person reads here; the theme's own grey is too faint for that.
    theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")
    return {"theme": theme, "css": css}
