"""Masks: which part of a picture the loss counts in. They lie where training looks for them (``records.mask_path``)."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from lib_lora.base.errors import StudioError
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.items import Item
from lib_lora.dataset.picture_files import open_upright
from lib_lora.dataset.plan import Size
from lib_lora.dataset.records import mask_path
from lib_lora.files.atomic import atomic_write

_MOST_PX = 100_000


def mask_name(name: str) -> str:
    """The path of a picture's mask, from that of the picture; both in the dataset."""
    return mask_path(Path(name)).as_posix()


def mask_for(item: Item, size: Size) -> Image.Image | None:
    """The picture's mask (mode L), None where it has none.

    Raises:
        StudioError: it cannot be read, or is not of the picture's size.
    """
    path = mask_path(item.path)
    if not path.is_file():
        return None
    mask = open_upright(path).image.convert("L")
    if mask.size != size:
        raise StudioError(f"its mask has another size: {mask.width}x{mask.height}", file=path)
    return mask


def save_mask(mask: Image.Image, path: Path) -> None:
    """As PNG, atomically."""
    with atomic_write(path) as file:
        mask.save(file, "PNG")


@dataclass(frozen=True)
class Stroke:
    """A line drawn with a round brush.

    Attributes:
        points: (x, y) in px of the upright picture; one makes a dot.
        radius_px: of the brush.
        white: it paints where the loss counts; else it takes away.
    """

    points: tuple[tuple[float, float], ...]
    radius_px: float
    white: bool = True

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Stroke:
        """From {"points": [[x, y], ...], "radius": r, "white": bool}.

        Raises:
            StudioError: anything else.
        """
        try:
            points = tuple((float(x), float(y)) for x, y in values["points"])
            stroke = cls(points, float(values["radius"]), bool(values["white"]))
        except (KeyError, TypeError, ValueError):
            raise _no_stroke(values) from None
        numbers = [stroke.radius_px, *itertools.chain.from_iterable(points)]
        if not points or stroke.radius_px <= 0 or not all(abs(number) < _MOST_PX for number in numbers):
            raise _no_stroke(values)
        return stroke


def _no_stroke(came: object) -> StudioError:
    return StudioError("not a stroke", field="strokes", came=str(came)[:200], allowed="points, radius above 0, white")


def draw_strokes(mask: Image.Image, strokes: Sequence[Stroke]) -> None:
    """Draw on a mask (mode L), one over the other."""
    draw = ImageDraw.Draw(mask)
    for stroke in strokes:
        colour = 255 if stroke.white else 0
        radius = stroke.radius_px
        if len(stroke.points) > 1:
            draw.line(stroke.points, fill=colour, width=max(1, round(2 * radius)))
        for x, y in stroke.points:  # round ends and corners
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def paint_mask(collection: Collection, id: int, strokes: Sequence[Stroke], *, start: str = "now") -> Applied:
    """Paint a picture's mask, white where the loss counts, and write it to where training looks for it.

    Args:
        start: "white", "black", or "now" for the mask that is there; where there is none, the opposite of the first
            stroke. No stroke at all keeps the start as it is.

    Raises:
        StudioError: the picture cannot be read, or an unknown start.
    """
    if start not in ("now", "white", "black"):
        raise StudioError("not allowed", field="start", came=start, allowed="now, white, black")
    item = collection.item(id)
    size = open_upright(item.path).image.size
    mask = mask_for(item, size) if start == "now" else None
    if mask is None:
        white = start == "white" or (start == "now" and not (strokes and strokes[0].white))
        mask = Image.new("L", size, 255 if white else 0)
    draw_strokes(mask, strokes)
    path = collection.staging() / f"{uuid.uuid4().hex}.png"
    save_mask(mask, path)
    name = mask_name(item.name)
    old = [name] if mask_path(item.path).is_file() else []
    return collection.add_files({name: path}, replaced=old, what=f"mask of {item.file_name}")


def remove_mask(collection: Collection, id: int) -> Applied:
    """The whole picture counts again; the mask goes to the trash."""
    item = collection.item(id)
    if not mask_path(item.path).is_file():
        raise StudioError("it has no mask", file=item.path)
    return collection.trash_files([mask_name(item.name)])
