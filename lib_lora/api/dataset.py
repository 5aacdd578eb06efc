"""The dataset that a page works on: its pictures, captions, edits and history."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from lib_lora.api import tag_lists
from lib_lora.api.call import Call, not_found
from lib_lora.api.forms import allowed_folder
from lib_lora.api.guard import Refusal
from lib_lora.api.open_datasets import DATASETS, OpenDataset, Reading
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import safe_name
from lib_lora.jobs.dataset_access import within

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Applied, Collection
    from lib_lora.dataset.items import Item

_FIRST_WAIT_SECONDS = 0.3  # a small folder is open by then, and the page need not ask again
_MOST_TAGS = 20_000
_PORTION_TOKENS = 75
_CAPTIONED, _NO_CAPTION, _PROBLEM = range(3)  # flags of the columns


# Opening


def open_folder(studio: Studio, call: Call) -> Any:
    """Open a folder, in the background where it is large; its status.

    ``caption_extension`` and ``recursive``: how it is read.
    """
    folder = allowed_folder(call.given("folder", str), studio.host, field="folder")
    reading = Reading(str(call.body.get("caption_extension", ".txt")), call.body.get("recursive", True) is True)
    found = DATASETS.open(folder, within(studio.host), reading)
    found.wait(_FIRST_WAIT_SECONDS)
    return status_view(found)


def status(studio: Studio, call: Call) -> Any:
    found = find(studio, call)
    found.look_again()
    return status_view(found)


def status_view(found: OpenDataset) -> dict[str, Any]:
    """What a page asks for every second: whether anything has changed, and what can be undone."""
    view = {"id": found.id, "folder": str(found.folder), "opening": None, "error": None, "version": None}
    view |= dataclasses.asdict(found.reading)
    if found.error is not None:
        return view | {"error": found.error.to_json()}
    if found.collection is None:
        done, total = found.progress
        return view | {"opening": {"done": done, "total": total}}
    if found.lost is not None:
        view |= {"error": found.lost.to_json()}
    collection = found.collection
    version = f"{found.token}.{collection.version}"  # first: what follows is of this version, or newer
    undo, redo = _steps(collection)
    return view | {
        "version": version,
        "read_only": collection.read_only,
        "notes": list(collection.notes),
        "undo": undo,
        "redo": redo,
    }


def _steps(collection: Collection) -> tuple[str | None, str | None]:
    """What undo and redo would take back and do again."""
    entries = collection.history()
    done = [entry.what for entry in entries if not entry.undone]
    undone = [entry.what for entry in entries if entry.undone]
    return (done[-1] if done else None), (undone[0] if undone else None)


def find(studio: Studio, call: Call) -> OpenDataset:
    """The dataset that a request names; its folder is looked at anew, for the host may be open to others now.

    A page names it as ``id.token``: its numbers of pictures are those of one opening.

    Raises:
        Refusal: it is not open, or was opened anew since (409).
    """
    id, _, token = call.path["id"].partition(".")
    found = DATASETS.get(id)
    if found is None:
        raise not_found("the dataset is not open", field="id", came=id)
    if token and token != found.token:
        raise Refusal(409, "the folder was opened anew meanwhile; look at its pictures again", field="id")
    allowed_folder(str(found.folder), studio.host, field="folder")
    if found.within != within(studio.host):  # it was opened when other people could reach the host
        raise not_found("the dataset is not open", field="id", came=id)
    return found


def collection_of(studio: Studio, call: Call) -> Collection:
    """Raises Refusal where it is not open yet."""
    found = find(studio, call)
    if found.collection is None:
        raise not_found("the dataset is not open yet", field="id", came=found.id)
    return found.collection


def item_of(collection: Collection, text: str) -> Item:
    """The picture with this number, as a path names it.

    Raises:
        Refusal: there is none.
    """
    try:
        return collection.item(int(text))
    except (KeyError, ValueError, StudioError):
        raise not_found("no such picture", field="item", came=text) from None


def ids_in(call: Call, collection: Collection, name: str = "ids") -> list[int]:
    """The pictures that a body names; those that are gone meanwhile are left out.

    Raises:
        StudioError: no list of numbers.
    """
    ids = call.given(name, list)
    if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
        raise StudioError("not allowed", field=name, allowed="a list of whole numbers")
    there = set(collection.ids)
    return [id for id in ids if id in there]


# Pictures and captions


def items(studio: Studio, call: Call) -> Any:
    """All pictures in columns. ``tag`` changes when one of them does; a page that has these already is told so."""
    found = find(studio, call)
    collection = collection_of(studio, call)
    cache = found.keep("columns", dict)
    version = collection.version
    if cache.get("version") != version:
        content = json.dumps(_columns(collection.items), ensure_ascii=False, separators=(",", ":"))
        tag = hashlib.blake2b((found.token + content).encode("utf-8"), digest_size=8).hexdigest()
        cache.update(version=version, tag=tag, body=f'{{"tag":"{tag}",{content[1:]}'.encode())
    headers = {"ETag": f'"{cache["tag"]}"', "Cache-Control": "private, no-cache"}
    if call.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(cache["body"], headers=headers, media_type="application/json")


def _columns(items: Iterable[Item]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in ("ids", "names", "widths", "heights", "stamps", "flags")}
    for item in items:
        row = (item.id, item.name, item.width_px, item.height_px, _stamp(item), _flag(item))
        for column, value in zip(columns.values(), row):
            column.append(value)
    return columns


def _flag(item: Item) -> int:
    if item.problem is not None:
        return _PROBLEM
    return _CAPTIONED if item.caption else _NO_CAPTION


def _stamp(item: Item) -> str:
    """Another text when the picture's file has changed."""
    return f"{item.modified_ns:x}-{item.bytes:x}"


