"""A run's state as small pieces of HTML. Every text that comes from outside is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lib_lora.ui.monitor import AVERAGE_STEPS, RunState

CSS = """
.gradio-container {max-width: 100% !important; overflow: clip !important}
.dark {color-scheme: dark}
#studio-title h1 {font-size: 1.6rem; font-weight: 650; margin: .2rem 0}
.studio-group, .studio-group .html-container {padding: 0 !important; border: 0 !important}
.studio-group h3 {font-size: 1rem; font-weight: 650; margin: 0; padding: .5rem .8rem}
[id^=studio-row] .form {display: grid !important; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr));
  gap: 0; background: var(--block-background-fill)}
[id^=studio-row] .studio-path {grid-column: span 2}
[id^=studio-row] .studio-text {grid-column: 1 / -1}
#train-file button, #sample-lora button {align-self: center; flex-grow: 0}
#train-panel, #sample-panel {position: sticky; top: 8px; align-self: flex-start; max-height: calc(100vh - 16px);
  overflow-y: auto; scrollbar-width: thin; flex-wrap: nowrap}
#train-panel > *, #sample-panel > * {flex-shrink: 0}
.studio-error {border-left: 4px solid #dc2626; background: #dc262620; padding: .6rem .8rem; border-radius: 6px;
  overflow-wrap: anywhere}
.studio-status {font-variant-numeric: tabular-nums}
.studio-bar {height: 8px; border-radius: 4px; background: var(--border-color-primary); margin-bottom: .5rem !important;
  overflow: hidden}
.studio-bar div {height: 100%; background: var(--color-accent)}
.studio-plan {font: .8rem/1.45 ui-monospace, monospace; overflow-x: auto}
.studio-plan div {white-space: pre-wrap; min-height: 1em}
.studio-plan .table {white-space: pre; overflow-wrap: normal}
.studio-files {margin: 0; padding-left: 1.2rem; list-style: disc; font-size: .9rem; overflow-wrap: anywhere}
.studio-loss {width: 100%; border-radius: 6px; display: block}
"""


def error_html(message: str) -> str:
    return f'<div class="studio-error" role="alert">{escape(message)}</div>' if message else ""


def status_html(state: RunState) -> str:
    """One line and a bar: what is being done, how far it is, how long it will take."""
    text, share = _status(state)
    bar = "" if share is None else f'<div class="studio-bar"><div style="width:{100 * share:.1f}%"></div></div>'
    return f'<div class="studio-status">{bar}{escape(text)}</div>'


def _status(state: RunState) -> tuple[str, float | None]:
    if not state.running:
        return _ended(state), None
    if state.step is not None:
        step = state.step
        text = (
            f"step {step.step} of {state.total_steps} · epoch {step.epoch} · loss {state.loss:.4f} "
            f"(mean of {min(AVERAGE_STEPS, len(state.losses))}) · {state.seconds_per_step:.2f} s/it · "
            f"{duration(state.seconds_left)} left"
        )
        share = step.step / max(1, state.total_steps)
    elif state.progress is not None and state.progress.total > 1:
        progress = state.progress
        text, share = f"{progress.what}: {progress.done} of {progress.total}", progress.done / progress.total
    else:
        text, share = f"{state.progress.what if state.progress else 'starting'} …", 0.0
    return (f"stopping after this step · {text}" if state.stopping else text), share


def _ended(state: RunState) -> str:
    if state.error:
        return "Failed."
    after = f" after {state.step.step} steps · loss {state.loss:.4f}" if state.step else ""
    if state.stopped:
        return f"Stopped{after}."
    return f"Done{after}." if state.written else "Nothing is running."


def duration(seconds: float) -> str:
    """3725 -> "1:02:05", 65 -> "1:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def plan_html(text: str) -> str:
    """Sentences are wrapped; lines of tables, which have gaps, are not."""
    lines = [f"<div{' class=table' if '  ' in line.strip() else ''}>{escape(line)}</div>" for line in text.splitlines()]
    return f'<div class="studio-plan">{"".join(lines)}</div>' if text else ""


def files_html(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    items = "".join(f"<li>{escape(str(path))}</li>" for path in paths)
    return f'<b>Files written</b><ul class="studio-files">{items}</ul>'


def loss_html(losses: Sequence[float]) -> str:
    """The loss so far. Within the page, so that no file is left for every look at it."""
    if not losses:
        return ""
    from lib_lora.training.log import loss_picture

    file = io.BytesIO()
    loss_picture(losses, (640, 300)).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img class="studio-loss" alt="loss of every step" src="data:image/png;base64,{data}">'
