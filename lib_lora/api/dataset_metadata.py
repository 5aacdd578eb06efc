"""Captions of an open dataset from metadata files of kohya's scripts and of the Hub, and into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_lora.api.call import Call
from lib_lora.api.dataset import applied_view, collection_of, find, ids_in
from lib_lora.api.studio import Studio

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Collection
    from lib_lora.dataset.kohya_metadata import Taken

_MOST_EXAMPLES = 20
_MOST_NAMES = 100


def form(studio: Studio, call: Call) -> Any:
    """The options of both ways. Nothing is replaced where a browser saves the file."""
    from lib_lora.base.options import options_of
    from lib_lora.dataset.kohya_metadata import MetadataIn, MetadataOut
    from lib_lora.jobs.forms import option_view

    give = [info for info in options_of(MetadataOut) if info.name != "overwrite"]
    return {
        "take": [option_view(info) for info in options_of(MetadataIn)],
        "give": [option_view(info) for info in give],
    }


def preview(studio: Studio, call: Call) -> Any:
    """What a file would change: how many captions, some of them before and after, and names that fit no picture."""
    collection = collection_of(studio, call)
    taken = _taken(collection, call)
    shown = list(taken.captions.items())[:_MOST_EXAMPLES]
    return {
        "changed": len(taken.captions),
        "examples": [(id, collection.item(id).caption or "", text) for id, text in shown],
        "unknown": taken.unknown[:_MOST_NAMES],
        "ambiguous": taken.ambiguous[:_MOST_NAMES],
        "left_out": len(taken.unknown) + len(taken.ambiguous),
    }


def take(studio: Studio, call: Call) -> Any:
    """Write the captions of a file, as one step of undo."""
    found, collection = find(studio, call), collection_of(studio, call)
    was = {item.id: item.caption for item in collection.items}
    new = _taken(collection, call).captions
    return applied_view(found, collection.set_captions(new, was=was, what=f"captions from {call.given('file', str)}"))


def give(studio: Studio, call: Call) -> Any:
    """The text of a metadata file with the pictures' captions; ``lines``: jsonl."""
    from lib_lora.base.options import from_mapping
    from lib_lora.dataset.kohya_metadata import MetadataOut, metadata_of, metadata_text

    collection = collection_of(studio, call)
    chosen = set(ids_in(call, collection))
    items = [item for item in collection.items if item.id in chosen]
    entries = metadata_of(items, from_mapping(MetadataOut, call.given("values", dict)))
    return {"text": metadata_text(entries, lines=call.body.get("lines") is True), "captions": len(entries)}


def _taken(collection: Collection, call: Call) -> Taken:
    from lib_lora.base.options import from_mapping
    from lib_lora.dataset.kohya_metadata import MetadataIn, parse_metadata, take_captions

    config = from_mapping(MetadataIn, call.given("values", dict))
    entries = parse_metadata(call.given("text", str), call.given("file", str))
    chosen = set(ids_in(call, collection))
    return take_captions(entries, [item for item in collection.items if item.id in chosen], config)
