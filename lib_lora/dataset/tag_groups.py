"""What tags mean: groups of them, which exclude one another, and when two written ones are the same.

The words are in ``tag_groups.toml``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.files.toml_file import read_tables


@functools.cache
def _data() -> dict[str, Any]:
    return read_tables(Path(__file__).with_name("tag_groups.toml"))


def matching(tags: Iterable[str]) -> re.Pattern[str]:
    """What matches one of ``tags`` whole; a * in them stands for any letters."""
    parts = (".*".join(map(re.escape, tag.split("*"))) for tag in tags)
    return re.compile("|".join(f"(?:{part})" for part in parts))


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    return matching(_data()["groups"][name])


@functools.lru_cache(maxsize=1 << 18)
def in_group(tag: str, name: str) -> bool:
    """Whether ``tag``, as anybody writes it, belongs to a group of the file."""
    return _pattern(name).fullmatch(plain(tag)) is not None


@functools.cache
def kaomoji() -> frozenset[str]:
    """Faces such as ^_^, whose underscores stay when others become spaces."""
    return frozenset(_data()["groups"]["kaomoji"])


@functools.lru_cache(maxsize=1 << 18)
def plain(tag: str) -> str:
    """The form in which two ways to write one tag are equal: lower case, spaces for underscores, plain brackets."""
    text = tag.strip().lower()
    if text in kaomoji():
        return text
    text = re.sub(r"\\([()\[\]])", r"\1", text)
    return " ".join(text.replace("_", " ").split())


@dataclass(frozen=True)
class Exclusive:
    """Attributes:
    what: for people, in the plural.
    tags: of these a picture can have one.
    of_person: on pictures of one person only.
    unless: a group that lifts it.
    all_with: where it is set, this tag excludes all the others, and these not one another.
    """

    what: str
    tags: frozenset[str]
    of_person: bool
    unless: str | None
    all_with: str | None


@functools.cache
def exclusives() -> tuple[Exclusive, ...]:
    data = _data()
    return tuple(
        Exclusive(
            entry["what"],
            frozenset(data["groups"][entry["group"]] if "group" in entry else entry["tags"]),
            entry.get("of") == "person",
            entry.get("unless"),
            entry.get("all_with"),
        )
        for entry in data["exclusive"]
    )


@functools.cache
def wider_words() -> dict[str, str]:
    """Narrower word -> the wider one: boots -> footwear."""
    return {narrow: wide for wide, narrows in _data()["wider"].items() for narrow in narrows}


@functools.cache
def words(name: str) -> frozenset[str]:
    """A list of single words: "binding" or "colours"."""
    return frozenset(_data()["words"][name])


@functools.cache
def known_words() -> frozenset[str]:
    """Every word of the file: none of them is a slip of the pen."""
    data = _data()
    tags = [tag for group in data["groups"].values() for tag in group]
    tags += [tag for entry in data["exclusive"] for tag in entry.get("tags", ())]
    tags += [tag for wide, narrows in data["wider"].items() for tag in (wide, *narrows)]
    tags += [word for group in data["words"].values() for word in group]
    return frozenset(word.strip("*():") for tag in tags for word in tag.split())
