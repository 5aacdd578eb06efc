"""``dataset mask``: masks that no hand paints are made, listed and removed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lib_lora.base.events import Progress
from lib_lora.base.options import add_flags, from_mapping
from lib_lora.cli.progress import watched

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Applied, Collection

_STOPPED = 130


def add_mask_flags(parser: argparse.ArgumentParser, chosen: type) -> None:
    """``chosen``: the options that say which pictures are meant."""
    from lib_lora.dataset.masks import MaskRule

    acts = parser.add_subparsers(metavar="WHAT", required=True, dest="act")
    for act, help in (
        ("list", "print the pictures that have a mask, and in how much of each the loss counts"),
        ("make", "make masks by a rule; those that are there go to the trash"),
        ("remove", "move masks to the trash: the whole pictures count again"),
    ):
        sub = acts.add_parser(act, help=help, description=help, allow_abbrev=False)
        add_flags(sub, chosen)
        if act == "make":
            add_flags(sub, MaskRule)


def run_mask(
    collection: Collection, ids: list[int], flags: dict[str, Any], told: Callable[[Collection, Applied], int]
) -> int:
    """0 when done, 1 where something could not be, 130 when stopped.

    Args:
        flags: those of ``add_mask_flags`` without the choice of pictures.
        told: says what was done; 1 where something could not be.
    """
    from lib_lora.dataset.masks import remove_masks, with_mask

    act = flags.pop("act")
    if act == "list":
        return _list(collection, ids)
    if act == "make":
        return _make(collection, ids, flags, told)
    return told(collection, remove_masks(collection, with_mask(collection, ids)))


def _list(collection: Collection, ids: list[int]) -> int:
    from lib_lora.base.errors import StudioError
    from lib_lora.dataset.masks import share_of_loss, with_mask

    items, status = with_mask(collection, ids), 0
    for item in items:
        try:
            print(f"{item.name}: {share_of_loss(item):.0%}")
        except StudioError as error:
            print(f"{item.name}: {error.problem}")
            status = 1
    print(f"{len(items)} of {len(ids)} pictures have a mask")
    return status


def _make(
    collection: Collection, ids: list[int], flags: dict[str, Any], told: Callable[[Collection, Applied], int]
) -> int:
    from lib_lora.dataset.masks import MaskRule, make_masks

    rule = from_mapping(MaskRule, flags)
    with watched() as (printer, control):
        applied = make_masks(
            collection,
            ids,
            rule,
            progress=lambda done, total: printer.show(Progress("masks", done, total)),
            control=control,
        )
    return told(collection, applied) or (_STOPPED if control.stopping else 0)
