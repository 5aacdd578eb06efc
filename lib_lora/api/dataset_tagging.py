"""What taggers have said of an open dataset's pictures: thresholds that move afterwards, and where captions differ.

The taggers themselves run as jobs (kind "tag").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_lora.api.call import Call
from lib_lora.api.dataset import applied_view, collection_of, find, ids_in, item_of
from lib_lora.api.open_datasets import OpenDataset
from lib_lora.api.studio import Studio

if TYPE_CHECKING:
    from lib_lora.tagging.options import TagConfig
    from lib_lora.tagging.stored import StoredScores

_MOST_EXAMPLES = 20
_MOST_TAGS = 200


def form(studio: Studio, call: Call) -> Any:
    """The options of tagging, and the taggers."""
    from lib_lora.jobs.tag_job import tag_schema

    return tag_schema(studio.host)


def stored(studio: Studio, call: Call) -> Any:
    """The taggers that have said something of these pictures, and of how many."""
    found = find(studio, call)
    collection_of(studio, call)
    return {"taggers": [{"name": name, "pictures": pictures} for name, pictures in _scores(studio, found).taggers()]}


def count(studio: Studio, call: Call) -> Any:
    """What a choice of thresholds comes to; quick enough to follow a slider."""
    scores, config, ids = _asked(studio, call)
    return scores.count(config, ids).to_json()


def preview(studio: Studio, call: Call) -> Any:
    """How many captions a choice of thresholds would change, and some of them before and after."""
    scores, config, ids = _asked(studio, call)
    new, item = scores.captions(config, ids), scores.collection.item
    shown = list(new.items())[:_MOST_EXAMPLES]
    return {"changed": len(new), "examples": [(id, item(id).caption or "", text) for id, text in shown]}


def write(studio: Studio, call: Call) -> Any:
    """Write the captions that a choice of thresholds gives; no model is run."""
    scores, config, ids = _asked(studio, call)
    return applied_view(find(studio, call), scores.write(config, ids))


def disagreements(studio: Studio, call: Call) -> Any:
    """Tags on which taggers and captions differ, with the pictures."""
    scores, config, ids = _asked(studio, call)
    found = scores.disagreements(config, ids)
    return {"tags": [each.to_json() for each in found[:_MOST_TAGS]], "more": max(0, len(found) - _MOST_TAGS)}


def scores_of(studio: Studio, call: Call) -> Any:
    """What the taggers have said of one picture, the surest first, as captions write it."""
    from lib_lora.dataset.tag_groups import plain
    from lib_lora.tagging.labels import SENTENCE

    found = find(studio, call)
    item = item_of(collection_of(studio, call), call.path["item"])
    said = _scores(studio, found).of(item.id)
    return {
        "taggers": {
            tagger: [(tag if kind == SENTENCE else plain(tag), kind, score) for tag, kind, score in tags]
            for tagger, tags in said.items()
        }
    }


def _asked(studio: Studio, call: Call) -> tuple[StoredScores, TagConfig, list[int]]:
    from lib_lora.base.options import from_mapping
    from lib_lora.tagging.options import TagConfig

    found, collection = find(studio, call), collection_of(studio, call)
    config = from_mapping(TagConfig, call.given("values", dict))
    ids = ids_in(call, collection) if "ids" in call.body else collection.ids
    return _scores(studio, found), config, ids


def _scores(studio: Studio, found: OpenDataset) -> StoredScores:
    from lib_lora.tagging.registry import model_folder, own_thresholds
    from lib_lora.tagging.stored import StoredScores

    def make() -> StoredScores:
        return StoredScores(found.collection, own_thresholds(model_folder(studio.host), studio.host))

    return found.keep("scores", make)
