"""``blocks``: block weights by name, a LoRA's blocks in figures, its weighted file, and pictures of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.options import REQUIRED, add_flags, from_mapping, option
from lib_lora.cli.blocks_pictures import add_picture_commands
from lib_lora.cli.tools import run_tool
from lib_lora.weights.blocks.presets import Presets, import_presets, remove_preset, save_preset, write_presets
from lib_lora.weights.blocks.vector import parse_vector
from lib_lora.weights.tools import TOOLS


@dataclass(frozen=True)
class PresetOptions:
    data_dir: Path = option(Path("lora_studio"), "folder of one's own presets")
    family: str | None = option(
        None, "write them out as lists of every block of this family", choices=tuple(family.value for family in Family)
    )
    x: float = option(1.0, "what X in them stands for, with family")
    add: tuple[str, ...] = option((), "presets to keep as one's own, NAME:1,0,0.5,... each")
    remove: tuple[str, ...] = option((), "names of one's own to take away")
    import_file: Path | None = option(
        None, "take presets from such a file: sd-webui-lora-block-weight's lbwpresets.txt"
    )
    export_file: Path | None = option(None, "write one's own to such a file")


@dataclass(frozen=True)
class NormOptions:
    model: Path = option(REQUIRED, "LoRA file to look at")
    base: Path | None = option(None, "checkpoint that IA3, OFT, BOFT, GLoRA and DoRA are computed on")
    json: bool = option(False, "print the figures as JSON")


def add_blocks_flags(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    apply = TOOLS["blocks"]
    for name, help, command, options in (
        ("presets", "list block weights by name, and keep one's own", _presets, PresetOptions),
        ("norms", "say how large a LoRA's change is in each block", _norms, NormOptions),
        ("apply", apply.help, lambda flags: run_tool(apply, flags), apply.config),
    ):
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(command=command)
        add_flags(sub, options)
    add_picture_commands(commands)


def _presets(flags: dict[str, Any]) -> int:
    """What is asked for is done in the order of the options; then the list as it is now."""
    config = from_mapping(PresetOptions, flags)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    for line in config.add:
        name, _, values = line.partition(":")
        save_preset(config.data_dir, name, values)
    for name in config.remove:
        remove_preset(config.data_dir, name)
    if config.import_file is not None:
        _import(config)
    presets = Presets.load(config.data_dir)
    if config.export_file is not None:
        if config.export_file.exists():
            raise StudioError("exists already", field="export_file", file=config.export_file, allowed="another name")
        write_presets(config.export_file, {name: presets[name] for name in sorted(presets.own)})
    for text in (*_lines(presets, config), *(f"warning: {note}" for note in presets.notes)):
        print(text)
    return 0


def _import(config: PresetOptions) -> None:
    """Take the file's presets over; one's own keep their values."""
    known = Presets.load(config.data_dir)
    found, left_out = import_presets(config.import_file)
    for name, values in found.items():
        if known.get(name) == values:
            continue
        if name in known.own:
            left_out.append(f"{name}: a preset of your own has this name, and other values")
        else:
            save_preset(config.data_dir, name, values)
    for text in left_out:
        print(f"left out: {text}")


def _lines(presets: Presets, config: PresetOptions) -> Iterator[str]:
    for name, values in presets.items():
        if config.family is not None:
            values = _written_out(presets, name, Family(config.family), config.x)
        yield f"{name}:{values}" + ("  # own" if name in presets.own else "")


def _written_out(presets: Presets, name: str, family: Family, x: float) -> str:
    try:
        return parse_vector(name, family, x=x, presets=presets).text
    except StudioError:  # R and U are no numbers yet
        return presets[name]


def _norms(flags: dict[str, Any]) -> int:
    from lib_lora.weights.blocks.norms import block_norms
    from lib_lora.weights.chart import text_bars

    config = from_mapping(NormOptions, flags)
    rows = block_norms(config.model, config.base)
    if config.json:
        print(json.dumps(rows))
        return 0
    names = [f"{row['block']:6}{row['modules']:4} modules{_share(row['share']):>8} " for row in rows]
    print("\n".join(text_bars(names, [row["norm"] for row in rows])))
    return 0


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
