"""From a folder to a list of pictures with captions and repeats, and of all that was left out.

The layout is sd-scripts': folders called ``<repeats>_<name>``, at any depth, or one flat folder of pictures.
"""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.dataset.pairs import CaptionPairs
from lib_lora.files.captions import read_caption
from lib_lora.files.image_header import PICTURE_EXTENSIONS, ImageHeader, read_header

CAPTION_EXTENSIONS = (".txt", ".caption")
REG_FOLDER_NAMES = frozenset({"reg", "regularization", "regularisation", "reg_data"})
HOME = ".lora_studio"  # the folder in a dataset that holds the editor's journal, trash and caches
MASK_FOLDER = "masks"  # beside the pictures: <stem>.png, grey, of the upright picture's size, white = the loss counts
SETTINGS_FILE = "lora_studio.toml"  # beside the pictures: options that the folder has for itself
MAX_REPEATS = 10_000
OTHER_PICTURE_EXTENSIONS = frozenset(
    {
        ".avif",
        ".clip",
        ".dng",
        ".gif",
        ".heic",
        ".heif",
        ".ico",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jxl",
        ".kra",
        ".nef",
        ".pcx",
        ".ppm",
        ".psd",
        ".svg",
        ".tga",
        ".tif",
        ".tiff",
        ".xcf",
    }
)

_REPEATS_NAME = re.compile(r"([0-9]+)_(.*)", re.DOTALL)
_ORPHANS = "caption files without a picture"
_MAX_FAULTS_SHOWN = 10
_MAX_NAMES_SHOWN = 5


@dataclass(frozen=True)
class ImageRecord:
    """One picture as training sees it.

    Attributes:
        path: the picture.
        caption: from the caption file, else the folder's name; one line, unless ``scan`` was asked for all.
        width_px, height_px: after EXIF rotation.
        repeats: how often an epoch shows it.
        regularisation: it holds the model's idea of the class, with ``prior_loss_weight``.
        concept: the folder's name without its repeat count.
        mask: a picture that says where the loss counts.
        settings: the file of options that the picture's folder has for itself.
    """

    path: Path
    caption: str
    width_px: int
    height_px: int
    repeats: int
    regularisation: bool
    concept: str
    mask: Path | None = None
    settings: Path | None = None


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that training will not use, and why. No error: a person may want it so.

    Attributes:
        kind: "hidden", "format" (a picture, but of none that is read), "folder" (its folder's name has no usable
            repeat count), "regularisation", "twice" (read already by another way) or "other use".
    """

    path: Path
    reason: str
    kind: str


@dataclass(frozen=True)
class Fault:
    """A file that training would use and cannot."""

    path: Path
    problem: str


@dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
        folder: the folder that was given.
        option: the option that gave it ("train_data_dir" or "reg_data_dir").
        records: the pictures to use, in natural order of their paths, the same on every system.
        left_out: everything picture-like that is not used.
        faults: damaged pictures and captions; ``raise_for_faults`` refuses to go on with them.
        notes: what a person should know, one sentence each.
        reg_folders: folders of regularisation pictures found inside, to be offered as ``reg_data_dir``.
    """

    folder: Path
    option: str
    records: tuple[ImageRecord, ...]
    left_out: tuple[LeftOut, ...] = ()
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    reg_folders: tuple[Path, ...] = ()

    def without_faults(self) -> Scan:
        """What is sound of it."""
        return dataclasses.replace(self, faults=())

    def raise_for_faults(self) -> None:
        """Raises one StudioError that counts the faults and names the first of them; nothing where there is none."""
        if not self.faults:
            return
        lines = [f"  {fault.path}: {fault.problem}" for fault in self.faults[:_MAX_FAULTS_SHOWN]]
        if len(self.faults) > _MAX_FAULTS_SHOWN:
            lines.append(f"  and {len(self.faults) - _MAX_FAULTS_SHOWN} more")
        count = f"{len(self.faults)} files" if len(self.faults) > 1 else "a file"
        raise StudioError(f"{count} cannot be used; mend or remove:\n" + "\n".join(lines), field=self.option)


