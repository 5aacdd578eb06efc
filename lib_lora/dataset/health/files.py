"""Files that a trainer cannot use, does not see, or takes for one another."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.health.checks import CHECKS, many, some
from lib_lora.dataset.health.report import ActionFix, ConvertFix, Finding
from lib_lora.dataset.health.view import View
from lib_lora.dataset.items import Item
from lib_lora.dataset.masks import mask_name
from lib_lora.dataset.picture_files import Made, bring_in
from lib_lora.dataset.records import CAPTION_EXTENSIONS, mask_path
from lib_lora.files.image_header import read_header

_COUNT = re.compile(r"^[0-9]+_(?=.)")


def _lower_extensions(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    found = map(collection.item, items)
    names = {item.id: item.stem + os.path.splitext(item.file_name)[1].lower() for item in found}
    return collection.rename_all(names, "extensions in lower case")


def _own_stems(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    """The first of each name keeps it, the others get the next free number behind it."""
    taken: dict[str, Counter[str]] = defaultdict(Counter)
    for item in collection.items:
        taken[item.folder][item.stem.casefold()] += 1
    names = {}
    for item in map(collection.item, reversed(items)):
        own = taken[item.folder]
        if own[item.stem.casefold()] > 1:
            stem = next(s for s in (f"{item.stem}-{n}" for n in itertools.count(2)) if not own[s.casefold()])
            own[item.stem.casefold()] -= 1
            own[stem.casefold()] += 1
            names[item.id] = stem + os.path.splitext(item.file_name)[1]
    return collection.rename_all(names, "names of their own")


def _trash_pictures(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    return collection.trash(items)


@CHECKS.register("orphan_caption")
def orphan_captions(view: View) -> Iterator[Finding]:
    names = tuple(view.collection.orphans)
    if not names:
        return
    yield Finding(
        "orphan_caption",
        "warning",
        f"{many(len(names), 'caption file')} without a picture: {some(names)}",
        files=names,
        fix=ActionFix("Move them to the trash", lambda collection, items, files: collection.trash_files(files)),
    )


@CHECKS.register("unreadable")
def unreadable_pictures(view: View) -> Iterator[Finding]:
    """By header, and where pixels are looked at, by decoding."""
    why: dict[str, list[int]] = defaultdict(list)
    for item in [*view.items, *view.regularisation_items]:
        problem = item.picture_problem or (view.facts[item.id].problem if item.id in view.facts else None)
        if problem:
            why[problem].append(item.id)
    for problem, ids in why.items():
        yield Finding(
            "unreadable",
            "error",
            f"{many(len(ids))}: {problem}",
            tuple(ids),
            fix=ActionFix("Move them to the trash", _trash_pictures),
        )


@CHECKS.register("mixed_case_extension")
def mixed_case_extensions(view: View) -> Iterator[Finding]:
    """sd-scripts knows .png and .PNG, and nothing between (IMAGE_EXTENSIONS in library/train_util.py)."""
    found = [item for item in view.items if not _in_one_case(os.path.splitext(item.file_name)[1])]
    if found:
        yield Finding(
            "mixed_case_extension",
            "hint",
            f"{many(len(found))} that sd-scripts and others skip for the case of the extension: "
            + some([item.file_name for item in found]),
            tuple(item.id for item in found),
            fix=ActionFix("Write the extension in lower case", _lower_extensions),
        )


def _in_one_case(extension: str) -> bool:
    return extension in (extension.lower(), extension.upper())


@CHECKS.register("other_format")
def other_formats(view: View) -> Iterator[Finding]:
    if isinstance(view.scan, StudioError):
        return
    names = tuple(view.name_of(left.path) for left in view.scan.left_out if left.kind == "format")
    if names:
        yield Finding(
            "other_format",
            "warning",
            f"{many(len(names), 'file')} that training does not read; save as png, jpg, webp or bmp: {some(names)}",
            files=names,
            fix=ConvertFix("Save them as PNG"),
        )


@CHECKS.register("folder_name")
def folder_names(view: View) -> Iterator[Finding]:
    """Folders without a usable repeat count: their pictures are not trained on."""
    if isinstance(view.scan, StudioError):
        yield Finding("folder_name", "error", f"training refuses the folder: {view.scan}")
        return
    why: dict[str, list[Path]] = defaultdict(list)
    for left in view.scan.left_out:
        if left.kind == "folder":
            why[left.reason].append(left.path)
    for reason, paths in why.items():
        ids, names = view.split(paths)
        label = "Move them into folders whose pictures are shown once (1_name)"
        yield Finding(
            "folder_name",
            "warning",
            f"{many(len(paths))} not trained on: {reason}",
            ids,
            names,
            fix=ActionFix(label, _into_counted) if ids else None,
        )


def _into_counted(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    """Each picture with its captions and its mask from ``name``, or ``0_name``, into the folder ``1_name`` beside it;
    those that lie in the dataset's own folder into one in there."""
    extensions = {*CAPTION_EXTENSIONS, collection.caption_extension}
    made = []
    for item in map(collection.item, items):
        stem = os.path.splitext(item.name)[0]
        names = [item.name, mask_name(item.name), *(stem + extension for extension in extensions)]
        names += [item.caption_name] if item.caption_name else []
        there = [name for name in dict.fromkeys(names) if (collection.folder / name).is_file()]
        target = _counted(collection.folder, item.folder)
        inside = len(item.folder) + 1 if item.folder else 0
        made.append(Made(item.id, {f"{target}/{name[inside:]}": collection.folder / name for name in there}))
    return bring_in(collection, made, lambda count: f"a repeat count for the folders of {count} pictures")


