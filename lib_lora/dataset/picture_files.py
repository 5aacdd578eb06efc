"""Pictures as the tools open and write them: upright, in their own colours, in their own format."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.images import to_rgb, upright
from lib_lora.files.atomic import atomic_write, write_bytes
from lib_lora.files.image_header import is_animated, open_image, orientation, unreadable

JPEG_QUALITY = 95
EXTENSIONS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",)}


@dataclass(frozen=True)
class Opened:
    """A picture as a tool sees it: upright, in its own colour mode.

    Attributes:
        format: of the content, "PNG", "JPEG", "WEBP" or "BMP".
        profile: its ICC profile.
        lossless: of a WebP.
    """

    image: Image.Image
    format: str
    profile: bytes | None
    lossless: bool


def open_upright(path: Path) -> Opened:
    """Raises StudioError: it cannot be read, or is animated: a tool would leave one frame of it."""
    try:
        with open_image(path) as image:
            if is_animated(image):
                raise StudioError("it is animated; a tool would leave one frame of it", file=path)
            turn, profile = orientation(image), image.info.get("icc_profile")
            lossless = image.format == "WEBP" and _is_lossless_webp(path)
            file_format = "JPEG" if image.format == "MPO" else image.format
            image.load()
            return Opened(upright(image, turn), file_format, profile, lossless)
    except StudioError:
        raise
    except Exception as fault:  # decoders raise nearly anything on damaged data
        raise unreadable(path, fault) from fault


def _is_lossless_webp(path: Path) -> bool:
    """RFC 9649: behind the 12 bytes of the head come chunks; one of them, VP8L or VP8, is the picture."""
    with open(path, "rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            if chunk[:4] in (b"VP8L", b"VP8 "):
                return chunk[:4] == b"VP8L"
            size = int.from_bytes(chunk[4:], "little")
            file.seek(size + size % 2, 1)
    return False


def save_picture(image: Image.Image, like: Opened, path: Path) -> None:
    """In the format that ``like`` has, atomically. JPEG: quality 95, colours at full resolution."""
    options: dict[str, Any] = {"icc_profile": like.profile} if like.profile else {}
    if like.format == "JPEG":
        options |= {"quality": JPEG_QUALITY, "subsampling": 0}
    elif like.format == "WEBP":
        options |= {"lossless": True} if like.lossless else {"quality": JPEG_QUALITY}
    image.info.pop("exif", None)  # Pillow would write it along, with the rotation that is done already
    with atomic_write(path) as file:
        image.save(file, like.format, **options)


# What the formats that training does not read are saved as. Few on purpose: some of Pillow's readers start programs.
_ORIENTATION_TAG = 0x0112
_OTHER_FORMATS = ("GIF", "TIFF", "TGA", "PPM", "PCX", "ICO", "JPEG", "MPO")


@dataclass(frozen=True)
class Made:
    """Files that come into the dataset together or not at all.

    Attributes:
        of: the id of the picture, or the name of the file, that they were made of.
        files: path in the dataset -> the file, which is moved there.
        replaced: what they take the place of, as ``Collection.add_files`` has it.
    """

    of: int | str
    files: dict[str, Path]
    replaced: tuple[int | str, ...] = ()


def bring_in(
    collection: Collection,
    made: Sequence[Made],
    what: Callable[[int], str],
    conflicts: Sequence[tuple[int | str, str]] = (),
) -> Applied:
    """Bring files into the dataset, as one undoable entry.

    Args:
        what: words for the history, from the number of things that something was made of.
        conflicts: those that there are already.

    Returns:
        ``conflicts`` has those, too, of whose files one has found its name taken meanwhile; the others come in.
    """
    left = list(conflicts)
    while made:
        files = {name: path for each in made for name, path in each.files.items()}
        replaced = [each for one in made for each in one.replaced]
        done = collection.add_files(files, replaced=replaced, what=what(len(made)))
        taken = dict(done.conflicts)
        if done.entry is not None or not any(name in taken for name in files):
            return replace(done, conflicts=[*left, *done.conflicts])
        for each in made:
            for name in [name for name in each.files if name in taken][:1]:
                left.append((each.of, f"{taken[name]}: {name}"))
        made = [each for each in made if taken.keys().isdisjoint(each.files)]
    return Applied(None, what(0), [], conflicts=left)


def convert_files(
    collection: Collection,
    names: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    control: Control | None = None,
) -> Applied:
    """Save pictures that training does not read as PNG, and JPEGs of another extension as ``.jpg``, as they are; the
    old files go to the trash.

    Args:
        names: paths in the dataset of files that are no items.
        control: asked to stop, it leaves out the files that are not done yet.

    Returns:
        ``conflicts`` names those that stay as they are: animated, in a format that is not known here, or with a new
        name that is taken.
    """
    staging = collection.staging()
    made: dict[str, Made] = {}
    conflicts: list[tuple[int | str, str]] = []
    for done, name in enumerate(names):
        if control is not None and control.stopping:
            break
        if progress:
            progress(done, len(names))
        try:
            target, path = _converted(collection.folder / name, staging)
        except StudioError as error:
            conflicts.append((name, error.problem))
            continue
        new = os.path.splitext(name)[0] + target
        if new in made:
            conflicts.append((name, f"there is a file of this name already: {new}"))
        else:
            made[new] = Made(name, {new: path}, (name,))
    return bring_in(collection, list(made.values()), lambda count: f"convert {count} pictures", conflicts)


def _converted(path: Path, staging: Path) -> tuple[str, Path]:
    """(new extension, finished file)"""
    try:
        with Image.open(path, formats=_OTHER_FORMATS) as image:
            if is_animated(image):
                raise StudioError("it has several frames", file=path)
            if image.format in ("JPEG", "MPO"):
                target = staging / f"{uuid.uuid4().hex}.jpg"
                write_bytes(target, path.read_bytes())
                return ".jpg", target
            target = staging / f"{uuid.uuid4().hex}.png"
            if image.mode.startswith("I") and image.getexif().get(_ORIENTATION_TAG, 1) != 1:
                raise StudioError("it is turned by a tag and has 16 bits", file=path)  # Pillow's versions differ there
            image.load()  # which turns a TIFF upright
            stored = _for_png(image)
            profile = image.info.get("icc_profile") if stored.mode == image.mode else None
            save_picture(stored, Opened(stored, "PNG", profile, True), target)
            return ".png", target
    except StudioError:
        raise
    except Exception as fault:  # decoders raise nearly anything on damaged data
        raise StudioError(f"it cannot be converted ({str(fault) or type(fault).__name__})", file=path) from fault


def _for_png(image: Image.Image) -> Image.Image:
    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        return image
    if image.mode.startswith("I;16"):  # the bytes the other way round
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return to_rgb(image)
