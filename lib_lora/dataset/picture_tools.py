"""Tools that make a new picture of one: crop, resize, split, flip.

The new picture lies beside the old one, with a copy of its caption and of its mask, treated alike; or it takes the old
one's place, if that is asked for, and the old one goes to the trash. Both through the journal of the collection. A tool
sees the picture upright; what it writes needs no EXIF rotation, keeps transparency and the colour profile, and has no
other metadata.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.options import option
from lib_lora.base.registry import Registry
from lib_lora.base.signals import Control
from lib_lora.dataset.bucket_options import BucketOptions
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.cuts import Box, Cut, bucket_cut, checked_box, middle_box, smart_box, split_boxes, whole
from lib_lora.dataset.images import to_rgb
from lib_lora.dataset.items import Item
from lib_lora.dataset.masks import mask_for, mask_name, save_mask
from lib_lora.dataset.picture_files import EXTENSIONS, Made, Opened, bring_in, open_upright, save_picture
from lib_lora.dataset.plan import select_bucket
from lib_lora.files.atomic import write_bytes


class PictureTool:
    """An option dataclass, filed in TOOLS.

    Attributes:
        suffix: what the new picture's name has more than the old one's.
    """

    suffix: str

    def cuts(self, picture: Image.Image) -> list[Cut]:
        """What it makes of an upright picture.

        Raises:
            StudioError: of this picture it makes nothing.
        """
        raise NotImplementedError

    def colours(self, opened: Opened) -> Opened:
        """The picture in the colours that are written."""
        return opened


TOOLS: Registry[type[PictureTool]] = Registry("tool")


@TOOLS.register("crop")
@dataclass(frozen=True)
class Crop(PictureTool):
    """Cut out a box"""

    left: int = option(0, "left edge of what is kept", unit="px", minimum=0)
    top: int = option(0, "upper edge", unit="px", minimum=0)
    right: int = option(0, "right edge", unit="px", minimum=0)
    bottom: int = option(0, "lower edge", unit="px", minimum=0)

    suffix = "crop"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        return [Cut(checked_box((self.left, self.top, self.right, self.bottom), picture.size))]


@TOOLS.register("crop_to_bucket")
@dataclass(frozen=True)
class CropToBucket(BucketOptions, PictureTool):
    """Cut and scale to the bucket that training would choose: what training sees, or its box where most is to see"""

    place: str = option("smart", "which part is kept", choices=("middle", "smart"))
    scale: bool = option(True, "scale to the bucket's size, too; else only cut to its shape")

    suffix = "bucket"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        bucket = select_bucket(*picture.size, self.buckets())
        width, height = bucket.resolution
        box = smart_box(picture, width / height) if self.place == "smart" else None
        if not self.scale:
            return [Cut(box or middle_box(picture.size, width / height))]
        return [bucket_cut(picture.size, bucket, box)]


@TOOLS.register("smart_crop")
@dataclass(frozen=True)
class SmartCrop(PictureTool):
    """Cut the largest box of a shape where the picture shows most"""

    aspect: str = option("1:1", "shape of the box, width:height")
    place: str = option("smart", "which part is kept", choices=("middle", "smart"))

    suffix = "crop"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        aspect = parse_aspect(self.aspect)
        return [Cut(smart_box(picture, aspect) if self.place == "smart" else middle_box(picture.size, aspect))]


@TOOLS.register("resize")
@dataclass(frozen=True)
class Resize(PictureTool):
    """Scale, keeping the shape"""

    side: str = option("shortest", "which side gets the length", choices=("shortest", "longest", "width", "height"))
    px: int = option(1024, "its new length", unit="px", minimum=8, maximum=16384)
    enlarge: bool = option(False, "also enlarge smaller pictures")

    suffix = "resized"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        width, height = picture.size
        now = {"shortest": min(width, height), "longest": max(width, height), "width": width, "height": height}
        scale = self.px / now[self.side]
        if scale == 1 or (scale > 1 and not self.enlarge):
            raise StudioError("it is not larger than that", field="px", came=self.px)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return [Cut(whole(picture.size), size)]


@TOOLS.register("split")
@dataclass(frozen=True)
class Split(PictureTool):
    """Cut a tall or wide picture into several"""

    aspect: float = option(1.5, "a part's long side is at most this many times its short side", minimum=1, maximum=10)
    overlap: float = option(0.1, "share of a part that the next one shows again", minimum=0, maximum=0.9)

    suffix = "part"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        boxes = split_boxes(picture.size, self.aspect, self.overlap)
        if len(boxes) == 1:
            raise StudioError(f"it is not longer than {self.aspect:g} times its width or height", field="aspect")
        return [Cut(box) for box in boxes]


@TOOLS.register("flip")
@dataclass(frozen=True)
class Flip(PictureTool):
    """Mirror; words such as left and right in the caption stay as they are"""

    mirror: str = option("horizontal", "which way", choices=("horizontal", "vertical"))

    suffix = "flip"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        return [Cut(whole(picture.size), mirror=self.mirror)]


@TOOLS.register("upright")
@dataclass(frozen=True)
class Upright(PictureTool):
    """Write the picture as EXIF says it should be shown"""

    suffix = "upright"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        return [Cut(whole(picture.size))]


@TOOLS.register("rgb")
@dataclass(frozen=True)
class Rgb(PictureTool):
    """Write 8 bits of RGB, as training sees them: transparent parts become white"""

    suffix = "rgb"

    def cuts(self, picture: Image.Image) -> list[Cut]:
        return [Cut(whole(picture.size))]

    def colours(self, opened: Opened) -> Opened:
        image = to_rgb(opened.image)
        image.info.clear()  # Pillow would write the old profile along
        is_rgb = opened.image.mode in ("RGB", "RGBA", "P", "PA")  # else the profile speaks of other colours
        return replace(opened, image=image, profile=opened.profile if is_rgb else None)


def parse_aspect(text: str) -> float:
    """w / h from "2:3", "16/9" or "1.5".

    Raises:
        StudioError: anything else, or a shape of more than 20 to 1.
    """
    parts = text.replace("/", ":").split(":")
    try:
        numbers = [float(part) for part in parts]
        aspect = numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0]
    except (ValueError, ZeroDivisionError):
        aspect = 0.0
    if len(parts) > 2 or not 0.05 <= aspect <= 20:
        raise StudioError("not a shape", field="aspect", came=text, allowed="width:height, such as 2:3")
    return aspect


def use_tool(
    collection: Collection,
    ids: Sequence[int],
    tool: PictureTool,
    *,
    over: bool = False,
    progress: Callable[[int, int], None] | None = None,
    control: Control | None = None,
) -> Applied:
    """Make new pictures of old ones, as one undoable entry.

    Args:
        over: the new pictures take the place of the old ones, which go to the trash.
        control: asked to stop, it leaves out the pictures that are not done yet.

    Returns:
        ``added`` has the new pictures; ``conflicts`` those of which nothing was made, and why.

    Raises:
        StudioError: the folder cannot be written.
    """
    work = _Work(collection, collection.staging())
    for done, id in enumerate(ids):
        if control is not None and control.stopping:
            break
        try:
            work.make(collection.item(id), tool, over=over)
        except StudioError as error:
            work.conflicts.append((id, error.problem))
        if progress:
            progress(done + 1, len(ids))
    return bring_in(
        collection, work.made, lambda count: f"{tool.suffix}: {count} of {len(ids)} pictures", work.conflicts
    )


@dataclass
class _Work:
    """Finished files in the staging folder, until all of them are brought in at once.

    Attributes:
        names: of all the files to come, in the dataset.
        stems: by folder, of files that are there and of those to come, in small letters.
    """

    collection: Collection
    staging: Path
    made: list[Made] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    stems: dict[str, set[str]] = field(default_factory=dict)
    conflicts: list[tuple[int | str, str]] = field(default_factory=list)

    def make(self, item: Item, tool: PictureTool, *, over: bool) -> None:
        opened = open_upright(item.path)
        mask = mask_for(item, opened.image.size)
        cuts = tool.cuts(opened.image)
        opened = tool.colours(opened)
        keeps_name = over and len(cuts) == 1
        names = self._names(item, opened, [""] if keeps_name else _endings(tool.suffix, len(cuts)), over=over)
        new: dict[str, Path] = {}
        coming = [each for name in names for each in (name, mask_name(name)) if each in self.names]
        if coming:
            raise StudioError(f"there will be a file of this name already: {coming[0]}", file=item.path)
        for cut, name in zip(cuts, names):
            new[name] = self._staged(name)
            save_picture(cut.of(opened.image), opened, new[name])
            if mask:
                new[mask_name(name)] = self._staged(mask_name(name))
                save_mask(cut.of(mask), new[mask_name(name)])
            if item.caption_data is not None and not keeps_name:
                caption = os.path.splitext(name)[0] + os.path.splitext(item.caption_name)[1]
                new[caption] = self._staged(caption)
                write_bytes(new[caption], item.caption_data)
        replaced: list[int | str] = []
        if over:
            replaced = [item.id, *([mask_name(item.name)] if mask else [])]
            if not keeps_name and self._caption_users[item.caption_name] == 1:
                replaced.append(item.caption_name)
        self.names |= new.keys()
        self.made.append(Made(item.id, new, tuple(replaced)))

    def _names(self, item: Item, opened: Opened, endings: Sequence[str], *, over: bool) -> list[str]:
        """Free names beside the picture's own; with its own extension, if that is one of its format."""
        own = os.path.splitext(item.file_name)[1]
        extension = own if own.lower() in EXTENSIONS[opened.format] else EXTENSIONS[opened.format][0]
        taken = self._taken(item.folder)
        own_stem = item.stem.casefold() if over else None
        names = []
        for ending in endings:
            stems = (f"{item.stem}{ending}{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
            stem = next(stem for stem in stems if stem.casefold() == own_stem or stem.casefold() not in taken)
            taken.add(stem.casefold())
            names.append(f"{item.folder}/{stem}{extension}" if item.folder else f"{stem}{extension}")
        return names

    def _taken(self, folder: str) -> set[str]:
        """The folder's ``stems``. It is listed once; what comes meanwhile is found when files are brought in."""
        if folder not in self.stems:
            there = os.listdir(self.collection.folder / folder)
            self.stems[folder] = {os.path.splitext(name)[0].casefold() for name in there}
        return self.stems[folder]

    @cached_property
    def _caption_users(self) -> Counter[str]:
        """Caption file -> pictures that have it."""
        return Counter(item.caption_name for item in self.collection.items if item.caption_name)

    def _staged(self, name: str) -> Path:
        return self.staging / f"{uuid.uuid4().hex}{os.path.splitext(name)[1]}"


def _endings(suffix: str, count: int) -> list[str]:
    return [f"-{suffix}"] if count == 1 else [f"-{suffix}-{number}" for number in range(1, count + 1)]


def suggest_box(path: Path, aspect: float) -> Box:
    """The box of ``SmartCrop``, in px of the upright picture, for a person to move."""
    return smart_box(open_upright(path).image, aspect)
