"""Grids of pictures: block weights, LoRAs, strengths, checkpoints, prompts and seeds against each other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from lib_lora.base.events import CellReady, Event, GridLaidOut, Note, Progress, Saved, ToolDone
from lib_lora.base.protocols import Generator
from lib_lora.base.signals import Control
from lib_lora.evaluate.album import Album, save_picture
from lib_lora.evaluate.differences import difference
from lib_lora.evaluate.drawing import draw_grid
from lib_lora.evaluate.layout import Layout, Picture, lay_out
from lib_lora.evaluate.options import GridConfig

OpenGenerator = Callable[[str | None], AbstractContextManager[Generator]]
"""Whoever makes pictures with the checkpoint of this name; None for the usual one."""
WORK = "pictures"
STOPPED = Note("stopped; the pictures that were made are kept", "warning")


def make_grid(
    config: GridConfig, open_generator: OpenGenerator, album: Album, sheet: Path, control: Control
) -> Iterator[Event]:
    """Make a grid; each picture is told as it is written. Ends early when ``control`` asks for it.

    Args:
        sheet: where the picture of the whole grid goes.

    Raises:
        StudioError: naming what is at fault with a picture.
    """
    began, layout = time.monotonic(), lay_out(config)
    yield GridLaidOut(layout.axes())
    found: dict[tuple[int, int], Path] = {}
    bases: dict[tuple, Path] = {}
    for done, (picture, path) in enumerate(_pictures(config, layout, open_generator, album, control), 1):
        if path is None:
            yield STOPPED
            return
        found.update(dict.fromkeys(picture.places, path))
        key = (picture.checkpoint, picture.prompt, picture.seed)
        base = bases.setdefault(key, path) if picture.use is None else bases.get(key)
        change = None if base is None else difference(base, path, 1.0).mean
        yield CellReady(path, [list(place) for place in picture.places], picture.label, picture.values(), change)
        yield Progress(WORK, done, len(layout.pictures))
    save_picture(sheet, draw_grid(layout.columns, layout.rows, found))
    yield Saved(sheet, 0)
    report = {"pictures": len(layout.pictures), "columns": len(layout.columns), "rows": len(layout.rows)}
    yield ToolDone("grid", sheet, report, time.monotonic() - began)


def _pictures(
    config: GridConfig, layout: Layout, open_generator: OpenGenerator, album: Album, control: Control
) -> Iterator[tuple[Picture, Path | None]]:
    """Each picture and its file; a checkpoint is there for as long as its pictures need it."""
    for checkpoint, pictures in itertools.groupby(layout.pictures, lambda picture: picture.checkpoint):
        with open_generator(checkpoint) as generator:
            for picture in pictures:
                yield picture, album.picture(generator, picture.request(config), control)
