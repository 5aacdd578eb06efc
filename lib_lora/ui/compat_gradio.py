"""What differs between gradio 3.41 (the WebUI's), 4 (Forge's) and the current release."""

from __future__ import annotations

import inspect
import os
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr


def make_blocks(title: str) -> gr.Blocks:
    """An empty page of its own. Up to gradio 5 the page holds its theme, since 6 ``launch`` does."""
    return gr.Blocks(title=title, analytics_enabled=False, **({} if _launch_takes("theme") else _look()))


def run_on_load(blocks: gr.Blocks, script: str) -> None:
    """Run ``script``, a JavaScript function, in the browser when the page is there. Call inside ``with blocks``."""
    name = "_js" if "_js" in inspect.signature(gr.Blocks.load).parameters else "js"
    blocks.load(None, None, None, **{name: script})


def launch(blocks: gr.Blocks, **options: Any) -> Any:
    """``blocks.launch`` with our theme; ``options`` are gradio's own."""
    # Since gradio 5 a Node server may make the page; ours is made in the browser.
    own = {"ssr_mode": False} if _launch_takes("ssr_mode") else {}
    return blocks.launch(**(_look() if _launch_takes("theme") else {}), **own, **options)


def _launch_takes(option: str) -> bool:
    return option in inspect.signature(gr.Blocks.launch).parameters


def _look() -> dict[str, Any]:
    # The themes' own fonts come from the network. The page takes the window's whole width.
    fonts = {"font": ["system-ui", "Segoe UI", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "theme": gr.themes.Default(primary_hue="orange", **fonts),
        "css": ".gradio-container { max-width: none !important; }",
    }
