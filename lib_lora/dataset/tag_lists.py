"""Lists of known tags that people drop in: booru csv files, for suggestions and for the categories of tags.

Two forms are read: ``name,category,count,"alias,alias"`` without a head, as autocompletion extensions have them, and
any columns named in a head (``tag_id,name,category,count``, as taggers have them).
"""

from __future__ import annotations

import csv
import io
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.dataset.tag_groups import plain
from lib_lora.files.atomic import safe_name, write_text

MOST_LISTS = 20
_ENDINGS = (".csv", ".txt")
_COLUMNS = ("name", "category", "count", "aliases")
_HEAD_WORDS = frozenset({"name", "tag", "tag_id", "category", "count", "post_count", "aliases"})
_OTHER_WORDS = {"tag": "name", "post_count": "count"}
# Danbooru's numbers; a tagger's list adds 9. e621 numbers three more of its own.
_CATEGORIES = {"0": "general", "1": "artist", "3": "copyright", "4": "character", "5": "meta", "9": "rating"}
_CATEGORIES_OF_E621 = {**_CATEGORIES, "5": "species", "7": "meta", "8": "lore"}
# In which captions are sorted by category.
_ORDER = ("character", "copyright", "artist", "species", "general", "lore", "meta", "rating")


@dataclass(frozen=True)
class KnownTag:
    """A tag as captions write it. ``posts``: how often the list counts it; ``alias``: the name that it was found by."""

    tag: str
    category: str
    posts: int
    alias: str = ""


class KnownTags:
    """Tags to look among, the most frequent first; of one that stands in several lists the first counts."""

    def __init__(self, rows: Iterable[tuple[KnownTag, tuple[str, ...]]]) -> None:
        first: dict[str, tuple[KnownTag, tuple[str, ...]]] = {}
        for tag, aliases in rows:
            first.setdefault(tag.tag, (tag, aliases))
        ordered = sorted(first.values(), key=lambda row: -row[0].posts)
        self.categories: Mapping[str, str] = {tag.tag: tag.category for tag, _ in ordered}
        # All names in one text: looking for a part of a name is then one search, not a hundred thousand.
        self._names: list[tuple[KnownTag, str]] = []
        for tag, aliases in ordered:
            self._names += [(tag, "")] + [(tag, alias) for alias in aliases]
        self._starts, parts, place = [], [], 0
        for tag, alias in self._names:
            self._starts.append(place)
            parts.append(alias or tag.tag)
            place += len(parts[-1]) + 1
        self._text = "\n".join(parts)

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def ranks(self) -> Mapping[str, int]:
        """Tag -> the place of its category in a caption (``Collection.categories``)."""
        return {tag: _ORDER.index(category) for tag, category in self.categories.items()}

    def search(self, part: str, most: int) -> list[KnownTag]:
        """Tags whose name, or another name of theirs, holds ``part``; the most frequent first."""
        wanted, found = plain(part), {}
        place = self._text.find(wanted) if wanted else -1
        while place >= 0 and len(found) < most:
            index = bisect_right(self._starts, place) - 1
            tag, alias = self._names[index]
            found.setdefault(tag.tag, tag if not alias else KnownTag(tag.tag, tag.category, tag.posts, alias))
            after = self._starts[index + 1] if index + 1 < len(self._starts) else len(self._text)
            place = self._text.find(wanted, after)
        return list(found.values())


class TagLists:
    """The lists in a folder. May be called from several threads.

    Attributes:
        notes: of lists that could not be read when they were last asked for, why; they are left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._known: tuple[object, KnownTags] = (None, KnownTags(()))

    def names(self) -> list[str]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.lower().endswith(_ENDINGS) and not name.startswith("."))

    def known(self) -> KnownTags:
        """All lists together, read anew when one has come or gone."""
        paths = [self.folder / name for name in self.names()]
        stamp = [(path.name, status.st_mtime_ns, status.st_size) for path in paths if (status := _status(path))]
        with self._lock:
            if self._known[0] != stamp:
                self.notes = []
                self._known = (stamp, KnownTags([row for path in paths for row in self._read(path)]))
            return self._known[1]

    def _read(self, path: Path) -> list[tuple[KnownTag, tuple[str, ...]]]:
        """The list's rows; none, and a note, where it cannot be read: somebody may have put anything there."""
        try:
            return list(_rows(path.name, path.read_text("utf-8")))
        except UnicodeDecodeError:
            self.notes.append(f"{path.name} is left out: it is not UTF-8")
        except OSError as fault:
            self.notes.append(f"{path.name} is left out: {fault.strerror or fault}")
        except StudioError as fault:
            self.notes.append(f"{path.name} is left out: it {fault.problem}")
        return []

    def add(self, name: str, text: str) -> None:
        """Keep a list; one of the same name is replaced.

        Raises:
            StudioError: its name cannot be used, it holds no tags, or there are too many lists.
        """
        safe_name(name, field="name")
        if not name.lower().endswith(_ENDINGS):
            raise StudioError("is no list of tags", field="name", came=name, allowed="a csv file")
        if not any(True for _ in _rows(name, text)):
            raise StudioError(
                "holds no tags", field="text", came=name, allowed="lines such as 1girl,0,5000000 or a head with name"
            )
        names = self.names()
        if name not in names and len(names) >= MOST_LISTS:
            raise StudioError(f"there are {MOST_LISTS} lists already; remove one", field="name", came=name)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / name, text)

    def remove(self, name: str) -> None:
        """Raises StudioError where there is none of this name, or the system refuses."""
        if name not in self.names():
            raise StudioError("no such list", field="name", came=name, allowed=self.names())
        try:
            (self.folder / name).unlink()
        except OSError as fault:
            raise StudioError(f"cannot be removed: {fault.strerror or fault}", file=self.folder / name) from fault


def _status(path: Path) -> os.stat_result | None:
    """None for a list that has gone since the folder was looked at, and for a link to nothing."""
    try:
        return path.stat()
    except OSError:
        return None


def _rows(name: str, text: str) -> Iterable[tuple[KnownTag, tuple[str, ...]]]:
    """The tags of a list with their other names."""
    categories = _CATEGORIES_OF_E621 if "e621" in name.lower() else _CATEGORIES
    columns = {column: place for place, column in enumerate(_COLUMNS)}
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""))):
            words = [cell.strip().lower() for cell in row] if number == 0 else []
            if _HEAD_WORDS.intersection(words):
                columns = {_OTHER_WORDS.get(word, word): place for place, word in enumerate(words)}
                continue
            cells = {column: row[at].strip() for column, at in columns.items() if at < len(row)}
            tag = plain(cells.get("name", ""))
            if not tag or "," in tag or not tag.isprintable():
                continue
            aliases = tuple(found for alias in cells.get("aliases", "").split(",") if (found := plain(alias)))
            count = cells.get("count", "")
            posts = int(count) if count.isascii() and count.isdigit() else 0
            yield KnownTag(tag, categories.get(cells.get("category", "0"), "general"), posts), aliases
    except csv.Error as error:
        raise StudioError(f"is no csv ({error})", field="text", came=name) from error
