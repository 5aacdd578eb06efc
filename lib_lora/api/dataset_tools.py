"""Tools that make new pictures of an open dataset's, and masks."""

from __future__ import annotations

from typing import Any

from lib_lora.api.call import Call, not_found
from lib_lora.api.dataset import applied_view, collection_of, find, ids_in, item_of
from lib_lora.api.dataset_pictures import allowed_places, picture_path
from lib_lora.api.dataset_tasks import Tell, tasks_of
from lib_lora.api.pictures import file_response
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control

_BY_HAND = "crop"  # its box is drawn on one picture
_MOST_STROKES = 5000


def form(studio: Studio, call: Call) -> Any:
    """Every tool with its options, but for the one that is used by hand."""
    from lib_lora.base.options import options_of
    from lib_lora.dataset.picture_tools import TOOLS
    from lib_lora.jobs.forms import option_view

    views = []
    for name in TOOLS:
        if name == _BY_HAND:
            continue
        kind = TOOLS.get(name)
        options = [option_view(info) for info in options_of(kind)]
        label = name.replace("_", " ").capitalize()
        views.append({"name": name, "label": label, "help": (kind.__doc__ or "").strip(), "options": options})
    return {"tools": views}


def use(studio: Studio, call: Call) -> Any:
    """Use a tool on pictures, in the background; the task's result is what was done.

    ``over``: the new pictures take the place of the old ones, which go to the trash.
    """
    from lib_lora.base.options import from_mapping
    from lib_lora.dataset.picture_tools import TOOLS, use_tool

    found, collection = find(studio, call), collection_of(studio, call)
    tool = from_mapping(TOOLS.get(call.path["tool"]), call.given("values", dict))
    ids, over = ids_in(call, collection), call.body.get("over") is True

    def work(tell: Tell, control: Control) -> Any:
        def progress(done: int, total: int) -> None:
            tell(tool.suffix, done, total)

        return applied_view(found, use_tool(collection, ids, tool, over=over, progress=progress, control=control))

    return tasks_of(found).start(work)


def suggest(studio: Studio, call: Call) -> Any:
    """The box of a shape where the picture shows most, in px of the upright picture."""
    from lib_lora.dataset.picture_tools import parse_aspect, suggest_box

    aspect = parse_aspect(call.given("aspect", str))
    return {"box": list(suggest_box(picture_path(studio, call), aspect))}


def mask(studio: Studio, call: Call) -> Any:
    """The picture's mask."""
    from lib_lora.dataset.records import mask_path

    # Beside the picture's name in the dataset, as training looks for it, also where that is a link.
    path = mask_path(item_of(collection_of(studio, call), call.path["item"]).path)
    if not path.is_file():
        raise not_found("the picture has no mask", field="item", came=call.path["item"])
    return file_response(call, path, allowed_places(studio, path), "image/png")


def paint(studio: Studio, call: Call) -> Any:
    """Paint the picture's mask: ``start`` with "now", "white" or "black", and strokes."""
    from lib_lora.dataset.masks import Stroke, paint_mask

    found, collection = find(studio, call), collection_of(studio, call)
    item = item_of(collection, call.path["item"])
    strokes = call.given("strokes", list)
    if len(strokes) > _MOST_STROKES or not all(isinstance(each, dict) for each in strokes):
        raise StudioError("not allowed", field="strokes", allowed=f"a list of at most {_MOST_STROKES} strokes")
    painted = [Stroke.from_json(each) for each in strokes]
    return applied_view(found, paint_mask(collection, item.id, painted, start=call.given("start", str)))


def remove_mask(studio: Studio, call: Call) -> Any:
    """The whole picture counts again."""
    from lib_lora.dataset import masks

    found, collection = find(studio, call), collection_of(studio, call)
    item = item_of(collection, call.path["item"])
    return applied_view(found, masks.remove_mask(collection, item.id))
