"""The pictures of a folder with their captions, as an editor wants them; nothing is decoded.

Unlike ``records.scan``, which says what training takes, damaged pictures and captions are listed too, and every folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lib_lora.base.errors import StudioError
from lib_lora.dataset.pairs import CaptionPairs
from lib_lora.dataset.records import CAPTION_EXTENSIONS, MASK_FOLDER, REG_FOLDER_NAMES, repeats_and_name
from lib_lora.dataset.tags import split_caption
from lib_lora.files.captions import decode_text, parse_caption
from lib_lora.files.image_header import PICTURE_EXTENSIONS, ImageHeader, read_header
from lib_lora.files.stamps import Stamp
from lib_lora.files.walk import walk

EMPTY_CAPTION = "the caption file is empty"
_LEADS_OUT = "a link to outside the host's folders; left out"
_RECENT_NS = 2_000_000_000  # FAT keeps times to 2 s: what was written in the same 2 s may have changed unseen

_READERS, _SHARE = 8, 50  # threads, and the pictures that one reads at a time
_WAITING = 3  # times the processor's time: less than that others that want the processor take, and no disk

S, R = TypeVar("S"), TypeVar("R")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of an open dataset.

    Attributes:
        id: the same while the dataset is open.
        root: the dataset's folder.
        name: the path in it, with ``/``.
        caption: the first line of the caption file; None where there is none, or none that can be read.
        caption_name: the caption file's path in the dataset.
        caption_data: the caption file's bytes as they were read.
        lines_unused: further lines of the caption file, which training does not read.
        tags: the caption's parts that are no sentences.
        prose: its sentences.
        width_px, height_px: as a viewer shows the picture; 0 where it cannot be read.
        mode: Pillow's mode of the stored pixels.
        bytes, modified_ns: of the picture's file.
        repeats: how often an epoch shows it; 0 where its folder is not trained on.
        concept: the folder's name without its repeat count.
        regularisation: it lies in a folder of regularisation pictures.
        picture_problem, caption_problem: why it cannot be read.
    """

    id: int
    root: str
    name: str
    caption: str | None
    caption_name: str | None
    caption_data: bytes | None = field(repr=False)
    lines_unused: int
    tags: tuple[str, ...]
    prose: str
    width_px: int
    height_px: int
    mode: str
    animated: bool
    bytes: int
    modified_ns: int
    repeats: int
    concept: str
    regularisation: bool
    picture_problem: str | None
    caption_problem: str | None

    @property
    def path(self) -> Path:
        return Path(self.root, self.name)

    @property
    def caption_path(self) -> Path | None:
        return None if self.caption_name is None else Path(self.root, self.caption_name)

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def file_name(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return os.path.splitext(self.file_name)[0]

    @property
    def characters(self) -> int:
        return len(self.caption or "")

    @property
    def modified(self) -> float:
        """Seconds since 1970."""
        return self.modified_ns / 1e9

    @property
    def problem(self) -> str | None:
        return self.picture_problem or self.caption_problem


@dataclass(frozen=True, slots=True)
class CaptionRead:
    """A caption file as it was read; ``data`` None: there is no such file."""

    data: bytes | None = None
    text: str | None = None
    lines_unused: int = 0
    problem: str | None = None


def caption_of(data: bytes, path: str | Path) -> CaptionRead:
    """What the bytes of a caption file say."""
    try:
        caption = parse_caption(decode_text(data, path))
    except StudioError as fault:
        return CaptionRead(data, problem=f"the caption cannot be read: {fault.problem}")
    return CaptionRead(data, caption.text, caption.lines_unused, None if caption.text else EMPTY_CAPTION)


def read_files(
    root: str,
    headers: HeaderCache,
    pictures: Sequence[PictureFile],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, CaptionRead]:
    """The captions of pictures, by the caption files' names; their headers are in ``headers`` afterwards. Several at a
    time: a disk that is slow to answer, or far away, answers many as soon as one.

    Args:
        progress: called with the number of pictures read.
    """

    def read(share: Sequence[PictureFile]) -> dict[str, CaptionRead]:
        for picture in share:
            headers.header(os.path.join(root, picture.name), picture.name, picture.stamp)
        names = dict.fromkeys(picture.captions[0] for picture in share if picture.captions)
        return {name: read_caption_file(os.path.join(root, name)) for name in names}

    shares = [pictures[start : start + _SHARE] for start in range(0, len(pictures), _SHARE)]
    found: dict[str, CaptionRead] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for number, captions in enumerate(_soon(read, shares, pool), 1):
            found |= captions
            progress(min(number * _SHARE, len(pictures)))
    return found


def _soon(read: Callable[[S], R], shares: Sequence[S], pool: ThreadPoolExecutor) -> Iterator[R]:
    """``read(share)`` of each. As long as there is little to wait for one thread does it all: several would only wait
    for one another."""
    for number, share in enumerate(shares, 1):
        began, worked = time.perf_counter(), time.thread_time()
        yield read(share)
        worked, took = time.thread_time() - worked, time.perf_counter() - began
        if took > _WAITING * worked:
            yield from pool.map(read, shares[number:])
            return


def read_caption_file(path: str | Path) -> CaptionRead:
    """A caption file's content; a missing one has no data, and neither has one that the system does not give."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError:
        return CaptionRead()
    except OSError as fault:
        return CaptionRead(problem=f"the caption cannot be read: {fault.strerror or fault}")
    return caption_of(data, path)


@dataclass(frozen=True, slots=True)
class PictureFile:
    """What the folder alone says of a picture: no file is opened for it."""

    name: str
    stamp: Stamp
    captions: tuple[str, ...]  # names in the dataset, the one that counts first
    repeats: int
    concept: str
    regularisation: bool


@dataclass
class Listing:
    """A folder's picture files and caption files.

    Attributes:
        pictures: by name, in no order.
        stamps: of the caption files that count.
        orphans: caption files without a picture.
        faults: what could not be looked at, one sentence each.
    """

    pictures: dict[str, PictureFile] = field(default_factory=dict)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def list_pictures(
    root: Path, *, recursive: bool, caption_extension: str, is_allowed: Callable[[str], bool] | None = None
) -> Listing:
    """What lies in ``root`` now. Hidden names and masks are left out; links to folders are followed once.

    Args:
        is_allowed: of a path with links followed: whether what lies there may be shown; None: all may.
    """
    listing = Listing()
    extensions = {*CAPTION_EXTENSIONS, caption_extension}
    found = list(_folders(root, recursive, extensions, listing.faults, is_allowed))
    flat = not any(isinstance(repeats_and_name(_name(root, place)), tuple) for place, pictures, _ in found if pictures)
    for place, pictures, captions in found:
        _list_folder(listing, root, place, (pictures, captions), caption_extension, flat=flat)
    return listing


def _folders(
    root: Path,
    recursive: bool,
    extensions: set[str],
    faults: list[str],
    is_allowed: Callable[[str], bool] | None,
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folder, its pictures, its caption files."""
    for place, folders, files in walk(root):
        if is_allowed is not None:
            if not is_allowed(os.path.realpath(place)):
                faults.append(f"{place}: {_LEADS_OUT}")
                folders.clear()
                continue
            out = _links_out(place, is_allowed)
            faults += [f"{os.path.join(place, name)}: {_LEADS_OUT}" for name in files if name in out]
            files = [name for name in files if name not in out]
        folders[:] = [name for name in folders if name != MASK_FOLDER and is_text(name)] if recursive else []
        pictures, captions = [], []
        for name in files:
            if name.startswith("."):
                continue
            extension = "." + name.rpartition(".")[2].lower()
            if not (name.isascii() or is_text(name)):
                faults.append(f"{os.path.join(place, name)!a}: the name is not text; rename it to use it")
                continue
            if extension in PICTURE_EXTENSIONS:
                pictures.append(name)
            elif extension in extensions:
                captions.append(name)
        yield place, pictures, captions


def _links_out(place: Path, is_allowed: Callable[[str], bool]) -> set[str]:
    """Names in a folder of links that lead to where one may not look."""
    try:
        with os.scandir(place) as entries:
            links = [entry.path for entry in entries if entry.is_symlink()]
    except OSError:  # gone since the folder was listed, and so are its files
        return set()
    return {os.path.basename(path) for path in links if not is_allowed(os.path.realpath(path))}


def _list_folder(
    listing: Listing,
    root: Path,
    place: Path,
    files: tuple[list[str], list[str]],
    caption_extension: str,
    *,
    flat: bool,
) -> None:
    pictures, captions = files
    prefix = "" if place == root else f"{place.relative_to(root).as_posix()}/"
    pairs = CaptionPairs(pictures, captions, caption_extension)
    repeats, concept = _repeats(root, place, flat=flat)
    regularisation = any(part.lower() in REG_FOLDER_NAMES for part in prefix.split("/"))
    for name in pictures:
        stamp = _stamp(listing, f"{place}{os.sep}{name}")
        if stamp is None:
            continue
        own = tuple(prefix + caption for caption in pairs.of(name))
        if own and own[0] not in listing.stamps:
            caption_stamp = _stamp(listing, f"{place}{os.sep}{own[0][len(prefix) :]}")
            if caption_stamp is not None:
                listing.stamps[own[0]] = caption_stamp
        listing.pictures[prefix + name] = PictureFile(prefix + name, stamp, own, repeats, concept, regularisation)
    listing.orphans += [prefix + name for name in pairs.orphans()]


def is_text(name: str) -> bool:
    """Whether a file's name can be shown and sent; on Linux it may be any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _stamp(listing: Listing, path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:  # a link to nothing, or gone since the folder was listed
        return None
    except OSError as fault:
        listing.faults.append(f"{path}: {fault.strerror or fault}")
        return None
    return status.st_size, status.st_mtime_ns


def _name(root: Path, place: Path) -> str:
    return os.path.basename(os.path.abspath(root)) if place == root else place.name


def _repeats(root: Path, place: Path, *, flat: bool) -> tuple[int, str]:
    """(repeats, concept) as ``records.scan`` has them; 0 repeats where it leaves the folder out."""
    name = _name(root, place)
    found = repeats_and_name(name)
    if isinstance(found, tuple):
        return found
    return (1 if flat and place == root else 0), name


class HeaderCache:
    """Headers of pictures, kept in a file for as long as size and time of the pictures stay the same. Several threads
    may ask."""

    _VERSION = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = _read_json(path).get(str(self._VERSION), {})
        self._used: dict[str, _Header] = {}

    def header(self, path: str, name: str, stamp: Stamp) -> tuple[ImageHeader | None, str | None]:
        """The header, or what is wrong with the picture."""
        used = self._used.get(name)
        if used is None or used[0] != stamp:
            used = self._used[name] = (stamp, *(self._kept(name, stamp) or _read_header(path)))
        return used[1], used[2]

    def _kept(self, name: str, stamp: Stamp) -> tuple[ImageHeader | None, str | None] | None:
        """What an earlier process has read; None where the picture is another since."""
        known = self._known.get(name, [])
        if len(known) != _FIELDS or tuple(known[:2]) != stamp:
            return None
        _, _, width, height, mode, animated, problem = known
        return (None, problem) if problem else (ImageHeader(width, height, sys.intern(mode), animated), None)

    def content(self) -> bytes | None:
        """The file's new content; None where it would be the old one. Pictures not asked for are forgotten."""
        # What was written just now may change again within the same tick of the clock.
        limit = time.time_ns() - _RECENT_NS
        kept = {name: _to_json(used) for name, used in self._used.items() if used[0][1] < limit}
        if kept == self._known:
            return None
        self._known = kept
        return json.dumps({str(self._VERSION): kept}, separators=(",", ":")).encode("ascii")


_FIELDS = 7
_Header = tuple[Stamp, "ImageHeader | None", "str | None"]  # as it was when the header was read; and what is wrong


def _to_json(read: _Header) -> list[Any]:
    stamp, header, problem = read
    if header is None:
        return [*stamp, 0, 0, "", False, problem]
    return [*stamp, header.width_px, header.height_px, header.mode, header.animated, None]


def _read_header(path: str) -> tuple[ImageHeader | None, str | None]:
    try:
        return read_header(path), None
    except StudioError as fault:
        return None, fault.problem


def _read_json(path: Path) -> dict[str, Any]:
    """A cache's content; nothing where it is missing or damaged, for then it is made anew."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass
class ItemMaker:
    """Makes items of what a listing says, the cached headers and the caption files.

    Tags that are equal are one object, so that ten thousand captions take little memory.
    """

    root: str
    headers: HeaderCache
    _tags: dict[str, str] = field(default_factory=dict)

    def make(self, number: int, file: PictureFile, caption: CaptionRead) -> Item:
        header, problem = self.headers.header(os.path.join(self.root, file.name), file.name, file.stamp)
        return Item(
            id=number,
            root=self.root,
            name=file.name,
            caption=caption.text,
            caption_name=file.captions[0] if file.captions else None,
            caption_data=caption.data,
            lines_unused=caption.lines_unused,
            **self.parts(caption.text),
            width_px=header.width_px if header else 0,
            height_px=header.height_px if header else 0,
            mode=header.mode if header else "",
            animated=header.animated if header else False,
            bytes=file.stamp[0],
            modified_ns=file.stamp[1],
            repeats=file.repeats,
            concept=file.concept,
            regularisation=file.regularisation,
            picture_problem=problem,
            caption_problem=caption.problem,
        )

    def parts(self, caption: str | None) -> dict[str, Any]:
        """``tags`` and ``prose`` of a caption."""
        found = split_caption(caption or "")
        tags = found.tags
        return {"tags": tuple(map(self._tags.setdefault, tags, tags)), "prose": found.prose}


def is_recent(stamp: Stamp, now_ns: int) -> bool:
    """Whether the file may have changed since, and its stamp not."""
    return stamp[1] > now_ns - _RECENT_NS