def _counted(root: Path, folder: str) -> str:
    """``a/0_name`` -> ``a/1_name``."""
    parent, _, name = folder.rpartition("/")
    counted = f"1_{_COUNT.sub('', name or root.name)}"
    return f"{parent}/{counted}" if parent else counted


@CHECKS.register("same_stem")
def stem_collisions(view: View) -> Iterator[Finding]:
    """a.png and a.jpg have one caption file between them."""
    found = _grouped(view.items, lambda item: (item.folder, item.stem))
    if found:
        yield Finding(
            "same_stem",
            "warning",
            "pictures of one name share one caption file: " + some([f"{group[0].stem}.*" for group in found]),
            tuple(item.id for group in found for item in group),
            fix=ActionFix("Give each a name of its own, with a copy of the caption", _own_stems),
        )


@CHECKS.register("same_but_case")
def case_collisions(view: View) -> Iterator[Finding]:
    """A.png and a.png are one file on Windows and macOS."""
    found = [
        group
        for group in _grouped(view.items, lambda item: (item.folder.casefold(), item.stem.casefold()))
        if len({item.folder + "/" + item.stem for item in group}) > 1
    ]
    if found:
        yield Finding(
            "same_but_case",
            "warning",
            "names that differ in case only, one file on Windows and macOS: "
            + some([" and ".join(item.file_name for item in group) for group in found]),
            tuple(item.id for group in found for item in group),
            fix=ActionFix("Give each a name of its own", _own_stems),
        )


@CHECKS.register("mask_size")
def masks_of_another_size(view: View) -> Iterator[Finding]:
    found = [item for item in view.items if item.width_px and _mask_size(item) not in (None, _size(item))]
    if found:
        yield Finding(
            "mask_size",
            "warning",
            f"{many(len(found))} with a mask that cannot be read or has another size: {some([i.name for i in found])}",
            tuple(item.id for item in found),
            fix=ActionFix("Move the masks to the trash", _trash_masks),
        )


def _size(item: Item) -> tuple[int, int]:
    return item.width_px, item.height_px


def _mask_size(item: Item) -> tuple[int, int] | None:
    """None where there is no mask, (0, 0) where it cannot be read."""
    path = mask_path(item.path)
    if not path.is_file():
        return None
    try:
        header = read_header(path)
    except StudioError:
        return 0, 0
    return header.width_px, header.height_px


def _trash_masks(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    return collection.trash_files([mask_name(collection.item(id).name) for id in items])


def _grouped(items: Iterable[Item], key: Callable[[Item], object]) -> list[list[Item]]:
    groups: dict[object, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return [group for group in groups.values() if len(group) > 1]
