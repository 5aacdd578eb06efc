"""The standalone page: train a LoRA, look at the run, make pictures with it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.files.toml_file import read_toml
from lib_lora.hosts.standalone.sampling import SampleConfig, sample
from lib_lora.training.config import TrainConfig
from lib_lora.ui import compat_gradio, show, work
from lib_lora.ui.compat_gradio import gr
from lib_lora.ui.forms import Form, Look, build_form
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
        self.message = gr.HTML("", visible=False)
        self.status = gr.HTML(show.status_html(RunState()))
        self.loss = gr.HTML("", visible=False)
        self.pictures = gr.Gallery(label="pictures", columns=2, height=360, object_fit="contain", visible=False)
        self.files = gr.HTML("", visible=False)
        self.plan = gr.HTML("", visible=False)
        self.stop_button.click(self._stop, outputs=[self.stop_button], queue=False)

    @property
    def outputs(self) -> list[Any]:
        return [
            self.start_button,
            self.stop_button,
            self.message,
            self.status,
            self.loss,
            self.pictures,
            self.files,
            self.plan,
        ]

    def follow(self) -> Iterator[Updates]:
        """The page as it stands, then what changed, twice a second, until the work ends."""
        shown: dict[Any, Any] = {}
        drawn_at = 0.0
        while True:
            state = self.monitor.read(self.name)
            draw = not state.running or time.monotonic() - drawn_at >= DRAW_EVERY_S
            drawn_at = time.monotonic() if draw else drawn_at
            changes = self._changes(state, shown, draw)
            if changes:  # gradio refuses an empty one
                yield changes
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
            self.message: (state.error, lambda: _html(show.error_html(state.error))),
            self.status: (show.status_html(state), lambda: show.status_html(state)),
            self.pictures: (len(state.pictures), lambda: _gallery(state)),
            self.files: (len(state.written), lambda: _html(show.files_html(state.written))),
            self.plan: (len(state.notes), lambda: _html(show.plan_html("\n\n".join(state.notes)))),
        }
        if draw:
            parts[self.loss] = (len(state.losses), lambda: _html(show.loss_html(state.losses)))
        changed = {part: make() for part, (key, make) in parts.items() if shown.get(part, parts) != key}
        shown.update({part: key for part, (key, _) in parts.items()})
        return changed

    def start(self, make_work: Callable[[], Any]) -> Iterator[Updates]:
        """Start what ``make_work`` gives and follow it; a mistake in the form is shown instead."""
        try:
            self.monitor.start(self.name, make_work())
        except StudioError as error:
            yield self.complain(error)
            return
        yield from self.follow()

    def complain(self, error: StudioError) -> Updates:
        return {self.message: _html(show.error_html(str(error)))}

    def _stop(self) -> Any:
        if self.monitor.read(self.name).running:
            self.monitor.stop()
        return gr.update(interactive=False)


def _html(text: str) -> Any:
    """An empty piece takes no room on the page."""
    return gr.update(value=text, visible=bool(text))


def _gallery(state: RunState) -> Any:
    """The newest pictures, newest first."""
    pictures = []
    for path, caption in state.pictures[: -SHOWN_PICTURES - 1 : -1]:
        try:
            with Image.open(path) as file:
                pictures.append((file.convert("RGB"), caption))
        except OSError:  # deleted or moved since
            continue
    return gr.update(value=pictures, visible=bool(pictures))


def build_app(monitor: RunMonitor) -> gr.Blocks:
    """The page."""
    found = work.checkpoints()
    model = Look(value=found[0] if found else None, choices=found, placeholder="path of a .safetensors file")
    with compat_gradio.make_blocks("LoRA Studio", show.CSS) as blocks:
        gr.HTML('<div id="studio-title"><h1>LoRA Studio</h1></div>')
        with gr.Tab("Train"):
            _train_tab(blocks, monitor, model)
        with gr.Tab("Sample") as tab:
            _sample_tab(blocks, tab, monitor, model)
    return blocks


def _train_tab(blocks: gr.Blocks, monitor: RunMonitor, model: Look) -> None:
    looks = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": Look(placeholder="demo/dataset"),
        "output_name": Look(placeholder="my-lora"),
        "network_type": Look(late_choices=work.network_types),
        "optimizer_type": Look(late_choices=work.optimizers),
        "lr_scheduler": Look(late_choices=work.schedules),
        "sample_sampler": Look(late_choices=work.samplers),
    }
    with gr.Row():
        with gr.Column(scale=3, min_width=480):
            with gr.Row(elem_id="train-file"):
                demo = "demo/demo.toml"
                file = gr.Textbox(
                    demo if Path(demo).is_file() else "", label="config file", scale=4, info="TOML file of options"
                )
                load = gr.Button("Load", min_width=80, scale=1)
            form = build_form(TrainConfig, looks)
        with gr.Column(scale=2, min_width=400, elem_id="train-panel"):
            panel = RunPanel(monitor, TRAINING, "Train", with_plan=True)

    def fill(path: str) -> Updates:
        try:
            return {**form.fill(read_toml(Path(path.strip()))), panel.message: _html("")}
        except StudioError as error:
            return panel.complain(error)

    def plan(page: Mapping[Any, Any]) -> Updates:
        try:
            return {panel.plan: _html(show.plan_html(work.plan_text(form.read(page)))), panel.message: _html("")}
        except StudioError as error:
            return panel.complain(error)

    def train(page: Mapping[Any, Any]) -> Iterator[Updates]:
        yield from panel.start(lambda: partial(work.train, form.read(page)))

    load.click(fill, [file], [*form.components.values(), panel.message])
    panel.plan_button.click(plan, form.inputs, [panel.plan, panel.message])
    panel.start_button.click(train, form.inputs, panel.outputs, show_progress="hidden")
    _on_load(blocks, form, panel)


def _sample_tab(blocks: gr.Blocks, tab: gr.Tab, monitor: RunMonitor, model: Look) -> None:
    looks = {
        "pretrained_model_name_or_path": model,
        "prompt": Look(lines=3),
        "negative_prompt": Look(lines=2),
        "sampler": Look(late_choices=work.samplers),
    }
    with gr.Row():
        with gr.Column(scale=3, min_width=480):
            with gr.Row(elem_id="sample-lora"):
                lora = gr.Dropdown([], label="LoRA", info="those in lora_dir", scale=3, allow_custom_value=True)
                strength = gr.Number(1.0, label="strength", info="1 is as it was trained", scale=1, min_width=120)
                add = gr.Button("Add to prompt", scale=1, min_width=150)
            form = build_form(SampleConfig, looks)
        with gr.Column(scale=2, min_width=400, elem_id="sample-panel"):
            panel = RunPanel(monitor, SAMPLING, "Make pictures", with_plan=False)
    prompt, folder = form.components["prompt"], form.components["lora_dir"]

    def names(path: str) -> Any:
        return gr.update(choices=work.loras(path))

    def add_lora(text: str, name: str | None, strength: float | None) -> str:
        return f"{text.strip()} <lora:{name}:{1.0 if strength is None else strength:g}>".strip() if name else text

    def make(page: Mapping[Any, Any]) -> Iterator[Updates]:
        yield from panel.start(lambda: partial(sample, form.read(page)))

    add.click(add_lora, [prompt, lora, strength], [prompt])
    for event in (tab.select, folder.change, blocks.load):
        event(names, [folder], [lora], show_progress="hidden")
    panel.start_button.click(make, form.inputs, panel.outputs, show_progress="hidden")
    _on_load(blocks, form, panel)


def _on_load(blocks: gr.Blocks, form: Form, panel: RunPanel) -> None:
    """A page that opens shows what runs, and gets the names that cost an import of torch."""
    late = [form.components[name] for name, look in form.looks.items() if look.late_choices]
    blocks.load(panel.follow, None, panel.outputs, show_progress="hidden")
    blocks.load(form.late_choices, None, late, show_progress="hidden")


def launch(*, host: str, port: int, inbrowser: bool) -> int:
    """Serve the page until Ctrl-C; then a run that is going on is stopped and keeps what it has.

    Raises:
        StudioError: the port is taken.
    """
    # A shell that starts a program in the background may leave it deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monitor = RunMonitor()
    blocks = build_app(monitor)
    try:
        compat_gradio.launch(
            blocks, show.CSS, server_name=host, server_port=port, inbrowser=inbrowser and _has_screen(), share=False
        )
    except OSError as error:
        raise StudioError(
            f"cannot be opened ({error})", field="port", came=port, allowed="a free port, as --port 7863"
        ) from error
    except KeyboardInterrupt:  # how a person closes the page; later ones end the wait below
        pass
    finally:
        monitor.stop()
        monitor.wait()
    return 0


def _has_screen() -> bool:
    """Without one, Linux may open a text browser in the terminal."""
    return not sys.platform.startswith("linux") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))