def scan(
    folder: str | Path,
    *,
    caption_extension: str = ".txt",
    regularisation: bool = False,
    default_repeats: int = 1,
    all_lines: bool = False,
    exclude: Iterable[str | Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """The pictures of ``folder``, from their names, headers and captions; no pixel is decoded.

    Args:
        folder: a ``<repeats>_<name>`` folder, a folder that has such folders at any depth, or a flat folder.
        caption_extension: of ".txt" and ".caption", the one that wins where a picture has both.
        regularisation: the folder is ``reg_data_dir``.
        default_repeats: for a flat folder, whose name has no repeat count.
        all_lines: captions keep all their lines; otherwise the first one counts.
        exclude: folders inside that are something else (``reg_data_dir``, ``output_dir``); left out, and said so.
        progress: called with (pictures read, pictures in all).

    Raises:
        StudioError: no such folder, or no picture to use in it. Faults of single files are collected instead.
    """
    option = "reg_data_dir" if regularisation else "train_data_dir"
    root = _checked_root(folder, option)
    if caption_extension.lower() not in CAPTION_EXTENSIONS:
        raise StudioError("not allowed", field="caption_extension", came=caption_extension, allowed=CAPTION_EXTENSIONS)
    finds = _Finds(caption_extension.lower(), regularisation, all_lines)
    tree = _Tree(root, finds, {os.path.realpath(path) for path in exclude})
    used = _choose_folders(tree.listings, option, default_repeats, finds)
    total = sum(len(listing.pictures) for listing, _, _ in used)
    if not total:
        raise _no_pictures(root, option, finds.left_out)
    done = 0
    for listing, repeats, concept in used:
        for record in _read_folder(listing, repeats, concept, finds):
            if record is not None:
                finds.records.append(record)
            done += 1
            if progress:
                progress(done, total)
    return Scan(
        root,
        option,
        tuple(finds.records),
        tuple(finds.left_out),
        tuple(finds.faults),
        tuple(finds.all_notes()),
        tuple(finds.reg_folders),
    )


_NUMBERS = re.compile("([0-9]+)")


def natural_key(text: str) -> tuple:
    """Sort key: digits count as numbers, case does not matter, and no two different texts are equal."""
    parts = _NUMBERS.split(unicodedata.normalize("NFC", text).casefold())
    # split puts what the group matched at the odd places.
    ranks = tuple((0, int(part), "") if place % 2 else (1, 0, part) for place, part in enumerate(parts) if part)
    return ranks, text


def grouped(left_out: Sequence[LeftOut]) -> list[str]:
    """One line per reason, with the number of files and the first names."""
    by_reason: dict[str, list[Path]] = defaultdict(list)
    for item in left_out:
        by_reason[item.reason].append(item.path)
    return [f"{names_of(paths)}: {reason}" for reason, paths in by_reason.items()]


@dataclass
class _Listing:
    """One folder's own entries, by kind, each in natural order."""

    path: str
    name: str
    is_root: bool
    pictures: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


@dataclass
class _Finds:
    """What a scan gathers on its way."""

    caption_extension: str
    regularisation: bool
    all_lines: bool
    records: list[ImageRecord] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    reg_folders: list[Path] = field(default_factory=list)
    notes: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def leave_out(self, folder: str, name: str, kind: str, reason: str) -> None:
        self.left_out.append(LeftOut(Path(folder, name), reason, kind))

    def all_notes(self) -> list[str]:
        return [f"{names_of(paths)}: {text}" for text, paths in self.notes.items()]


class _Tree:
    """The listings of a folder and of all folders below it, root first, depth first, in natural order."""

    def __init__(self, root: Path, finds: _Finds, excluded: set[str]) -> None:
        self.listings: list[_Listing] = []
        self._finds = finds
        self._excluded = excluded
        self._seen: set[str] = set()
        self._walk(str(root), os.path.basename(os.path.abspath(root)))

    def _walk(self, path: str, name: str) -> None:
        real = os.path.realpath(path)
        if real in self._seen:
            self._finds.leave_out(path, "", "twice", "a link to a folder that is read already")
            return
        self._seen.add(real)
        try:
            listing = self._list(path, name)
        except OSError as fault:
            self._finds.faults.append(Fault(Path(path), f"the folder cannot be read: {fault.strerror or fault}"))
            return
        self.listings.append(listing)
        for folder in listing.folders:
            below = os.path.join(path, folder)
            if not self._leave_out_folder(below, folder):
                self._walk(below, folder)

    def _list(self, path: str, name: str) -> _Listing:
        listing = _Listing(path, name, is_root=not self.listings)
        with os.scandir(path) as entries:
            found = sorted(((entry.name, entry.is_dir()) for entry in entries), key=lambda item: natural_key(item[0]))
        for entry, is_folder in found:
            extension = os.path.splitext(entry)[1].lower()
            if is_folder:
                listing.folders.append(entry)
            elif entry.startswith("."):
                if extension in PICTURE_EXTENSIONS:
                    self._finds.leave_out(path, entry, "hidden", "hidden file")
            elif extension in PICTURE_EXTENSIONS:
                listing.pictures.append(entry)
            elif extension in CAPTION_EXTENSIONS:
                listing.captions.append(entry)
            elif extension in OTHER_PICTURE_EXTENSIONS:
                self._finds.leave_out(path, entry, "format", f"{extension} is not read; save as png, jpg, webp or bmp")
        return listing

    def _leave_out_folder(self, path: str, name: str) -> bool:
        """Whether this folder and all below it are left out; if so, it is said, but for masks and what is ours."""
        if name.startswith("."):
            if name != HOME:
                self._finds.leave_out(path, "", "hidden", "hidden folder")
            return True
        if name == MASK_FOLDER:
            return True
        if os.path.realpath(path) in self._excluded:
            self._finds.leave_out(path, "", "other use", "used for something else by another option")
            return True
        if name.lower() in REG_FOLDER_NAMES and not self._finds.regularisation:
            pictures = _count_pictures(path)
            if pictures:
                self._finds.reg_folders.append(Path(path))
                self._finds.leave_out(
                    path,
                    "",
                    "regularisation",
                    f"{pictures} regularisation pictures, never training data; to use them give it as reg_data_dir",
                )
            return True
        return False


def _count_pictures(path: str) -> int:
    return sum(
        os.path.splitext(name)[1].lower() in PICTURE_EXTENSIONS and not name.startswith(".")
        for _, _, names in os.walk(path)
        for name in names
    )


def _checked_root(folder: str | Path, option: str) -> Path:
    root = Path(folder)
    if not root.exists():
        raise StudioError("the folder does not exist", field=option, file=root)
    if not root.is_dir():
        raise StudioError("this is a file; a folder is wanted", field=option, file=root)
    return root


def _choose_folders(
    listings: list[_Listing], option: str, default_repeats: int, finds: _Finds
) -> list[tuple[_Listing, int, str]]:
    """The folders whose pictures are used, each with its repeats and concept; the others' pictures are left out."""
    with_pictures = [listing for listing in listings if listing.pictures]
    repeats_of = {listing.path: repeats_and_name(listing.name) for listing in with_pictures}
    flat = not any(isinstance(repeats, tuple) for repeats in repeats_of.values())
    used = []
    for listing in with_pictures:
        repeats = repeats_of[listing.path]
        if isinstance(repeats, tuple):
            used.append((listing, *repeats))
        elif listing.is_root and _REPEATS_NAME.fullmatch(listing.name):
            raise StudioError(repeats, field=option, file=listing.path)
        elif listing.is_root and flat:
            used.append((listing, default_repeats, listing.name))
        else:
            beside = f"beside <repeats>_<name> folders, not in one of them ({listing.path})"
            reason = beside if listing.is_root else repeats
            for name in listing.pictures:
                finds.leave_out(listing.path, name, "folder", reason)
    return used


def repeats_and_name(folder_name: str) -> tuple[int, str] | str:
    """(repeats, name) from ``<repeats>_<name>``, or what is wrong with the folder's name."""
    match = _REPEATS_NAME.fullmatch(folder_name)
    if not match:
        return f"the folder's name has no repeat count; call it 1_{folder_name} to use it"
    digits, name = match[1].lstrip("0"), match[2].strip()
    if not digits:
        return f"the folder's name says 0 repeats: {folder_name}"
    if len(digits) > len(str(MAX_REPEATS)) or int(digits) > MAX_REPEATS:
        return f"the folder's name says {match[1]} repeats, more than {MAX_REPEATS}: {folder_name}"
    if not name:
        return f"the folder's name has nothing after the repeat count: {folder_name}"
    return int(digits), name


def _no_pictures(root: Path, option: str, left_out: list[LeftOut]) -> StudioError:
    lines = "".join(f"\n  {line}" for line in grouped(left_out)[:_MAX_FAULTS_SHOWN])
    problem = "no pictures to use" + (f"; left out:{lines}\n" if lines else "")
    wanted = ", ".join(extension[1:] for extension in PICTURE_EXTENSIONS)
    allowed = f"{wanted} files in the folder or in <repeats>_<name> folders below it"
    return StudioError(problem, field=option, file=root, allowed=allowed)


def _read_folder(listing: _Listing, repeats: int, concept: str, finds: _Finds) -> Iterator[ImageRecord | None]:
    """One item per picture: its record, or None after its faults were filed."""
    captions = _CaptionFinder(listing, finds)
    settings = Path(listing.path, SETTINGS_FILE)
    settings = settings if settings.is_file() else None
    for name in listing.pictures:
        path = Path(listing.path, name)
        header, caption = _read_header(path, finds), _caption_of(path, captions.of(name), concept, finds)
        if header is None or caption is None:
            yield None
            continue
        if header.animated:
            finds.notes["animated; the first frame is used"].append(path)
        size = (header.width_px, header.height_px)
        mask = _mask_of(path, listing)
        yield ImageRecord(path, caption, *size, repeats, finds.regularisation, concept, mask, settings)
    for name in captions.orphans():
        finds.notes[_ORPHANS].append(Path(listing.path, name))


def _mask_of(path: Path, listing: _Listing) -> Path | None:
    mask = mask_path(path)
    return mask if MASK_FOLDER in listing.folders and mask.is_file() else None


def mask_path(picture: Path) -> Path:
    """Where the picture's mask is, if it has one."""
    return picture.parent / MASK_FOLDER / f"{picture.stem}.png"


def _read_header(path: Path, finds: _Finds) -> ImageHeader | None:
    try:
        return read_header(path)
    except StudioError as fault:
        finds.faults.append(Fault(path, fault.problem))
        return None


def _caption_of(path: Path, caption_file: Path | None, concept: str, finds: _Finds) -> str | None:
    """The caption, or None after a fault was filed."""
    try:
        if caption_file is not None:
            caption = read_caption(caption_file)
            if finds.all_lines:
                return "\n".join((caption.text, *caption.more))
            if caption.more:
                finds.notes["the caption has several lines; the first is used"].append(caption_file)
            return caption.text
    except StudioError as fault:
        finds.faults.append(Fault(caption_file, fault.problem))
        return None
    if concept:
        finds.notes[f"no caption file; the caption is the folder's name: {concept}"].append(path)
        return concept
    finds.faults.append(Fault(path, "no caption file, and the folder has no name to take instead"))
    return None


class _CaptionFinder:
    """The caption file of each picture of a folder; what a person should know of them is noted."""

    def __init__(self, listing: _Listing, finds: _Finds) -> None:
        self._listing = listing
        self._finds = finds
        self._pairs = CaptionPairs(listing.pictures, listing.captions, finds.caption_extension)
        self.orphans = self._pairs.orphans

    def of(self, picture: str) -> Path | None:
        files = self._pairs.of(picture)
        if not files:
            return None
        chosen = Path(self._listing.path, files[0])
        if len(files) > 1:
            text = f"several caption files; {chosen.suffix} is used"
            self._finds.notes[text].append(Path(self._listing.path, picture))
        if self._pairs.is_shared(picture):
            self._finds.notes["pictures of one name share one caption file"].append(Path(self._listing.path, picture))
        return chosen


def names_of(paths: Sequence[Path]) -> str:
    """The one path in full, or the number of files and the first names, each with its folder."""
    if len(paths) == 1:
        return str(paths[0])
    names = ", ".join("/".join(path.parts[-2:]) for path in paths[:_MAX_NAMES_SHOWN])
    more = ", ..." if len(paths) > _MAX_NAMES_SHOWN else ""
    return f"{len(paths)} files ({names}{more})"