def item(studio: Studio, call: Call) -> Any:
    """One picture with its caption, and what the dataset knows of its tags."""
    from lib_lora.dataset.records import mask_path

    collection = collection_of(studio, call)
    found = item_of(collection, call.path["item"])
    category, counts = tag_lists.categories(studio), _counts(find(studio, call), collection)
    tags = [{"tag": tag, "count": counts.get(tag, 0), "category": category(tag)} for tag in found.tags]
    return {
        "id": found.id,
        "name": found.name,
        "path": str(found.path),
        "caption": found.caption or "",
        "has_caption": found.caption is not None,
        "caption_file": found.caption_name,
        "lines_unused": found.lines_unused,
        "locked": collection.read_only or (found.caption_problem if found.caption is None else None),
        "tags": tags,
        "width": found.width_px,
        "height": found.height_px,
        "bytes": found.bytes,
        "repeats": found.repeats,
        "concept": found.concept,
        "problem": found.problem,
        "mask": mask_path(found.path).is_file(),
        "stamp": _stamp(found),
    }


def _counts(found: OpenDataset, collection: Collection) -> dict[str, int]:
    """Tag -> pictures that have it; counted once for each version."""
    kept, version = found.keep("counts", dict), collection.version
    if kept.get("version") != version:
        kept.update(counts=dict(collection.tag_counts()), version=version)
    return kept["counts"]


def filtered(studio: Studio, call: Call) -> Any:
    """The pictures that a query asks for, in order."""
    collection = collection_of(studio, call)
    selected = ids_in(call, collection, "selected") if "selected" in call.body else ()
    ids = collection.select(call.given("query", str), selected=selected)
    by, reverse = call.body.get("by", "name"), call.body.get("reverse") is True
    if by != "name" or reverse:
        ids = collection.sort(ids, by=str(by), reverse=reverse)
    return {"ids": list(ids)}


def tags(studio: Studio, call: Call) -> Any:
    """Tags with the number of pictures that have them, over all pictures or over some, in columns."""
    collection = collection_of(studio, call)
    ids = ids_in(call, collection) if "ids" in call.body else None
    counts = collection.tag_counts(ids)[:_MOST_TAGS]
    category = tag_lists.categories(studio)
    return {
        "tags": [tag for tag, _ in counts],
        "counts": [count for _, count in counts],
        "categories": [category(tag) for tag, _ in counts],
    }


def parts(studio: Studio, call: Call) -> Any:
    """A caption taken apart: tags and sentences, tokens (None where no vocabulary is there to count with), and where in
    the text each further portion of 75 tokens begins."""
    from lib_lora.dataset.tags import split_caption

    count, text = collection_of(studio, call).count_tokens, call.given("text", str)
    found = split_caption(text)
    return {
        "before": found.before,
        "prose": found.prose,
        "after": found.after,
        "tokens": None if count is None else count(text),
        "cuts": [] if count is None else _cuts(text, count),
    }


def _cuts(text: str, count: Any) -> list[int]:
    """The places of the parts between commas in which a portion of 75 tokens ends and the next one begins."""
    cuts, tokens, place = [], 0, 0
    for piece in text.split(","):
        before = tokens // _PORTION_TOKENS
        tokens += count(f"{piece},")
        if (tokens - 1) // _PORTION_TOKENS > before:
            cuts.append(place)
        place += len(piece) + 1
    return cuts


