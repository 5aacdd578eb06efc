"""Axes for the WebUI's own X/Y/Z plot. Each changes the first ``<lora:...>`` of the prompt, and of the hires prompt."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lib_lora.arch.blocks import BASE, unet_blocks
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.hosts.webui import environment
from lib_lora.hosts.webui.block_weights import loaded_family
from lib_lora.hosts.webui.loras import networks_module
from lib_lora.weights.blocks.presets import Presets
from lib_lora.weights.blocks.vector import parse_vector
from lib_lora.weights.blocks.words import BLOCK_WORDS, is_number, read_tag

_FIRST = re.compile(r"<(lora|lyco):([^>]+)>")
Change = Callable[[list[str], Any], list[str]]


def add_axes() -> None:
    """Twice is once; to be called when the WebUI has loaded all scripts, and before it makes its page."""
    from modules import scripts

    for data in scripts.scripts_data:
        if Path(data.path).name == "xyz_grid.py":
            known = {axis.label for axis in data.module.axis_options}
            data.module.axis_options += [axis for axis in _axes(data.module.AxisOption) if axis.label not in known]


def _axes(axis: Callable[..., Any]) -> list[Any]:
    def made(label: str, kind: type, change: Change, check: Callable[[Any], Any] = lambda value: None, **more) -> Any:
        return axis(f"[LoRA] {label}", kind, partial(_apply, change), confirm=partial(_confirm, check), **more)

    return [
        made("Block preset", str, set_weights, _check_weights, choices=_presets),
        made("Block weights", str, set_weights, _check_weights, prepare=_apart),
        made("One block on", str, partial(_one_block, 1, 0), _check_block, choices=_blocks),
        made("One block off", str, partial(_one_block, 0, 1), _check_block, choices=_blocks),
        made("x of block weights", float, partial(set_named, "x")),
        made("File", str, set_name, _check_file, choices=_files, cost=0.5),
        made("UNet strength", float, partial(set_named, "unet")),
        made("TE strength", float, set_te),
    ]


def _apply(change: Change, p: Any, value: Any, values: Sequence[Any]) -> None:
    p.prompt = with_first_lora(p.prompt, change, value)
    if getattr(p, "hr_prompt", "") and _FIRST.search(p.hr_prompt):
        p.hr_prompt = with_first_lora(p.hr_prompt, change, value)


def _confirm(check: Callable[[Any], Any], p: Any, values: Sequence[Any]) -> None:
    with_first_lora(p.prompt, lambda items, _: items, None)
    for value in values:
        check(value)


def _apart(text: str) -> list[str]:
    """``1,0,1; 0,1,0``, or each in quotes, as lists with commas are elsewhere in the plot."""
    values = next(csv.reader([text], skipinitialspace=True)) if '"' in text else text.split(";")
    return [value.strip() for value in values if value.strip()]


def _files() -> list[str]:
    return sorted(networks_module().available_networks, key=str.casefold)


def _presets() -> list[str]:
    return list(Presets.load(environment.data_dir()))


def _blocks() -> list[str]:
    return [BASE, *unet_blocks(loaded_family() or Family.SD1)]


def _check_weights(weights: str) -> None:
    presets = Presets.load(environment.data_dir())
    parse_vector(weights, loaded_family(), presets=presets, draw=lambda low, high: low)


def _check_file(name: str) -> None:
    if name not in networks_module().available_network_aliases:
        raise StudioError("no LoRA of this name", field="lora", came=name)


def _check_block(name: str) -> None:
    if name not in _blocks():
        raise StudioError("no such block", field="lbw", came=name, allowed=_blocks())


def _one_block(its: int, others: int, items: list[str], block: str) -> list[str]:
    values = [its if name == block else others for name in _blocks()]
    return set_weights(items, ",".join(map(str, values)))


# What an axis does to a tag's items: ["name", "0.8", "lbw=OUTD"]


def with_first_lora(prompt: str, change: Change, value: Any) -> str:
    """The prompt with another first LoRA.

    Raises:
        StudioError: there is none in it.
    """
    match = _FIRST.search(prompt)
    if match is None:
        raise StudioError("there is no LoRA to change", field="prompt", came=prompt, allowed="<lora:name:1>")
    items = change(match[2].split(":"), value)
    return f"{prompt[: match.start()]}<{match[1]}:{':'.join(items)}>{prompt[match.end() :]}"


def set_name(items: list[str], name: str) -> list[str]:
    return [name, *items[1:]]


def set_named(key: str, items: list[str], value: Any) -> list[str]:
    return [*_without(items, key), f"{key}={value}"]


def set_te(items: list[str], te: float) -> list[str]:
    """The UNet's strength, which the WebUI takes from the text encoder's where it is not written, stays."""
    before = read_tag(items, family=None, strict=False)
    return set_named("unet", set_named("te", items, te), f"{before.unet:.10g}")


def set_weights(items: list[str], weights: str) -> list[str]:
    """Block weights by their key, in the place of those that a tag has, also of the old form ``name:1:OUTX:0.5``."""
    named = [item for item in _without(items, *BLOCK_WORDS) if item.count("=") == 1]
    positions = [item for item in items if item.count("=") != 1]
    numbers = [*itertools.takewhile(is_number, positions[1:])]
    behind = positions[len(numbers) + 2 :][:1]  # the word that block weights are in the old form
    behind = [f"{'x' if is_number(item) else 'lbwe'}={item}" for item in behind]
    return [*positions[:1], *numbers, *behind, *named, f"lbw={weights}"]


def _without(items: list[str], *keys: str) -> list[str]:
    return [item for item in items if "=" not in item or item.partition("=")[0] not in keys]
