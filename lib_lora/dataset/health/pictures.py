"""Pictures that are there twice, that training shows otherwise than they look, or that the bucket spoils."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lib_lora.base.options import options_of
from lib_lora.dataset.bucket_options import BucketOptions
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.duplicates import look_alikes, same_files
from lib_lora.dataset.health.checks import CHECKS, many, some
from lib_lora.dataset.health.report import ActionFix, Finding, ToolFix
from lib_lora.dataset.health.settings import HealthSettings
from lib_lora.dataset.health.view import View
from lib_lora.dataset.items import Item
from lib_lora.dataset.picture_facts import PictureFacts
from lib_lora.dataset.picture_tools import CropToBucket, Rgb, Split, Upright

_TRASH = "; the originals go to the trash"


@CHECKS.register("exact_duplicate")
def exact_duplicates(view: View) -> Iterator[Finding]:
    items = _whole(view)
    for group in _same(view, items):
        yield _twice("exact_duplicate", [items[place] for place in group], "are the same file", "Keep the first")


@CHECKS.register("near_duplicate")
def near_duplicates(view: View) -> Iterator[Finding]:
    """Groups that look the same; of files that are the same, the first stands for all."""
    items = _whole(view)
    again = {place for group in _same(view, items) for place in group[1:]}
    items = [item for place, item in enumerate(items) if place not in again]
    for group in _look_alikes(view, [view.facts[item.id] for item in items]):
        members = [items[place] for place in group]
        yield _twice("near_duplicate", members, "look the same", "Keep the largest")


def _twice(kind: str, members: list[Item], what: str, label: str) -> Finding:
    return Finding(
        kind,
        "warning" if kind == "exact_duplicate" else "hint",
        f"{many(len(members))} {what}: {some([item.name for item in members])}",
        tuple(item.id for item in members),
        fix=ActionFix(f"{label}, move the {'other' if len(members) == 2 else 'others'} to the trash", _keep_largest),
    )


def _keep_largest(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    """The first of those with the most pixels and bytes stays."""

    def size(id: int) -> tuple[int, int]:
        item = collection.item(id)
        return item.width_px * item.height_px, item.bytes

    kept = max(items, key=size)
    return collection.trash([id for id in items if id != kept])


def _whole(view: View) -> list[Item]:
    return [item for item in view.items if item.id in view.facts and view.facts[item.id].problem is None]


def _look_alikes(view: View, facts: Sequence[PictureFacts]) -> list[list[int]]:
    hashes, colours = [each.perceptual_hash for each in facts], [each.colours for each in facts]
    return look_alikes(hashes, view.settings.look_alike_bits, colours)


def _same(view: View, items: Sequence[Item]) -> list[list[int]]:
    candidates = look_alikes([view.facts[item.id].perceptual_hash for item in items], 0)
    return same_files([item.path for item in items], candidates)


@CHECKS.register("training_and_regularisation")
def in_training_and_regularisation(view: View) -> Iterator[Finding]:
    """A picture that shall be learned and be the class without it."""
    if not view.settings.look_at_pixels or not view.regularisation_files:
        return
    items = _whole(view)
    others = [
        (path, facts)
        for path, facts in zip(view.regularisation_files, view.regularisation_facts)
        if facts.problem is None
    ]
    for group in _look_alikes(view, [view.facts[item.id] for item in items] + [facts for _, facts in others]):
        ours = [items[place] for place in group if place < len(items)]
        theirs = [others[place - len(items)][0] for place in group if place >= len(items)]
        if ours and theirs:
            ids, names = view.split(theirs)
            # Of a folder that lies elsewhere nothing is deleted from here.
            fix = None if names else ActionFix("Move those of regularisation to the trash", _trash_regularisation)
            yield Finding(
                "training_and_regularisation",
                "warning",
                f"{many(len(ours))} in training and in regularisation: "
                + some([*(item.name for item in ours), *(view.name_of(path) for path in theirs)]),
                tuple(item.id for item in ours) + ids,
                names,
                fix=fix,
            )


def _trash_regularisation(collection: Collection, items: Sequence[int], files: Sequence[str]) -> Applied:
    return collection.trash([id for id in items if collection.item(id).regularisation])


@CHECKS.register("animated")
def animated(view: View) -> Iterator[Finding]:
    found = [item for item in view.items if item.animated]
    yield from _odd("animated", "warning", found, "with several frames, of which training sees the first")


@CHECKS.register("rotated")
def rotated(view: View) -> Iterator[Finding]:
    found = [item for item in _whole(view) if view.facts[item.id].orientation != 1]
    for finding in _odd("rotated", "hint", found, "upright by EXIF data only, which some trainers do not heed"):
        yield replace(finding, fix=ToolFix(f"Write upright pictures{_TRASH}", Upright()))


@CHECKS.register("transparent")
def transparent(view: View) -> Iterator[Finding]:
    found = [item for item in _whole(view) if view.facts[item.id].transparent]
    for finding in _odd("transparent", "hint", found, "with transparent parts, which training sees as white"):
        yield replace(finding, fix=ToolFix(f"Lay them on white{_TRASH}", Rgb()))


@CHECKS.register("colours")
def odd_colours(view: View) -> Iterator[Finding]:
    """CMYK is converted without its profile, and 16 bits become 8."""
    found = [item for item in view.items if item.mode == "CMYK" or item.mode.startswith("I") or _bits(view, item) > 8]
    for finding in _odd("colours", "hint", found, "in CMYK or 16 bits, of which training sees 8 bits of RGB"):
        yield replace(finding, fix=ToolFix(f"Write 8 bits of RGB{_TRASH}", Rgb()))


def _bits(view: View, item: Item) -> int:
    return view.facts[item.id].bits if item.id in view.facts else 8


def _odd(kind: str, severity: str, found: list[Item], what: str) -> Iterator[Finding]:
    if found:
        text = f"{many(len(found))} {what}: {some([item.name for item in found])}"
        yield Finding(kind, severity, text, tuple(item.id for item in found))


@CHECKS.register("enlarged")
def enlarged(view: View) -> Iterator[Finding]:
    found = [(item, image) for item, image in view.planned if image.is_enlarged]
    if found:
        worst, image = max(found, key=lambda pair: pair[1].enlarged_by)
        yield Finding(
            "enlarged",
            "warning",
            f"{many(len(found))} enlarged to fill the bucket, most of all {worst.name} ({_size(worst)}, "
            f"x{image.enlarged_by:.2f})",
            tuple(item.id for item, _ in found),
        )


@CHECKS.register("extreme_aspect")
def extreme_aspects(view: View) -> Iterator[Finding]:
    limit = view.settings.extreme_aspect
    found = [item for item in view.items if _aspect(item) >= limit]
    if found:
        yield Finding(
            "extreme_aspect",
            "hint",
            f"{many(len(found))} with one side {limit:g} times as long as the other or more: "
            + some([f"{item.name} ({_size(item)})" for item in found]),
            tuple(item.id for item in found),
            fix=ToolFix(f"Split them into parts{_TRASH}", Split(aspect=min(Split.aspect, (1 + limit) / 2))),
        )


def _aspect(item: Item) -> float:
    sides = sorted((item.width_px, item.height_px))
    return sides[1] / sides[0] if sides[0] else 0


@CHECKS.register("heavy_crop")
def heavy_crops(view: View) -> Iterator[Finding]:
    found = [(item, image) for item, image in view.planned if image.cropped_away > view.settings.heavy_crop]
    if found:
        yield Finding(
            "heavy_crop",
            "warning",
            f"{many(len(found))} of which the bucket cuts away more than {100 * view.settings.heavy_crop:.0f} %: "
            + some([f"{item.name} ({100 * image.cropped_away:.0f} %)" for item, image in found]),
            tuple(item.id for item, _ in found),
            fix=_cut_to_bucket(view.settings),
        )


def _cut_to_bucket(settings: HealthSettings) -> ToolFix | None:
    """To the shape that training would choose, in full size. The tool knows no other choice of buckets."""
    if settings.bucket_no_upscale or not settings.enable_bucket:
        return None
    buckets = {info.name: getattr(settings, info.name) for info in options_of(BucketOptions)}
    return ToolFix(f"Cut them to the bucket's shape where most is to see{_TRASH}", CropToBucket(**buckets, scale=False))


def _size(item: Item) -> str:
    return f"{item.width_px}x{item.height_px}"
