"""What a checkpoint makes of tags before anything is trained: a picture of each, and a figure.

The figure is how much a tag changes the UNet's prediction, over how much a word does that nobody knows: near 1 the
checkpoint may as well not have seen the tag, and far above it the tag means something already.
"""

from __future__ import annotations

import itertools
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path

from lib_lora.base.events import CellReady, Event, GridLaidOut, Note, Progress, Saved, ToolDone
from lib_lora.base.protocols import Generator
from lib_lora.base.seeds import derive_seed
from lib_lora.base.signals import Control
from lib_lora.evaluate.album import Album, save_picture
from lib_lora.evaluate.differences import difference
from lib_lora.evaluate.drawing import draw_grid
from lib_lora.evaluate.grid import STOPPED, WORK, OpenGenerator
from lib_lora.evaluate.options import KnowledgeConfig

_NONE = "without a tag"
_NONSENSE_WORDS, _NONSENSE_LETTERS = 4, 8


def look_up(
    config: KnowledgeConfig, open_generator: OpenGenerator, album: Album, sheet: Path, control: Control
) -> Iterator[Event]:
    """A row of pictures per tag, after one without any; each is told as it is written.

    Raises:
        StudioError: naming what is at fault with a picture.
    """
    began = time.monotonic()
    wanted = list(itertools.product(config.prompts or ("",), config.seeds))
    columns = [f"{prompt}, seed {seed}" if prompt else f"seed {seed}" for prompt, seed in wanted]
    rows: list[str | None] = [None, *config.tags]
    labels = [tag or _NONE for tag in rows]
    yield GridLaidOut({"columns": {"name": "seed", "labels": columns}, "rows": {"name": "tag", "labels": labels}})
    found: dict[tuple[int, int], Path] = {}
    known: list[dict] = []
    with open_generator(config.checkpoint) as generator:
        nonsense = _effect(generator, wanted, _nonsense(config.seeds[0]))
        for row, tag in enumerate(rows):
            known.append({"tag": tag, **(_figures(generator, wanted, tag, nonsense) if tag else {})})
            for column, (prompt, seed) in enumerate(wanted):
                path = album.picture(generator, config.request(_with(prompt, tag), seed), control)
                if path is None:
                    yield STOPPED
                    return
                found[row, column] = path
                yield _cell(path, (row, column), found[0, column], {**known[-1], "prompt": prompt, "seed": seed})
                yield Progress(WORK, len(found), len(rows) * len(columns))
    save_picture(sheet, draw_grid(columns, labels, found))
    yield Saved(sheet, 0)
    yield from (Note(_label(each)) for each in known[1:])
    yield ToolDone("knowledge", sheet, {"tags": known[1:], "nonsense": nonsense}, time.monotonic() - began)


def _cell(path: Path, place: tuple[int, int], base: Path, values: dict) -> CellReady:
    change = difference(base, path, 1.0).mean
    return CellReady(path, [list(place)], f"{_label(values)}, seed {values['seed']}", values, change)


def _label(known: dict) -> str:
    if known["tag"] is None:
        return _NONE
    return f"{known['tag']}: {known['over_nonsense']:.1f} times the effect of a word that nobody knows"


def _figures(generator: Generator, wanted: list[tuple[str, int]], tag: str, nonsense: float) -> dict[str, float]:
    effect = _effect(generator, wanted, [tag])
    return {"effect": effect, "over_nonsense": effect / nonsense}


def _effect(generator: Generator, wanted: list[tuple[str, int]], words: list[str]) -> float:
    """The mean over words, prompts and seeds."""
    texts = [(prompt, _with(prompt, word), seed) for word, (prompt, seed) in itertools.product(words, wanted)]
    changes = generator.prediction_changes(texts)
    return sum(changes) / len(changes)


def _nonsense(seed: int) -> list[str]:
    """Words of random consonants."""
    draws = random.Random(derive_seed(seed, "nonsense"))
    consonants = [letter for letter in string.ascii_lowercase if letter not in "aeiouy"]
    return ["".join(draws.choices(consonants, k=_NONSENSE_LETTERS)) for _ in range(_NONSENSE_WORDS)]


def _with(prompt: str, tag: str | None) -> str:
    return ", ".join(part for part in (prompt, tag) if part)
