"""What can only be known of a picture by decoding it: whether it is whole, what it looks like, what is odd about it.

Each picture is read once, by several threads (Pillow decodes outside of Python's lock), and remembered by size and time
of change.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.packages import how_to_add
from lib_lora.base.signals import Control
from lib_lora.dataset.images import to_rgb, upright
from lib_lora.files.atomic import write_text
from lib_lora.files.image_header import is_animated, open_image, orientation, unreadable

STORE_NAME = "picture_facts.json"
_VERSION = 2
_HASH_SIDE = 8
_COLOUR_FIELDS = (4, 4)
_DRAFT_PX = 128  # phash works on 32 x 32; from four times that a JPEG's own reduction does not show in the hash
_PNG_BIT_DEPTH = 24  # the byte of a PNG's IHDR chunk
_SAVE_EVERY = 1000
_MAX_THREADS = 4


class PictureFacts(NamedTuple):
    """Attributes:
    problem: why it cannot be read; all else is empty then.
    perceptual_hash: 64 bits of ``imagehash.phash`` of the upright picture on white; it knows no colours.
    colours: the mean RGB of each of 4 x 4 fields of it, row by row, as 96 hexadecimal digits.
    mode: Pillow's mode of the stored pixels.
    bits: of a colour channel, 8 or 16.
    orientation: EXIF's, 1 to 8.
    transparent: some pixel is not fully opaque.
    animated: it has several frames.
    """

    problem: str | None
    perceptual_hash: int = 0
    colours: str = "00" * 48
    mode: str = ""
    bits: int = 8
    orientation: int = 1
    transparent: bool = False
    animated: bool = False


def read_facts(path: Path) -> PictureFacts:
    """Decode the picture, a JPEG at the smallest size that suffices; never raises for what the file holds."""
    try:
        with open_image(path) as image:
            header = (image.mode, _bits(path, image), orientation(image))
            animated = is_animated(image)
            image.draft(None, (_DRAFT_PX, _DRAFT_PX))
            image.load()
            seen = upright(to_rgb(_reduced(image)), header[2])
            return PictureFacts(None, perceptual_hash(seen), _colours(seen), *header, _is_transparent(image), animated)
    except StudioError as error:
        return PictureFacts(error.problem)
    except Exception as fault:  # decoders raise nearly anything on damaged data
        return PictureFacts(unreadable(path, fault).problem)


def _reduced(image: Image.Image) -> Image.Image:
    """At least ``_DRAFT_PX`` on its short side, by means of whole boxes, which is quick; other modes as they are."""
    factor = min(image.size) // _DRAFT_PX
    if factor < 2 or image.mode not in ("L", "RGB", "RGBA") or "transparency" in image.info:
        return image
    return image.reduce(factor)


def perceptual_hash(image: Image.Image) -> int:
    """``imagehash.phash``: signs of the 8 x 8 lowest cosine waves of the grey picture at 32 x 32, against their median.

    The first bit is the highest.
    """
    import imagehash  # of what only one feature wants; ``facts_of`` says so where it is missing

    bits = imagehash.phash(image, hash_size=_HASH_SIDE).hash.flatten()
    return sum(1 << (63 - place) for place, bit in enumerate(bits) if bit)


def _colours(image: Image.Image) -> str:
    return image.resize(_COLOUR_FIELDS, Image.Resampling.BOX).tobytes().hex()


def _bits(path: Path, image: Image.Image) -> int:
    """Pillow reads a 16-bit colour PNG as 8 bits and says so nowhere."""
    if image.mode.startswith("I"):
        return 16
    if image.format != "PNG":
        return 8
    with open(path, "rb") as file:
        start = file.read(_PNG_BIT_DEPTH + 1)
    return max(8, start[_PNG_BIT_DEPTH])


def _is_transparent(image: Image.Image) -> bool:
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if "A" not in image.getbands():
        return False
    return image.getchannel("A").getextrema()[0] < 255


def facts_of(
    paths: Sequence[Path],
    store: FactStore,
    *,
    progress: Callable[[int, int], None] | None = None,
    control: Control | None = None,
) -> list[PictureFacts] | None:
    """The facts of each picture, from the store where the file is as it was.

    Returns:
        None when ``control`` was asked to stop; what was read so far is kept.

    Raises:
        StudioError: ImageHash is not installed.
    """
    if find_spec("imagehash") is None:
        raise StudioError("a package is missing: ImageHash", allowed=how_to_add("ImageHash"))
    marks = [_mark(path) for path in paths]  # before they are read: what changes meanwhile is read again next time
    known = [store.get(path, mark) for path, mark in zip(paths, marks)]
    missing = [place for place, facts in enumerate(known) if facts is None]
    done = len(paths) - len(missing)
    if progress:
        progress(done, len(paths))
    try:
        for place, facts in _read_all(paths, missing):
            known[place] = facts
            store.put(paths[place], marks[place], facts)
            done += 1
            if progress:
                progress(done, len(paths))
            if control is not None and control.stopping:
                return None
    finally:
        store.save()
    return known  # type: ignore[return-value]  # none is missing now


def _read_all(paths: Sequence[Path], places: Sequence[int]) -> Iterator[tuple[int, PictureFacts]]:
    threads = max(1, min(_MAX_THREADS, os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, "picture facts") as pool:
        # In small lots, so that a stop need not wait for thousands.
        for start in range(0, len(places), 8 * threads):
            lot = places[start : start + 8 * threads]
            yield from zip(lot, pool.map(lambda place: read_facts(paths[place]), lot))


class FactStore:
    """What was found out, in a JSON file that may be deleted at any time; without a file it is kept for once.

    Args:
        file: in the dataset's hidden folder; None where nothing can be written.
        root: names in the file are relative to it.
    """

    def __init__(self, file: Path | None, root: Path) -> None:
        self._file, self._root = file, root
        self._entries: dict[str, list] = dict(_read_store(file)) if file else {}
        self._unsaved = 0

    def get(self, path: Path, mark: list[int] | None) -> PictureFacts | None:
        entry = self._entries.get(self._name(path))
        return PictureFacts(*entry[2:]) if entry and mark and entry[:2] == mark else None

    def put(self, path: Path, mark: list[int] | None, facts: PictureFacts) -> None:
        if mark is not None:
            self._entries[self._name(path)] = [*mark, *facts]
            self._unsaved += 1
        if self._unsaved >= _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        if self._file is None or not self._unsaved:
            return
        with contextlib.suppress(OSError, StudioError):  # it only saves time
            self._file.parent.mkdir(exist_ok=True)
            write_text(self._file, json.dumps({"version": _VERSION, "pictures": self._entries}))
            self._unsaved = 0

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self._root).replace(os.sep, "/")


def _mark(path: Path) -> list[int] | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return [now.st_size, now.st_mtime_ns]


def _read_store(file: Path) -> Mapping[str, list]:
    """Nothing where the file is missing, damaged or of another version."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return {}
    length = 2 + len(PictureFacts._fields)
    return {name: entry for name, entry in document.get("pictures", {}).items() if len(entry) == length}
