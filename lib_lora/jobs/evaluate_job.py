"""The jobs that make pictures to choose by: "grid", "analyse" and "knowledge", in a thread of this process.

They are not paused: one that is stopped keeps its pictures, and done again makes only those that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lib_lora.base.events import BlockMeasured, CellReady, Event, GridLaidOut
from lib_lora.base.options import from_mapping, to_mapping
from lib_lora.base.protocols import Generator, Host
from lib_lora.base.signals import Control
from lib_lora.evaluate.ranking import ranked
from lib_lora.evaluate.tables import analysis_csv, grid_csv
from lib_lora.jobs.evaluate_form import CONFIGS, checkpoint_family, find_checkpoint, lora_files, read_form
from lib_lora.jobs.job import Job
from lib_lora.jobs.options import LIVE
from lib_lora.jobs.spec import JOB_KINDS, Prepared
from lib_lora.jobs.tool_form import CHART
from lib_lora.text.extra_networks import split_tags
from lib_lora.weights.blocks.elements import Elements
from lib_lora.weights.blocks.presets import Presets
from lib_lora.weights.blocks.words import tag_name
from lib_lora.weights.lora_folder import lora_paths


class _Pictures:
    """A kind of job; what each does is in a function of ``lib_lora.evaluate``, whose imports take their time."""

    pausable = False

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def check(self, values: Mapping[str, Any], host: Host, folder: Path) -> Prepared:
        config = read_form(self._kind, values, host)
        name = ", ".join(getattr(config, "loras", None) or getattr(config, "tags", None) or (config.lora,))
        return Prepared(name, {"config": to_mapping(config)}, LIVE, f"{host.name} makes the pictures")

    def run(self, job: Job, host: Host, control: Control) -> Iterator[Event]:
        config = from_mapping(CONFIGS[self._kind], job.spec.plan["config"])
        return make_pictures(self._kind, config, host, job.pictures_folder, job.folder / CHART, control)


def make_pictures(kind: str, config: Any, host: Host, folder: Path, sheet: Path, control: Control) -> Iterator[Event]:
    """The events of a kind's work.

    Args:
        config: as ``read_form`` gives it.
        folder: of the pictures; those that are there are not made again.
        sheet: where the picture of all of it goes.
    """
    from lib_lora.evaluate.album import Album

    loras = lora_files(config, host)

    def open_generator(checkpoint: str | None) -> AbstractContextManager[Generator]:
        return host.generator(find_checkpoint(checkpoint, loras.values(), host))

    return _WORK[kind](config, loras, host, open_generator, Album(folder, _stamp(loras, config, host)), sheet, control)


def _grid(config: Any, loras: Mapping[str, Path], host: Host, *rest: Any) -> Iterator[Event]:
    from lib_lora.evaluate.grid import make_grid

    return make_grid(config, *rest)


def _analyse(config: Any, loras: Mapping[str, Path], host: Host, *rest: Any) -> Iterator[Event]:
    from lib_lora.evaluate.analyse import analyse, lora_blocks

    family = checkpoint_family(find_checkpoint(config.checkpoint, loras.values(), host), host)
    return analyse(config, lora_blocks(loras[config.lora], family), *rest)


def _look_up(config: Any, loras: Mapping[str, Path], host: Host, *rest: Any) -> Iterator[Event]:
    from lib_lora.evaluate.knowledge import look_up

    return look_up(config, *rest)


_WORK = {"grid": _grid, "analyse": _analyse, "knowledge": _look_up}
for _kind in _WORK:
    JOB_KINDS.register(_kind)(_Pictures(_kind))


def _stamp(loras: Mapping[str, Path], config: Any, host: Host) -> str:
    """What pictures depend on beside their prompts: the LoRAs' files, those of the prompts' own tags among them, the
    presets' values, and whatever else such a tag may name."""
    texts = (*config.prompts, *getattr(config, "tags", ()))
    named = {tag_name(items) for text in texts for items in split_tags(text)[1]}
    paths = [*loras.values(), *(path for path in lora_paths(host.lora_dir()) if path.stem in named)]
    files = {str(path): [path.stat().st_mtime_ns, path.stat().st_size] for path in paths}
    presets = Presets.load(host.data_dir)
    weights = [presets.get(text, text) for text in getattr(config, "weights", ())]
    return json.dumps([files, weights, [dict(presets), dict(Elements.load(host.data_dir))] if named else []])


def evaluation_view(job: Job) -> dict[str, Any]:
    """``view_of`` a job so far; nothing for a job of another kind."""
    return view_of(job.spec.kind, job.log.read()[0]) if job.spec.kind in CONFIGS else {}


def view_of(kind: str, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What work has made so far: ``{"grid": {"axes", "cells"}}`` or ``{"blocks": [..]}``.

    A cell is a place of the grid, ``[row, column]``, with its picture's name, seed, label, ``values`` and ``change``;
    blocks come as ranked so far.

    Args:
        events: as ``base.events.event_to_json`` gives them.
    """
    if kind == "analyse":
        return {"blocks": ranked([each for each in events if each["event"] == BlockMeasured.__name__])}
    axes = next((each["axes"] for each in events if each["event"] == GridLaidOut.__name__), None)
    return {"grid": {"axes": axes, "cells": [cell for each in events for cell in _cells(each)]}}


def _cells(event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if event["event"] != CellReady.__name__:
        return
    for place in event["places"]:
        yield {
            "place": place,
            "picture": Path(event["path"]).name,
            "seed": event["values"]["seed"],
            **{name: event[name] for name in ("label", "values", "change")},
        }


def table_of(job: Job) -> str | None:
    """The CSV of a job as far as it is; None for a job of another kind."""
    return csv_of(evaluation_view(job)) if job.spec.kind in CONFIGS else None


def csv_of(view: Mapping[str, Any]) -> str:
    """``view_of`` as a table."""
    return analysis_csv(view["blocks"]) if "blocks" in view else grid_csv(view["grid"]["cells"])
