"""Metadata files of kohya's scripts (json) and of the Hub (jsonl): captions of many pictures in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import option
from lib_lora.dataset.edits import POLICIES, combine
from lib_lora.dataset.items import Item
from lib_lora.dataset.tags import split_caption
from lib_lora.files.captions import read_text
from lib_lora.text.captions import JOINED_BY

_NAME_KEYS = ("file_name", "image_path", "image", "path", "file")
_CAPTION_KEYS = ("caption", "text", "prompt")


@dataclass(frozen=True)
class MetadataIn:
    """How captions are taken from a metadata file."""

    take: str = option(
        "both", "what is taken of an entry; both: the caption, then the tags", choices=("both", "caption", "tags")
    )
    policy: str = option("if_empty", "what becomes of a caption that is there", choices=POLICIES)


@dataclass(frozen=True)
class MetadataOut:
    """How captions are written to a metadata file."""

    keys: str = option(
        "path",
        "what names a picture: its whole path, its path in the dataset, or its name without extension",
        choices=("path", "name", "stem"),
    )
    overwrite: bool = option(False, "replace the file if it is there")


@dataclass(frozen=True)
class Taken:
    """Attributes:
    captions: new caption by id, where it is another than the old one.
    unknown: names in the file that no picture has.
    ambiguous: names in the file that several pictures have.
    """

    captions: dict[int, str]
    unknown: list[str]
    ambiguous: list[str]


def read_metadata(path: str | Path) -> dict[str, tuple[str, str]]:
    """Picture's name -> caption and tags. Tags may be a list or one text with commas.

    Raises:
        StudioError: the file cannot be read, or is no such file.
    """
    return parse_metadata(read_text(path), path)


def parse_metadata(text: str, path: str | Path) -> dict[str, tuple[str, str]]:
    """The same of a file's text; ``path`` says which of the two forms it has."""
    try:
        entries = _lines(text) if str(path).lower().endswith(".jsonl") else json.loads(text)
    except ValueError as fault:
        raise StudioError(f"is no JSON ({fault})", file=path) from None
    if not isinstance(entries, dict):
        raise StudioError("is no metadata file", file=path, allowed='{"picture": {"caption": "...", "tags": "..."}}')
    return {name: _entry(name, entry, path) for name, entry in entries.items()}


def _lines(text: str) -> dict[str, Any]:
    entries = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            entry = json.loads(line)
            names = [entry[key] for key in _NAME_KEYS if isinstance(entry, dict) and isinstance(entry.get(key), str)]
            if not names:
                raise ValueError(f"line {number} has none of {', '.join(_NAME_KEYS)}")
            entries[names[0]] = entry
    return entries


def _entry(name: str, entry: Any, path: str | Path) -> tuple[str, str]:
    if isinstance(entry, (str, list)):
        entry = {"tags": entry}
    if not isinstance(entry, dict):
        raise StudioError("is no caption", field=name, file=path, came=entry)
    caption = next((entry[key] for key in _CAPTION_KEYS if entry.get(key)), "")
    # sd-scripts also knows a list of captions; the first is one.
    caption = caption[0] if isinstance(caption, list) else caption
    tags = entry.get("tags") or ""
    tags = JOINED_BY.join(map(str, tags)) if isinstance(tags, list) else tags
    if not isinstance(caption, str) or not isinstance(tags, str):
        raise StudioError("is no caption", field=name, file=path, came=entry)
    return " ".join(caption.split()), " ".join(tags.split())


def take_captions(entries: Mapping[str, tuple[str, str]], items: Iterable[Item], config: MetadataIn) -> Taken:
    """The captions that a metadata file has for these pictures."""
    by_name = _by_name(items)
    taken = Taken({}, [], [])
    for name, (caption, tags) in entries.items():
        found = _find(name, by_name)
        if len(found) != 1:
            (taken.ambiguous if found else taken.unknown).append(name)
            continue
        (item,) = found
        parts = {"caption": [caption], "tags": [tags], "both": [caption, tags]}[config.take]
        old = item.caption or ""
        new = combine(old, JOINED_BY.join(part for part in parts if part), config.policy)
        if new != old:
            taken.captions[item.id] = new
    return taken


def _by_name(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Each of the names that a file may know a picture by, the fullest first."""
    found: dict[str, list[Item]] = {}
    for item in items:
        names = (str(item.path), item.name, item.file_name)
        for name in dict.fromkeys([*names, *(os.path.splitext(name)[0] for name in names)]):
            found.setdefault(_normal(name), []).append(item)
    return found


def _find(name: str, by_name: Mapping[str, list[Item]]) -> list[Item]:
    """The pictures meant: by the whole name, else by its last part, as paths differ from machine to machine."""
    name = _normal(name)
    return by_name.get(name) or by_name.get(name.rpartition("/")[2], [])


def _normal(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def metadata_of(items: Sequence[Item], config: MetadataOut) -> dict[str, dict[str, str]]:
    """What sd-scripts reads as these captions: it puts the caption before the tags.

    Raises:
        StudioError: two pictures would have one name.
    """
    entries: dict[str, dict[str, str]] = {}
    for item in items:
        if not item.caption:
            continue
        name = {"path": str(item.path), "name": item.name, "stem": item.stem}[config.keys]
        if name in entries:
            raise StudioError("two pictures have one name", field="keys", came=name, allowed="path or name")
        parts = split_caption(item.caption)
        if not parts.prose:
            entries[name] = {"tags": item.caption}
        elif not parts.before:
            entries[name] = {"caption": parts.prose, **({"tags": JOINED_BY.join(parts.after)} if parts.after else {})}
        else:
            entries[name] = {"caption": item.caption}
    return entries


def metadata_text(entries: Mapping[str, Mapping[str, str]], *, lines: bool) -> str:
    """As json, or as jsonl with one picture a line."""
    if not lines:
        return json.dumps(entries, ensure_ascii=False, indent=2) + "\n"
    rows = ({"file_name": name, **entry} for name, entry in entries.items())
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
