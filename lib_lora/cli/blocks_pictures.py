"""``blocks grid``, ``blocks analyse`` and ``blocks knowledge``: pictures from a checkpoint file, with their table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import ToolDone, event_to_json
from lib_lora.base.options import add_flags, from_mapping, option, options_of
from lib_lora.base.signals import Control
from lib_lora.cli.progress import Printer, stop_on_ctrl_c
from lib_lora.files.atomic import check_writable, write_text
from lib_lora.jobs.evaluate_form import CONFIGS, read_form
from lib_lora.jobs.evaluate_job import csv_of, make_pictures, view_of

_STOPPED = 130
HELP = {
    "grid": "a picture for each of several block weights, LoRAs, strengths, checkpoints, prompts and seeds",
    "analyse": "what each block of a LoRA changes in pictures",
    "knowledge": "what a checkpoint makes of tags before anything is trained",
}


@dataclass(frozen=True)
class PlaceOptions:
    """Where things lie."""

    output_dir: Path = option(Path("outputs/blocks"), "folder for the pictures, the whole as one, and the table")
    overwrite: bool = option(False, "replace the whole and the table of an earlier run")
    lora_dir: Path = option(Path("models/Lora"), "folder of LoRAs")
    models_dir: Path = option(Path("models"), "folder of models, in which Stable-diffusion has the checkpoints")
    data_dir: Path = option(Path("lora_studio"), "folder of one's own presets and lists of prompts")


def add_picture_commands(commands: Any) -> None:
    """Add them to the subparsers of ``blocks``."""
    for kind, help in HELP.items():
        parser: argparse.ArgumentParser = commands.add_parser(kind, help=help, description=help, allow_abbrev=False)
        parser.set_defaults(command=_command(kind))
        add_flags(parser, CONFIGS[kind])
        add_flags(parser, PlaceOptions)


def _command(kind: str) -> Callable[[dict[str, Any]], int]:
    return lambda flags: run_pictures(kind, flags)


def run_pictures(kind: str, flags: dict[str, Any]) -> int:
    """0 when all was made, 130 when stopped; a table is written of what there is."""
    from lib_lora.hosts.standalone.host import StandaloneHost

    names = [info.name for info in options_of(PlaceOptions)]
    places = from_mapping(PlaceOptions, {name: flags.pop(name) for name in names if name in flags})
    host = StandaloneHost(places.data_dir, models_dir=places.models_dir, lora_dir=places.lora_dir)
    config = read_form(kind, flags, host)
    check_writable(places.output_dir, field="output_dir")
    control, printer, events = Control(), Printer(), []
    sheet, table = (places.output_dir / f"{kind}{ending}" for ending in (".png", ".csv"))
    for path in (sheet, table):
        if path.exists() and not places.overwrite:
            raise StudioError("exists already", field="output_dir", file=path, allowed="another folder, or overwrite")
    with stop_on_ctrl_c(control):
        try:
            for event in make_pictures(kind, config, host, places.output_dir / "pictures", sheet, control):
                printer.show(event)
                events.append(event_to_json(event))
        finally:
            printer.close()
            text = csv_of(view_of(kind, events))
            if _has_rows(text):
                write_text(table, text)
    if _has_rows(text):
        print(text, end="")
        print(f"wrote {table}")
    return 0 if events and events[-1]["event"] == ToolDone.__name__ else _STOPPED


def _has_rows(table: str) -> bool:
    """Whether there is more than the line of its columns' names."""
    return table.count("\n") > 1
