"""The section "LoRA Studio" of the WebUI's settings page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECTION = ("lora_studio", "LoRA Studio")
DATASET_DIRS = "lora_studio_dataset_dirs"
NAMES = "lora_studio_names"
PAUSE_ON_GENERATE = "lora_studio_pause_on_generate"


@dataclass(frozen=True)
class Settings:
    """What is set.

    Attributes:
        dataset_dirs: where pictures and captions may be read and changed; () says nothing.
        names: names by which people reach the page, beside this machine's own.
        pause_on_generate: what a job does, unless it says otherwise, when somebody presses Generate.
    """

    dataset_dirs: tuple[Path, ...]
    names: tuple[str, ...]
    pause_on_generate: bool


def add_settings() -> None:
    """For the WebUI's callback ``on_ui_settings``."""
    from modules import shared

    # Who may not install extensions may open no folders either: the WebUI refuses to set what is not shown.
    lines = {"lines": 3, "visible": not shared.cmd_opts.disable_extension_access}
    for name, default, look, label, hint in (
        (
            DATASET_DIRS,
            "",
            lines,
            "Folders in which datasets may lie when other computers can reach the WebUI, one a line",
            "pictures and captions are read and changed there; none: the data folder's datasets, and the demo's",
        ),
        (
            NAMES,
            "",
            lines,
            "Names by which people reach this page, one a line",
            "where a proxy stands before the WebUI; this machine's own are known",
        ),
        (
            PAUSE_ON_GENERATE,
            True,
            {},
            "Training pauses by itself when somebody presses Generate, and goes on afterwards",
            "on the loaded checkpoint; each training can choose otherwise",
        ),
    ):
        entry = shared.OptionInfo(default, label, component_args=look, section=SECTION, category_id="training")
        shared.opts.add_option(name, entry.info(hint))


def read_settings() -> Settings:
    """What is set now."""
    return Settings(
        tuple(map(Path, _lines(DATASET_DIRS))),
        tuple(name.lower() for name in _lines(NAMES)),
        _value(PAUSE_ON_GENERATE) is not False,
    )


def _lines(name: str) -> list[str]:
    return [line.strip() for line in str(_value(name) or "").splitlines() if line.strip()]


def _value(name: str) -> Any:
    """As it is set; None before the settings page was made for the first time."""
    from modules import shared

    return shared.opts.data.get(name)
