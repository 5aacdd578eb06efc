"""Groups of tags that a person has made: a text file with a line for each, such as ``outfit: hat, * dress``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.dataset.tag_groups import matching, plain
from lib_lora.files.atomic import write_text

_MOST_NAME = 40


@dataclass(frozen=True)
class OwnGroup:
    """``tags``: in plain form; a * stands for any letters."""

    name: str
    tags: tuple[str, ...]


class OwnGroups:
    """The groups in a file, which may be written by hand, too: it is read anew when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: object = None
        self._text = ""
        self._groups: tuple[OwnGroup, ...] = ()
        self._finds: tuple[tuple[str, re.Pattern[str]], ...] = ()
        self.problem: str | None = None  # why the file is not used

    @property
    def text(self) -> str:
        self._look()
        return self._text

    @property
    def groups(self) -> tuple[OwnGroup, ...]:
        self._look()
        return self._groups

    def write(self, text: str) -> None:
        """Raises StudioError at field "text" where a line is no group, or the file cannot be written."""
        parse_groups(text)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, text)
        self._stamp = None

    def finder(self) -> Callable[[str], str]:
        """Gives the name of the first group that a tag, as anybody writes it, is in; empty where it is in none."""
        self._look()
        finds = self._finds

        def find(tag: str) -> str:
            form = plain(tag) if finds else ""
            return next((name for name, pattern in finds if pattern.fullmatch(form)), "")

        return find

    def _look(self) -> None:
        try:
            status = self._path.stat()
            stamp: object = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = "none"
        if stamp == self._stamp:
            return
        self._stamp, self.problem, self._text, groups = stamp, None, "", ()
        if stamp != "none":
            try:
                self._text = self._path.read_text(encoding="utf-8-sig")
                groups = parse_groups(self._text)
            except (StudioError, OSError, UnicodeDecodeError) as fault:
                self.problem = f"{self._path.name} is not used: {fault}"
        self._groups = groups
        self._finds = tuple((group.name, matching(group.tags)) for group in groups)


def parse_groups(text: str) -> tuple[OwnGroup, ...]:
    """Groups of a text with a line for each; empty lines and those that begin with # are left out.

    Raises:
        StudioError: at field "text", naming the line.
    """
    groups: dict[str, OwnGroup] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, listed = (part.strip() for part in line.partition(":"))
        tags = tuple(tag for tag in map(plain, listed.split(",")) if tag)
        if not (colon and name and tags) or len(name) > _MOST_NAME:
            raise StudioError(f"line {number} is no group", field="text", came=line, allowed="name: tag, tag")
        if name in groups:
            raise StudioError(f"line {number}: the group is there twice", field="text", came=name)
        groups[name] = OwnGroup(name, tags)
    return tuple(groups.values())
