"""Pictures that come from elsewhere: the WebUI's results, files that are dropped onto the page."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path, PurePath
from threading import Lock
from typing import TYPE_CHECKING, Any

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import safe_name, write_bytes, write_text
from lib_lora.files.image_header import PICTURE_EXTENSIONS
from lib_lora.text.infotext import caption_of, prompt_of

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Collection

_EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_UNICODE = b"UNICODE\0"
_NAMING = Lock()  # between looking for a free name and taking it


def add_picture(
    folder: Path, name: str, data: bytes, caption: str | None = None, collection: Collection | None = None
) -> Path:
    """Write a picture into a dataset's folder, beside what is there, and its caption beside it.

    Args:
        folder: it exists.
        name: what the picture is called elsewhere; a number is added where that name is taken, be it by a picture
            with another ending. The ending becomes that of the picture's true format.
        data: the file's bytes, which are kept.
        caption: its caption; empty for none, None: the prompt that the WebUI has written into the picture.
        collection: the open dataset in which ``folder`` lies: its history has the picture then.

    Returns:
        The picture's path.

    Raises:
        StudioError: ``data`` is no whole picture of a format that training reads, or the name or the folder cannot
            be used; nothing is written then.
    """
    try:
        with Image.open(io.BytesIO(data), formats=list(_EXTENSIONS)) as picture:
            picture.load()
            ending = _EXTENSIONS[picture.format]
            text = caption_of(prompt_of(infotext_of(picture))) if caption is None else caption.strip()
    except StudioError:
        raise
    except Exception as fault:  # damaged files raise nearly anything
        raise StudioError(
            f"is no picture that can be read ({fault})", field="data", came=name, allowed="a PNG, JPEG or WebP file"
        ) from fault
    stem = safe_name(PurePath(name).stem, field="name")
    with _NAMING:
        path = folder / f"{_free_stem(folder, stem)}{ending}"
        if collection is not None:
            _add_to(collection, path, data, text)
            return path
        # The caption first: a picture is never there without it.
        if text:
            write_text(path.with_suffix(".txt"), text + "\n")
        write_bytes(path, data)
    return path


def _add_to(collection: Collection, path: Path, data: bytes, caption: str) -> None:
    name = path.relative_to(collection.folder).as_posix()
    staged = collection.staging() / f"{uuid.uuid4().hex}{path.suffix}"
    write_bytes(staged, data)
    captions = {name: caption} if caption else None
    done = collection.add_files({name: staged}, captions=captions, what=f"add {path.name}")
    if done.conflicts:
        raise StudioError(f"not added: {done.conflicts[0][1]}", field="name", came=name)


def infotext_of(picture: Image.Image) -> str:
    """What A1111 wrote into an opened picture, "" where that is nothing: a PNG's chunk ``parameters``, else EXIF's
    UserComment (``modules/images.py``, ``save_image_with_geninfo``)."""
    text = picture.info.get("parameters")
    if isinstance(text, str):
        return text
    comment: Any = picture.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    if isinstance(comment, bytes) and comment.startswith(_UNICODE):
        return comment[len(_UNICODE) :].decode("utf-16-be", "replace")
    return ""


def _free_stem(folder: Path, stem: str) -> str:
    """``stem``, or with the first number that no picture or caption has; names that differ in case only are one."""
    taken = {
        os.path.splitext(name)[0].lower()
        for name in os.listdir(folder)
        if os.path.splitext(name)[1].lower() in {*PICTURE_EXTENSIONS, ".txt", ".caption"}
    }
    number, free = 1, stem
    while free.lower() in taken:
        number += 1
        free = f"{stem}-{number}"
    return free
