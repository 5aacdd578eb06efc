"""The lists of labels that lie beside taggers' weights."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.files.captions import read_text

CATEGORIES = ("general", "character", "copyright", "artist", "meta", "quality", "model", "rating")
SENTENCE = "sentence"
ONE_OF = ("rating", "quality")
"""Categories of which a picture has the likeliest alone."""

_BOORU = {"0": "general", "1": "artist", "3": "copyright", "4": "character", "5": "meta", "9": "rating"}
_KINDS = "a csv with the columns name and category, or cl_tagger's tag_mapping.json, or a JSON list of names"


def read_labels(path: Path) -> list[Label]:
    """The label of each number that a model gives, in the model's order.

    Raises:
        StudioError: it is none of the known lists.
    """
    text = read_text(path)
    try:
        labels = _of_csv(text) if path.suffix.lower() == ".csv" else _of_json(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as fault:
        raise StudioError(f"the list of tags cannot be read ({fault})", file=path, allowed=_KINDS) from fault
    if not labels:
        raise StudioError("the list of tags is empty", file=path, allowed=_KINDS)
    return labels


def _of_csv(text: str) -> list[Label]:
    rows = csv.DictReader(io.StringIO(text))
    column = next((name for name in ("name", "tag") if name in (rows.fieldnames or ())), None)
    if column is None:
        raise ValueError("no column is called name")
    return [Label(row[column], _category(row.get("category") or "0")) for row in rows]


def _of_json(values: Any) -> list[Label]:
    if isinstance(values, list):
        return [Label(str(name)) for name in values]
    if "idx_to_tag" in values:
        names, categories = values["idx_to_tag"], values["tag_to_category"]
        names = dict(enumerate(names)) if isinstance(names, list) else names
        return _in_order({index: Label(name, _category(categories[name])) for index, name in names.items()})
    return _in_order({index: Label(each["tag"], _category(each["category"])) for index, each in values.items()})


def _in_order(labels: Mapping[Any, Label]) -> list[Label]:
    by_index = {int(index): label for index, label in labels.items()}
    if sorted(by_index) != list(range(len(by_index))):
        raise ValueError("the numbers of its tags have gaps")
    return [by_index[index] for index in range(len(by_index))]


def _category(text: Any) -> str:
    """A category by the boorus' number or by its name."""
    category = _BOORU.get(str(text).strip(), str(text).strip().lower())
    if category not in CATEGORIES:
        raise ValueError(f"{text!r} is no category")
    return category
