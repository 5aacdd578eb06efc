"""The block analyser: what each block of a LoRA does to pictures, by itself and to the whole.

Of a block "alone" all others are 0, and the picture is held against the one with all blocks at 0; of a block "off" it
alone is 0, and the picture is held against the one with all at 1. Layers that belong to no block act in all of these
pictures. A block in which the LoRA has no weights changes nothing: its figures are 0, and nothing is made for it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib_lora.arch.blocks import BASE, BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.base.events import BlockMeasured, Event, Progress, Saved, ToolDone
from lib_lora.base.protocols import Generator
from lib_lora.base.signals import Control
from lib_lora.evaluate.album import Album, save_picture
from lib_lora.evaluate.differences import Difference, difference, heat_map
from lib_lora.evaluate.grid import STOPPED, WORK, OpenGenerator
from lib_lora.evaluate.layout import LoraUse
from lib_lora.evaluate.options import ALONE, BOTH, OFF, AnalyseConfig
from lib_lora.evaluate.ranking import ranked
from lib_lora.weights.chart import bar_chart
from lib_lora.weights.layers import block_of_key, canonical_key
from lib_lora.weights.modules import read_whole

_NEXT_TO_NOTHING = "1e-30"  # which changes no weight: even in float32 it is lost in the sum
_LEAST_HEAT = 1e-6  # the brightest point of a heat map of nothing


@dataclass(frozen=True)
class LoraBlocks:
    """The family of a LoRA, and the blocks in which it has weights."""

    family: Family
    present: Set[str]

    @property
    def all(self) -> tuple[str, ...]:
        """Every block of the family, in the order of vectors."""
        return max(BLOCK_LISTS[self.family].values(), key=len)

    def vector(self, ones: Set[str]) -> str:
        """The vector with 1 at some blocks and 0 at all others, in which what belongs to no block acts."""
        # Where all of the UNet's values are 0, so is what belongs to no block (rule 2 of block-weights.md).
        values = ["1" if block in ones else "0" for block in self.all]
        if not ones - {BASE}:
            values[-1] = _NEXT_TO_NOTHING
        return ",".join(values)


def lora_blocks(path: Path, family: Family | None = None) -> LoraBlocks:
    """Those of a file.

    Args:
        family: of the checkpoint, whose LoRA it is where the file does not tell; SD1 where nobody does.

    Raises:
        StudioError: it is no LoRA.
    """
    weights = read_whole(path)
    family = weights.family or family or Family.SD1
    found = {block_of_key(canonical_key(key, family)) for key in weights.modules}
    return LoraBlocks(family, found - {None})


def analyse(
    config: AnalyseConfig,
    blocks: LoraBlocks,
    open_generator: OpenGenerator,
    album: Album,
    chart: Path,
    control: Control,
) -> Iterator[Event]:
    """Measure the blocks one by one; each is told as it is measured. Ends early when ``control`` asks for it.

    Args:
        chart: where the bar chart goes.

    Raises:
        StudioError: naming what is at fault with a picture.
    """
    began, measured = time.monotonic(), []
    present = [block for block in blocks.all if block in blocks.present]
    ways = (ALONE, OFF) if config.ways == BOTH else (config.ways,)
    work = _Work(config, blocks, album, control, total=len(ways) * (1 + len(present)))
    with open_generator(config.checkpoint) as generator:
        references = {}
        for way in ways:
            references[way] = yield from work.pictures(generator, blocks.vector(_ones(blocks, way, None)))
            if references[way] is None:
                yield STOPPED
                return
        for block in blocks.all:
            found = yield from _measure(work, generator, block, references)
            if found is None:
                yield STOPPED
                return
            measured.append(found)
            yield found
    save_picture(chart, _chart(config, measured))
    yield Saved(chart, 0)
    report = {"lora": config.lora, "blocks": ranked([vars(each) for each in measured])}
    yield ToolDone("analyse", chart, report, time.monotonic() - began)


class _Work:
    """Makes the pictures of vectors, one for each prompt and seed, and counts them."""

    def __init__(
        self, config: AnalyseConfig, blocks: LoraBlocks, album: Album, control: Control, *, total: int
    ) -> None:
        self.config, self.blocks, self.album = config, blocks, album
        self._control = control
        self._wanted = list(itertools.product(config.prompts, config.seeds))
        self._done, self._total = 0, total * len(self._wanted)

    def pictures(self, generator: Generator, vector: str) -> Iterator[Event]:
        """Gives back the files; None when stopped."""
        use = LoraUse(self.config.lora, self.config.unet, self.config.te, vector)
        paths = []
        for prompt, seed in self._wanted:
            path = self.album.picture(generator, self.config.request(use.added_to(prompt), seed), self._control)
            if path is None:
                return None
            paths.append(path)
            self._done += 1
            yield Progress(WORK, self._done, self._total)
        return paths


def _ones(blocks: LoraBlocks, way: str, block: str | None) -> Set[str]:
    """The blocks that act when one is measured; None is what it is held against."""
    if way == ALONE:
        return {block} - {None}
    return set(blocks.all) - {block}


def _measure(work: _Work, generator: Generator, block: str, references: Mapping[str, list[Path]]) -> Iterator[Event]:
    """Gives back a ``BlockMeasured``; None when stopped."""
    if block not in work.blocks.present:
        nothing = {"mean": 0.0, "changed": 0.0}
        return BlockMeasured(block, *(dict(nothing) if way in references else None for way in (ALONE, OFF)), {})
    figures: dict[str, Any] = {ALONE: None, OFF: None}
    pictures: dict[str, Any] = {}
    for way, reference in references.items():
        paths = yield from work.pictures(generator, work.blocks.vector(_ones(work.blocks, way, block)))
        if paths is None:
            return None
        apart = [difference(*pair, work.config.threshold) for pair in zip(reference, paths)]
        figures[way] = {
            "mean": float(np.mean([each.mean for each in apart])),
            "changed": float(np.mean([each.changed for each in apart])),
        }
        heat = work.album.folder / f"heat-{block}-{way}.png"
        save_picture(heat, _heat(apart))
        pictures[way], pictures[f"heat_{way}"] = [path.name for path in paths], heat.name
    return BlockMeasured(block, figures[ALONE], figures[OFF], pictures)


def _heat(apart: Sequence[Difference]):
    """Where the pictures differ, on the average; white is where this block changes most."""
    heat = np.mean([each.heat for each in apart], axis=0)
    return heat_map(heat, max(float(heat.max()), _LEAST_HEAT))


def _chart(config: AnalyseConfig, measured: Sequence[BlockMeasured]):
    series = {
        way: [getattr(block, way)["mean"] for block in measured]
        for way in (ALONE, OFF)
        if getattr(measured[0], way) is not None
    }
    return bar_chart(f"{config.lora}: change of the picture per block", [each.block for each in measured], series)
