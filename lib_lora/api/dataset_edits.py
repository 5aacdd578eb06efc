"""Edits of many captions of an open dataset: what there is, what one would change, and making it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_lora.api import tag_lists
from lib_lora.api.call import Call
from lib_lora.api.dataset import applied_view, collection_of, find, ids_in
from lib_lora.api.dataset_tasks import Tell, tasks_of
from lib_lora.api.studio import Studio
from lib_lora.base.signals import Control

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Collection
    from lib_lora.dataset.edits import Edit

_TITLES = {
    "dedupe": "Remove repeated tags",
    "move_to_front": "Move tags to the front",
    "subsume": "Leave out what a longer tag says",
    "underscores": "Underscores or spaces",
    "lower_case": "Lower case",
    "from_name": "Caption from the file name",
    "set": "Write one caption",
}


def form(studio: Studio, call: Call) -> Any:
    """Every kind of edit with its options."""
    from lib_lora.base.options import options_of
    from lib_lora.dataset.edits import EDITS
    from lib_lora.jobs.forms import option_view

    views = []
    for name in EDITS:
        kind = EDITS.get(name)
        options = [option_view(info) for info in options_of(kind)]
        title = _TITLES.get(name, name.replace("_", " ").capitalize())
        views.append({"name": name, "label": title, "help": _sentence(kind.help), "options": options, "defaults": {}})
    return {"edits": views}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def preview(studio: Studio, call: Call) -> Any:
    """What an edit would change: how many captions, and some of them before and after."""
    collection = _with_categories(studio, collection_of(studio, call))
    preview = collection.preview(_edit(call), ids_in(call, collection))
    return {"changed": preview.changed, "examples": preview.examples}


def apply(studio: Studio, call: Call) -> Any:
    """``empty``: captions of which nothing is left are deleted; otherwise they are conflicts."""
    found, collection = find(studio, call), _with_categories(studio, collection_of(studio, call))
    remove = call.body.get("empty") is True
    return applied_view(found, collection.apply(_edit(call), ids_in(call, collection), remove_empty=remove))


def run(studio: Studio, call: Call) -> Any:
    """As ``apply``, in the background: it can be watched and stopped. The task's result is what was done."""
    from lib_lora.dataset.large_edits import apply_in_portions

    found, collection = find(studio, call), _with_categories(studio, collection_of(studio, call))
    edit, ids, remove = _edit(call), ids_in(call, collection), call.body.get("empty") is True

    def work(tell: Tell, control: Control) -> Any:
        def progress(done: int, total: int) -> None:
            tell(edit.describe(), done, total)

        return applied_view(
            found,
            apply_in_portions(collection, edit, ids, remove_empty=remove, progress=progress, control=control),
        )

    return tasks_of(found).start(work)


def _with_categories(studio: Studio, collection: Collection) -> Collection:
    """The lists may have changed since the last edit."""
    collection.categories = tag_lists.tag_lists(studio).known().ranks
    return collection


def _edit(call: Call) -> Edit:
    from lib_lora.dataset.edits import make_edit

    return make_edit(call.given("edit", str), call.given("values", dict))
