"""Masks: which part of a picture the loss counts in. They lie where training looks for them (``records.mask_path``)."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageStat

from lib_lora.base.errors import StudioError
from lib_lora.base.options import option
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.cuts import checked_box
from lib_lora.dataset.items import Item
from lib_lora.dataset.picture_files import Made, bring_in, open_upright
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


@dataclass(frozen=True)
class MaskRule:
    """A mask that no hand paints."""

    source: str = option(
        "alpha",
        "where the loss counts: as much as the picture is opaque, in a box, or everywhere",
        choices=("alpha", "box", "whole"),
    )
    left: int = option(0, "left edge of the box", unit="px", minimum=0)
    top: int = option(0, "upper edge", unit="px", minimum=0)
    right: int = option(0, "right edge", unit="px", minimum=0)
    bottom: int = option(0, "lower edge", unit="px", minimum=0)
    invert: bool = option(False, "the loss counts in the rest of the picture instead")

    def mask(self, picture: Image.Image) -> Image.Image:
        """Of an upright picture; mode L.

        Raises:
            StudioError: the box does not lie in the picture, or all of the picture is opaque.
        """
        mask = self._alpha(picture) if self.source == "alpha" else Image.new("L", picture.size, 255)
        if self.source == "box":
            box = checked_box((self.left, self.top, self.right, self.bottom), picture.size)
            mask = Image.new("L", picture.size, 0)
            mask.paste(255, box)
        return ImageChops.invert(mask) if self.invert else mask

    @staticmethod
    def _alpha(picture: Image.Image) -> Image.Image:
        mask = picture.convert("RGBA").getchannel("A")
        if mask.getextrema() == (255, 255):
            raise StudioError("no part of it is transparent")
        return mask


def make_masks(
    collection: Collection,
    ids: Sequence[int],
    rule: MaskRule,
    *,
    progress: Callable[[int, int], None] | None = None,
    control: Control | None = None,
) -> Applied:
    """Make pictures' masks by a rule, as one undoable entry; masks that are there go to the trash.

    Args:
        control: asked to stop, it leaves out the pictures that are not done yet.

    Returns:
        ``conflicts`` has the pictures of which no mask was made, and why.
    """
    staging = collection.staging()
    made: dict[str, Made] = {}
    conflicts: list[tuple[int | str, str]] = []
    for done, item in enumerate(map(collection.item, ids)):
        if control is not None and control.stopping:
            break
        name, path = mask_name(item.name), staging / f"{uuid.uuid4().hex}.png"
        try:
            if name in made:
                raise StudioError("another picture of this name has the same mask", file=item.path)
            save_mask(rule.mask(open_upright(item.path).image), path)
            made[name] = Made(item.id, {name: path}, (name,) if mask_path(item.path).is_file() else ())
        except StudioError as error:
            conflicts.append((item.id, error.problem))
        if progress:
            progress(done + 1, len(ids))
    applied = bring_in(collection, list(made.values()), lambda count: f"masks ({rule.source})", conflicts)
    left = {who for who, _ in applied.conflicts}
    return replace(applied, changed=[each.of for each in made.values() if each.of not in left])


def with_mask(collection: Collection, ids: Iterable[int]) -> list[Item]:
    """The pictures that have a mask."""
    return [item for item in map(collection.item, ids) if mask_path(item.path).is_file()]


def share_of_loss(item: Item) -> float:
    """From 0 to 1: in how much of the picture, which has a mask, the loss counts.

    Raises:
        StudioError: the mask cannot be read, or is not of the picture's size.
    """
    mask = mask_for(item, (item.width_px, item.height_px))
    return ImageStat.Stat(mask).mean[0] / 255


def remove_mask(collection: Collection, id: int) -> Applied:
    """The whole picture counts again; the mask goes to the trash. Raises StudioError where there is none."""
    items = with_mask(collection, [id])
    if not items:
        raise StudioError("it has no mask", file=collection.item(id).path)
    return remove_masks(collection, items)


def remove_masks(collection: Collection, items: Iterable[Item]) -> Applied:
    """The same for several, which have one, as one entry."""
    items = list(items)
    applied = collection.trash_files([mask_name(item.name) for item in items])
    left = {who for who, _ in applied.conflicts}
    return replace(applied, what="remove masks", changed=[i.id for i in items if mask_name(i.name) not in left])
