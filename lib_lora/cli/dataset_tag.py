"""``dataset tag``: let taggers look at pictures and write captions, or compare what they said with the captions."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_lora.base.events import ToolDone
from lib_lora.base.options import add_flags, from_mapping, option, options_of
from lib_lora.cli.progress import watched

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Applied, Collection
    from lib_lora.tagging.options import TagConfig
    from lib_lora.tagging.stored import Disagreement, StoredScores

_STOPPED = 130
_SHOWN = 40
_EXAMPLES = 10


@dataclass(frozen=True)
class TagOptions:
    """What the command has beside ``TagConfig``."""

    tagger_dir: Path = option(
        Path("lora_studio/taggers"), "folder of taggers' weights, a folder in it for each; what is missing comes there"
    )
    compare: bool = option(
        False, "only say where captions differ from what was said at an earlier run; nothing is written"
    )
    from_scores: bool = option(
        False, "write captions from what was said at an earlier run; no tagger looks at a picture"
    )
    dry_run: bool = option(False, "only say what from_scores would write, and how many tags the thresholds let through")


def add_tag_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.tagging.options import TagConfig

    add_flags(parser, TagOptions)
    add_flags(parser, TagConfig)


def run_tag(
    collection: Collection, ids: Sequence[int], flags: dict[str, Any], told: Callable[[Collection, Applied], int]
) -> int:
    """0 when all was done, 1 where something could not be, 130 when stopped.

    Args:
        flags: those of ``add_tag_flags``, and nothing else.
        told: says what was done; 1 where something could not be.
    """
    from lib_lora.tagging.options import TagConfig
    from lib_lora.tagging.run import report_text, tag

    names = [info.name for info in options_of(TagOptions)]
    options = from_mapping(TagOptions, {name: flags.pop(name) for name in names if name in flags})
    config = from_mapping(TagConfig, flags)
    if options.compare:
        return _compare(collection, ids, config, options.tagger_dir)
    if options.dry_run:
        return _preview(collection, ids, config, options.tagger_dir)
    if options.from_scores:
        return told(collection, _stored(collection, config, options.tagger_dir).write(config, ids))
    report = None
    with watched() as (printer, control):
        for event in tag(collection, ids, config, options.tagger_dir, control):
            printer.show(event)
            if isinstance(event, ToolDone):
                report = event.report
    if report is None:
        return _STOPPED
    print(report_text(report))
    return int(bool(report["problems"] or report["conflicts"]))


def _stored(collection: Collection, config: TagConfig, folder: Path) -> StoredScores:
    """What was said at earlier runs; says of how many pictures."""
    from lib_lora.tagging.registry import own_thresholds
    from lib_lora.tagging.stored import StoredScores

    stored = StoredScores(collection, own_thresholds(folder))
    said = {name.lower(): pictures for name, pictures in stored.taggers()}
    for name in config.taggers:
        print(f"{name}: {said.get(name.lower(), 0)} of {len(collection.ids)} pictures looked at")
    return stored


def _preview(collection: Collection, ids: Sequence[int], config: TagConfig, folder: Path) -> int:
    stored = _stored(collection, config, folder)
    count, new = stored.count(config, ids), stored.captions(config, ids)
    print(f"{count.tags} tags on {count.pictures} pictures ({count.per_picture:.1f} each), {count.without} without one")
    print(f"{len(new)} captions would change")
    for id, text in list(new.items())[:_EXAMPLES]:
        item = collection.item(id)
        print(f"  {item.name}\n    - {item.caption or ''}\n    + {text}")
    return 0


def _compare(collection: Collection, ids: Sequence[int], config: TagConfig, folder: Path) -> int:
    stored = _stored(collection, config, folder)
    print("\n".join(_lines(collection, stored.disagreements(config, ids))))
    return 0


def _lines(collection: Collection, found: Sequence[Disagreement]) -> Iterator[str]:
    for each in found[:_SHOWN]:
        for what, pictures in (("missing on", each.missing), ("doubted on", each.doubted)):
            if pictures:
                id, score = pictures[0]
                yield f"{each.tag}: {what} {len(pictures)}, such as {collection.item(id).name} ({score:.2f})"
    if len(found) > _SHOWN:
        yield f"and {len(found) - _SHOWN} tags more"
    if not found:
        yield "captions and taggers agree"
