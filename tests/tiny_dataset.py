"""Looks at an open dataset by its pictures' names."""

from __future__ import annotations

from lib_lora.dataset.collection import Collection


def captions_of(collection: Collection) -> dict[str, str | None]:
    return {item.stem: item.caption for item in collection.items}


def ids_of(collection: Collection, *stems: str) -> list[int]:
    by_stem = {item.stem: item.id for item in collection.items}
    return [by_stem[stem] for stem in stems]