def write_captions(studio: Studio, call: Call) -> Any:
    """Captions that were typed, by number; ``was`` is what the editor began with.

    Another text there now is a conflict: it is given back (None where the picture is gone) and not written over.
    ``empty``: those whose caption file may be deleted for an empty text.
    """
    found, collection = find(studio, call), collection_of(studio, call)
    new, was = _texts(call, "new"), _texts(call, "was")
    empty = set(ids_in(call, collection, "empty")) if "empty" in call.body else set()
    results = []
    for remove_empty in (False, True):
        some = {id: text for id, text in new.items() if (id in empty) == remove_empty}
        if some:
            results.append(collection.set_captions(some, was=was, what="caption", remove_empty=remove_empty))
    return applied_view(found, *results)


def delete_captions(studio: Studio, call: Call) -> Any:
    """Delete caption files alone; the pictures stay."""
    found, collection = find(studio, call), collection_of(studio, call)
    return applied_view(found, collection.remove_captions(ids_in(call, collection)))


def first_captions(studio: Studio, call: Call) -> Any:
    """Bring back what captions were before anything was done to them here."""
    found, collection = find(studio, call), collection_of(studio, call)
    return applied_view(found, collection.restore_first(ids_in(call, collection)))


def _texts(call: Call, name: str) -> dict[int, str]:
    given = call.given(name, dict)
    if not all(key.isascii() and key.isdigit() and isinstance(text, str) for key, text in given.items()):
        raise StudioError("not allowed", field=name, allowed="texts by the pictures' numbers")
    return {int(key): text for key, text in given.items()}


# History


def undo(studio: Studio, call: Call) -> Any:
    found = find(studio, call)
    return applied_view(found, collection_of(studio, call).undo())


def redo(studio: Studio, call: Call) -> Any:
    found = find(studio, call)
    return applied_view(found, collection_of(studio, call).redo())


def history(studio: Studio, call: Call) -> Any:
    """The newest first."""
    entries = collection_of(studio, call).history()
    return {
        "entries": [
            {"number": each.number, "time": each.time, "what": each.what, "count": each.count, "undone": each.undone}
            for each in reversed(entries)
        ]
    }


def kept(studio: Studio, call: Call) -> Any:
    """What the history takes on the disk."""
    return dataclasses.asdict(collection_of(studio, call).kept())


def empty_trash(studio: Studio, call: Call) -> Any:
    found = find(studio, call)
    collection_of(studio, call).empty_trash()
    return applied_view(found)


def forget_history(studio: Studio, call: Call) -> Any:
    found = find(studio, call)
    collection_of(studio, call).forget_history()
    return applied_view(found)


def applied_view(found: OpenDataset, *results: Applied | None) -> dict[str, Any]:
    """What was done, for all pages' pictures; conflicts say what stands there now."""
    results = [each for each in results if each is not None]
    conflicts = [
        {"id": id, "why": why, "text": _caption_now(found.collection, id)}
        for each in results
        for id, why in each.conflicts
    ]
    changed = [id for each in results for id in each.changed]
    added = sum(len(each.added) for each in results)
    return {"changed": changed, "added": added, "conflicts": conflicts, "status": status_view(found)}


def _caption_now(collection: Collection, id: int | str) -> str | None:
    try:
        return collection.item(id).caption or "" if isinstance(id, int) else None
    except (KeyError, StudioError):
        return None


# Files


def refresh(studio: Studio, call: Call) -> Any:
    """Look at the folder now."""
    found = find(studio, call)
    collection_of(studio, call).refresh()
    return applied_view(found)


def move(studio: Studio, call: Call) -> Any:
    found, collection = find(studio, call), collection_of(studio, call)
    return applied_view(found, collection.move(ids_in(call, collection), _target(studio, call)))


def copy(studio: Studio, call: Call) -> Any:
    found, collection = find(studio, call), collection_of(studio, call)
    return applied_view(found, collection.copy(ids_in(call, collection), _target(studio, call)))


def trash(studio: Studio, call: Call) -> Any:
    """Pictures with their captions, into the dataset's own trash."""
    found, collection = find(studio, call), collection_of(studio, call)
    return applied_view(found, collection.trash(ids_in(call, collection)))


def rename(studio: Studio, call: Call) -> Any:
    """Another name for one picture with its captions and masks; ``stem`` is without folder and extension."""
    found, collection = find(studio, call), collection_of(studio, call)
    stem = safe_name(call.given("stem", str), field="stem")
    return applied_view(found, *(collection.rename(id, stem) for id in ids_in(call, collection)[:1]))


def _target(studio: Studio, call: Call) -> Path:
    return allowed_folder(call.given("folder", str), studio.host, field="folder")


def complete(studio: Studio, call: Call) -> Any:
    """Suggestions for a tag that is being typed."""
    found = find(studio, call)
    collection_of(studio, call)
    return {"tags": tag_lists.suggestions(studio, found, call.query.get("text", ""))}
