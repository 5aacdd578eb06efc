"""Which files go along when a picture is moved, copied, renamed or deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora.dataset.items import Listing, PictureFile
from lib_lora.dataset.journal import TAKEN, Change, Copy, Move
from lib_lora.dataset.records import MASK_FOLDER, mask_path


@dataclass
class FilePlan:
    """Changes to make, and pictures that cannot take part: name and why."""

    changes: list[Change] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Companions:
    """The files that belong to a picture."""

    captions: tuple[str, ...]
    mask: str | None

    def all(self) -> tuple[str, ...]:
        return (*self.captions, *([self.mask] if self.mask else []))


def companions(root: Path, picture: PictureFile) -> Companions:
    """All caption files of its stem, and its mask."""
    mask = mask_path(Path(picture.name)).as_posix()
    return Companions(picture.captions, mask if (root / mask).is_file() else None)


def plan_files(
    root: Path,
    listing: Listing,
    names: Sequence[str],
    target_of: Callable[[str, str], str],
    *,
    copy: bool = False,
    captions: bool = True,
) -> FilePlan:
    """Move, or copy, pictures with their captions and masks.

    A caption file that another picture also uses, which stays, is copied instead of moved. A picture of whose files
    one finds its place taken stays with all of them.

    Args:
        target_of: the paths in the dataset of a picture and of one of its files (the picture itself, a caption, the
            mask) -> the file's new path, or a whole path elsewhere; a caption or mask whose path is the same stays.
        captions: the captions and masks go along.
    """
    plan, taken = FilePlan(), set()
    staying = _used_by_others(root, listing, names)
    moved: set[str] = set()
    for name in names:
        files = [name]
        if captions:
            files += [file for file in companions(root, listing.pictures[name]).all() if file not in moved]
        pairs = [(file, target_of(name, file)) for file in files]
        pairs = [pair for pair in pairs if pair[0] != pair[1] or pair[0] == name]
        problem = _problem(root, pairs, taken)
        if problem:
            plan.refused.append((name, problem))
            continue
        plan.pictures.append(name)
        for file, target in pairs:
            taken.add(os.path.normcase(target))
            keep = copy or file in staying
            plan.changes.append(Copy(file, target) if keep else Move(file, target))
            if not keep:
                moved.add(file)
    return plan


def _used_by_others(root: Path, listing: Listing, names: Iterable[str]) -> set[str]:
    """Caption files and masks that a picture uses which is not among ``names``."""
    going = set(names)
    folders = {name.rpartition("/")[0] for name in going}
    others = (
        picture
        for name, picture in listing.pictures.items()
        if name not in going and name.rpartition("/")[0] in folders
    )
    stems = {os.path.splitext(name)[0].casefold() for name in going}
    return {
        file
        for picture in others
        if os.path.splitext(picture.name)[0].casefold() in stems
        for file in companions(root, picture).all()
    }


def _problem(root: Path, pairs: list[tuple[str, str]], taken: set[str]) -> str:
    for file, target in pairs:
        if os.path.normpath(root / target) == os.path.normpath(root / file):
            return "is there already"
        if os.path.normcase(target) in taken or _is_taken(root / file, root / target):
            return f"{TAKEN}: {target}"
    return ""


def _is_taken(source: Path, target: Path) -> bool:
    if not os.path.lexists(target):
        return False
    # On a disk that does not tell a from A, a name that only changes its case is not taken.
    alike = source.parent == target.parent and source.name.casefold() == target.name.casefold()
    return not (alike and source.name != target.name and os.path.samefile(source, target))


def into_folder(root: Path, folder: Path) -> Callable[[str, str], str]:
    """A file's place in another folder, inside the dataset or elsewhere; masks go into its folder of masks."""

    def target(picture: str, name: str) -> str:
        parent, _, file = name.rpartition("/")
        is_mask = parent.rpartition("/")[2] == MASK_FOLDER
        place = folder / MASK_FOLDER / file if is_mask else folder / file
        return name_in(root, place)

    return target


def name_in(root: Path, path: Path) -> str:
    """The path as the journal has it: relative to the dataset where it lies in it, else whole."""
    path = Path(os.path.abspath(path))
    base = Path(os.path.abspath(root))
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
