"""The standalone page: train a LoRA, look at the run, make pictures with it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.files.toml_file import read_toml
from lib_lora.training.config import TrainConfig
from lib_lora.ui import compat_gradio, show, work
from lib_lora.ui.compat_gradio import gr
from lib_lora.ui.forms import Look, build_form
from lib_lora.ui.monitor import RunMonitor, RunState

TRAINING, SAMPLING = "training", "sampling"
READ_EVERY_S, DRAW_EVERY_S = 0.5, 2.0
SHOWN_PICTURES = 24
Updates = dict[Any, Any]


class RunPanel:
    """Buttons, state and results of one kind of work. ``follow`` is the page's only way to what happens."""

    def __init__(self, monitor: RunMonitor, name: str, start: str, *, with_plan: bool) -> None:
        self.monitor, self.name = monitor, name
        with gr.Row():
            self.plan_button = gr.Button("Plan", min_width=80) if with_plan else None
            self.start_button = gr.Button(start, variant="primary", min_width=80)
            self.stop_button = gr.Button("Stop", variant="stop", min_width=80, interactive=False)
        self.message = gr.HTML("")
        self.status = gr.HTML(show.status_html(RunState()))
        self.loss = gr.HTML("")
        self.pictures = gr.Gallery(label="pictures", columns=3, height="auto", object_fit="contain", visible=False)
        self.files = gr.HTML("")
        self.plan = gr.HTML("")
        self.stop_button.click(self._stop, outputs=[self.stop_button], queue=False)

    @property
    def outputs(self) -> list[Any]:
        return [
            self.start_button, self.stop_button, self.message, self.status, self.loss, self.pictures, self.files, self.plan
        ]

    def follow(self) -> Iterator[Updates]:
        """The page as it stands, then what changed, twice a second, until the work ends."""
        shown: dict[Any, Any] = {}
        drawn_at = 0.0
        while True:
            state = self.monitor.read(self.name)
            draw = not state.running or time.monotonic() - drawn_at >= DRAW_EVERY_S
            drawn_at = time.monotonic() if draw else drawn_at
            yield self._changes(state, shown, draw)
            if not state.running:
                return
            time.sleep(READ_EVERY_S)

    def _changes(self, state: RunState, shown: dict[Any, Any], draw: bool) -> Updates:
        parts: dict[Any, tuple[Any, Callable[[], Any]]] = {
            self.start_button: (state.running, lambda: gr.update(interactive=not state.running)),
            self.stop_button: (
                state.running and not state.stopping,
                lambda: gr.update(interactive=state.running and not state.stopping),
            ),
            self.message: (state.error, lambda: show.error_html(state.error)),
            self.status: (show.status_html(state), lambda: show.status_html(state)),
            self.pictures: (len(state.pictures), lambda: _gallery(state)),
            self.files: (len(state.written), lambda: show.files_html(state.written)),
            self.plan: (len(state.notes), lambda: show.plan_html("\n\n".join(state.notes))),
        }
        if draw:
            parts[self.loss] = (len(state.losses), lambda: show.loss_html(state.losses))
        changed = {part: make() for part, (key, make) in parts.items() if shown.get(part, parts) != key}
        shown.update({part: key for part, (key, _) in parts.items()})
        return changed

    def start(self, make_work: Callable[[], Any]) -> Iterator[Updates]:
        """Start what ``make_work`` gives and follow it; a mistake in the form is shown instead."""
        try:
            self.monitor.start(self.name, make_work())
        except StudioError as error:
            yield {self.message: show.error_html(str(error))}
            return
        yield from self.follow()

    def _stop(self) -> Any:
        if self.monitor.read(self.name).running:
            self.monitor.stop()
        return gr.update(interactive=False)


def _gallery(state: RunState) -> Any:
    pictures = []
    for path, caption in state.pictures[-SHOWN_PICTURES:]:
        try:
            with Image.open(path) as file:
                pictures.append((file.convert("RGB"), caption))
        except OSError:  # deleted or moved since
            continue
    return gr.update(value=pictures, visible=bool(pictures))


def build_app(monitor: RunMonitor, sample_config: type, free_path: Callable[[Path, int], Path]) -> gr.Blocks:
    """The page.

    Args:
        sample_config, free_path: the options of ``sample`` and how it names its pictures.
    """
    model = Look(
        value=next(iter(work.checkpoints()), None), choices=work.checkpoints(), placeholder="path of a .safetensors file"
    )
    with compat_gradio.make_blocks("LoRA Studio", show.CSS) as blocks:
        gr.HTML('<div id="studio-title"><h1>LoRA Studio</h1></div>')
        with gr.Tab("Train"):
            train_panel = _train_tab(blocks, monitor, model)
        with gr.Tab("Sample") as tab:
            _sample_tab(blocks, tab, monitor, model, sample_config, free_path)
    assert train_panel is not None
    return blocks
