"""Batch edits: each a frozen option class that makes a new caption of an old one, and knows of nothing else.

Sentences in a caption stay as they are; a caption whose tags do not change is returned as it was written.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property
from typing import Any, TypeVar

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping, option
from lib_lora.base.registry import Registry
from lib_lora.base.seeds import derive_seed
from lib_lora.dataset.consolidate import subsume
from lib_lora.dataset.tag_groups import kaomoji, plain
from lib_lora.dataset.tags import split_caption
from lib_lora.text.captions import JOINED_BY

EDITS: Registry[type[Edit]] = Registry("edit")
E = TypeVar("E", bound="type[Edit]")
_EXACT = "* and ? are no wildcards: the tags are meant that have them in their names"


@dataclass(frozen=True)
class About:
    """What an edit may ask about the picture and the dataset.

    Attributes:
        name: the picture's path in the dataset.
        counts: tag -> on how many pictures of the dataset it is.
        count_tokens: of a text; None where no tokenizer is there.
        categories: tag in plain form -> the number of its category, where a booru list is known.
    """

    name: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    count_tokens: Callable[[str], int] | None = None
    categories: Mapping[str, int] = field(default_factory=dict)

    def tokens(self, text: str) -> int:
        """Raises StudioError where there is no tokenizer."""
        if self.count_tokens is None:
            raise StudioError("tokens cannot be counted: no tokenizer is loaded")
        return self.count_tokens(text)


@dataclass(frozen=True)
class Edit(ABC):
    """``edit(caption, about)`` is the new caption. ``name`` and ``help`` are for people."""

    name = ""
    help = ""

    @abstractmethod
    def __call__(self, caption: str, about: About = About()) -> str: ...

    def describe(self) -> str:
        """One line for the history."""
        return self.name

    def needs(self) -> set[str]:
        """Which of ``About``'s "counts", "tokens" and "categories" it asks for."""
        return set()


def make_edit(name: str, values: Mapping[str, Any]) -> Edit:
    """The edit ``name`` with its options, checked.

    Raises:
        StudioError: an unknown edit or option, or a bad value.
    """
    return from_mapping(EDITS.get(name), values)


def edit(name: str, help: str) -> Callable[[E], E]:
    """Register an edit."""

    def register(kind: E) -> E:
        kind.name, kind.help = name, help
        return EDITS.register(name)(kind)

    return register


@dataclass(frozen=True)
class TagEdit(Edit):
    """An edit of the list of tags."""

    def __call__(self, caption: str, about: About = About()) -> str:
        parts = split_caption(caption)
        tags = self.change(list(parts.tags), about)
        return caption if tuple(tags) == parts.tags else parts.with_tags(tags)

    @abstractmethod
    def change(self, tags: list[str], about: About) -> list[str]: ...


def tags_in(texts: tuple[str, ...]) -> list[str]:
    """Tags of a list option, whose values may hold commas; each once."""
    return list(dict.fromkeys(tag.strip() for text in texts for tag in text.split(",") if tag.strip()))


def tag_matcher(pattern: str, *, exact: bool = False) -> Callable[[str], bool]:
    """Whether a tag is the one meant: in any case, with underscores or spaces. ``*`` and ``?`` are wildcards, with
    ``exact`` letters like others."""
    wanted = plain(pattern)
    if not exact and ("*" in wanted or "?" in wanted):
        matches = re.compile(translate(wanted)).match
        return lambda tag: plain(tag) == wanted or matches(plain(tag)) is not None
    return lambda tag: plain(tag) == wanted


def _required_tags(edit: Any, name: str) -> list[str]:
    tags = tags_in(getattr(edit, name))
    if not tags:
        raise StudioError("must be given", field=name, allowed="tags with commas between them")
    return tags


def _listed(tags: list[str]) -> str:
    return ", ".join(tags[:5]) + (", ..." if len(tags) > 5 else "")


@edit("add", "add tags at the front, the end or a place")
@dataclass(frozen=True)
class Add(TagEdit):
    tags: tuple[str, ...] = option((), "tags to add, with commas between them")
    at: str = option("end", "where they go", choices=("front", "end", "place"))
    place: int = option(1, "for place: how many tags stay before them", minimum=0)
    move: bool = option(False, "tags that are there already move to that place, too")

    def __post_init__(self) -> None:
        _required_tags(self, "tags")

    def change(self, tags: list[str], about: About) -> list[str]:
        new = tags_in(self.tags)
        forms = {plain(tag) for tag in (new if self.move else tags)}
        if self.move:
            tags = [tag for tag in tags if plain(tag) not in forms]
        else:
            new = [tag for tag in new if plain(tag) not in forms]
        cut = {"front": 0, "end": len(tags), "place": self.place}[self.at]
        return tags[:cut] + new + tags[cut:]

    def describe(self) -> str:
        return f"add {_listed(tags_in(self.tags))}"


class _MatchedTags(TagEdit):
    """An edit of tags that are named in its option ``tags``."""

    tags: tuple[str, ...]
    exact: bool

    def __post_init__(self) -> None:
        _required_tags(self, "tags")

    @cached_property
    def _matchers(self) -> list[Callable[[str], bool]]:
        return [tag_matcher(tag, exact=self.exact) for tag in tags_in(self.tags)]


@edit("remove", "remove tags")
@dataclass(frozen=True)
class Remove(_MatchedTags):
    tags: tuple[str, ...] = option((), "tags to remove, with commas between them; * and ? are wildcards")
    exact: bool = option(False, _EXACT)

    def change(self, tags: list[str], about: About) -> list[str]:
        return [tag for tag in tags if not any(matches(tag) for matches in self._matchers)]

    def describe(self) -> str:
        return f"remove {_listed(tags_in(self.tags))}"


@edit("rename", "give tags another name; where the new one is there already, one of the two stays")
@dataclass(frozen=True)
class Rename(TagEdit):
    tags: tuple[str, ...] = option((), "tags to rename, with commas between them; * and ? are wildcards")
    into: tuple[str, ...] = option((), "the tag, or tags, to write in their place")
    exact: bool = option(False, _EXACT)

    def __post_init__(self) -> None:
        _required_tags(self, "tags")
        _required_tags(self, "into")

    @cached_property
    def _matchers(self) -> list[Callable[[str], bool]]:
        return [tag_matcher(tag, exact=self.exact) for tag in tags_in(self.tags)]

    def change(self, tags: list[str], about: About) -> list[str]:
        into = tags_in(self.into)
        meant = [any(matches(tag) for matches in self._matchers) for tag in tags]
        there = {tag for tag, is_meant in zip(tags, meant) if not is_meant}
        renamed: list[str] = []
        for tag, is_meant in zip(tags, meant):
            renamed += [new for new in into if new not in there and new not in renamed] if is_meant else [tag]
        return renamed

    def describe(self) -> str:
        return f"rename {_listed(tags_in(self.tags))} to {_listed(tags_in(self.into))}"


@edit("replace", "replace text, plain or by a regular expression, in tags or in whole captions")
@dataclass(frozen=True)
class Replace(Edit):
    find: str = option("", "what to look for")
    into: str = option("", "what to write in its place; with regex, \\1 is the first group")
    within: str = option("caption", "look in each tag alone, or in the whole caption", choices=("caption", "tag"))
    regex: bool = option(False, "what to look for is a regular expression")
    match_case: bool = option(False, "a and A differ")

    def __post_init__(self) -> None:
        if not self.find:
            raise StudioError("must be given", field="find", allowed="text")
        if self.regex:
            try:
                self._pattern.sub(self.into, "")
            except re.error as error:
                field = "find" if not _compiles(self.find) else "into"
                problem = f"is no regular expression ({error})"
                raise StudioError(problem, field=field, came=getattr(self, field)) from None
            except IndexError as error:
                raise StudioError(f"names a group that is not there ({error})", field="into", came=self.into) from None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.find if self.regex else re.escape(self.find), 0 if self.match_case else re.IGNORECASE)

    def __call__(self, caption: str, about: About = About()) -> str:
        into: Any = self.into if self.regex else lambda found: self.into
        if self.within == "caption":
            changed = self._pattern.sub(into, caption)
            return caption if changed == caption else " ".join(changed.split("\n")).strip()
        parts = split_caption(caption)
        tags = tuple(self._pattern.sub(into, tag) for tag in parts.tags)
        return caption if tags == parts.tags else parts.with_tags(tag.strip() for tag in tags if tag.strip())

    def describe(self) -> str:
        return f"replace {self.find} by {self.into}"


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


@edit("dedupe", "of tags that are there twice keep the first")
@dataclass(frozen=True)
class Dedupe(TagEdit):
    alike: bool = option(True, "red_hair, Red hair and red hair are the same")

    def change(self, tags: list[str], about: About) -> list[str]:
        first: dict[str, str] = {}
        for tag in tags:
            first.setdefault(plain(tag) if self.alike else tag, tag)
        return list(first.values())


@edit("sort", "put tags in order")
@dataclass(frozen=True)
class Sort(TagEdit):
    by: str = option("name", "what decides", choices=("name", "frequency", "length", "tokens", "category"))
    reverse: bool = option(False, "the other way round")
    keep_first: int = option(0, "how many of the first tags stay where they are", unit="tags", minimum=0)

    def change(self, tags: list[str], about: About) -> list[str]:
        rest = sorted(tags[self.keep_first :], key=self._key(about), reverse=self.reverse)
        return tags[: self.keep_first] + rest

    def _key(self, about: About) -> Callable[[str], Any]:
        if self.by == "frequency":
            return lambda tag: -about.counts.get(tag, 0)
        if self.by == "category":
            if not about.categories:
                raise StudioError("no list of tags with categories is there", field="by", came=self.by)
            return lambda tag: about.categories.get(plain(tag), len(about.categories))
        return {"name": plain, "length": len, "tokens": about.tokens}[self.by]

    def describe(self) -> str:
        return f"sort by {self.by}"

    def needs(self) -> set[str]:
        return {"frequency": {"counts"}, "tokens": {"tokens"}, "category": {"categories"}}.get(self.by, set())


@edit("shuffle", "put tags in a random order, the same each time for one seed")
@dataclass(frozen=True)
class Shuffle(TagEdit):
    keep_first: int = option(1, "how many of the first tags stay where they are", unit="tags", minimum=0)
    seed: int = option(1, "another number, another order", minimum=0)

    def change(self, tags: list[str], about: About) -> list[str]:
        rest = tags[self.keep_first :]
        random.Random(derive_seed(self.seed, "tag order", about.name)).shuffle(rest)
        return tags[: self.keep_first] + rest


@edit("move_to_front", "put tags first, in the order given, where they are there")
@dataclass(frozen=True)
class MoveToFront(_MatchedTags):
    tags: tuple[str, ...] = option((), "tags, with commas between them; * and ? are wildcards")
    exact: bool = option(False, _EXACT)

    def change(self, tags: list[str], about: About) -> list[str]:
        front, rest = [], tags
        for matches in self._matchers:
            front += [tag for tag in rest if matches(tag)]
            rest = [tag for tag in rest if not matches(tag)]
        return front + rest

    def describe(self) -> str:
        return f"move {_listed(tags_in(self.tags))} to the front"


@edit("truncate", "leave out the last tags until the caption is short enough")
@dataclass(frozen=True)
class Truncate(TagEdit):
    tokens: int | None = option(75, "most tokens of the caption; none for any number", unit="tokens", minimum=1)
    tags: int | None = option(None, "most tags", unit="tags", minimum=1)

    def __call__(self, caption: str, about: About = About()) -> str:
        parts = split_caption(caption)
        tags = self.change(list(parts.tags), about)
        while self.tokens is not None and tags and about.tokens(parts.with_tags(tags)) > self.tokens:
            tags = tags[:-1]
        return caption if tuple(tags) == parts.tags else parts.with_tags(tags)

    def change(self, tags: list[str], about: About) -> list[str]:
        return tags if self.tags is None else tags[: self.tags]

    def describe(self) -> str:
        limits = [f"{self.tokens} tokens"] * (self.tokens is not None) + [f"{self.tags} tags"] * (self.tags is not None)
        return f"truncate to {' and '.join(limits) or 'nothing'}"

    def needs(self) -> set[str]:
        return set() if self.tokens is None else {"tokens"}


@edit("subsume", "leave out tags that a longer one says: boots beside red boots")
@dataclass(frozen=True)
class Subsume(TagEdit):
    def change(self, tags: list[str], about: About) -> list[str]:
        return subsume(tags)


@edit("underscores", "write spaces for underscores in tags, or underscores for spaces; faces such as ^_^ stay")
@dataclass(frozen=True)
class Underscores(TagEdit):
    into: str = option("spaces", "what tags are written with", choices=("spaces", "underscores"))

    def change(self, tags: list[str], about: About) -> list[str]:
        old, new = ("_", " ") if self.into == "spaces" else (" ", "_")
        return [tag if tag in kaomoji() else tag.replace(old, new) for tag in tags]

    def describe(self) -> str:
        return f"{'underscores to spaces' if self.into == 'spaces' else 'spaces to underscores'}"


@edit("parentheses", "write \\( \\) as ( ) in tags, or the other way round; training wants them plain")
@dataclass(frozen=True)
class Parentheses(TagEdit):
    into: str = option("plain", "what tags are written with", choices=("plain", "escaped"))

    def change(self, tags: list[str], about: About) -> list[str]:
        unescaped = [re.sub(r"\\([()\[\]])", r"\1", tag) for tag in tags]
        if self.into == "plain":
            return unescaped
        return [tag if tag in kaomoji() else re.sub(r"([()])", r"\\\1", tag) for tag in unescaped]


@edit("lower_case", "write tags in lower case")
@dataclass(frozen=True)
class LowerCase(TagEdit):
    keep_first: int = option(0, "how many of the first tags stay as they are", unit="tags", minimum=0)

    def change(self, tags: list[str], about: About) -> list[str]:
        return tags[: self.keep_first] + [tag.lower() for tag in tags[self.keep_first :]]


POLICIES = ("if_empty", "overwrite", "prepend", "append")


def combine(old: str, new: str, policy: str) -> str:
    """Two captions as one: ``policy`` is one of ``POLICIES``. Tags that are there already are not added again."""
    if not new.strip() or (policy == "if_empty" and old.strip()):
        return old
    if policy in ("if_empty", "overwrite") or not old.strip():
        return new
    parts = split_caption(new)
    more = parts.with_tags(lacking(old, split_caption(old).tags, parts.tags))
    return old if more in old else beside(old, more, policy)


def lacking(caption: str, its_parts: Iterable[str], parts: Iterable[str]) -> list[str]:
    """Those of ``parts`` that the caption does not have, whichever way they are written."""
    there = {plain(part) for part in its_parts}
    # A sentence with commas may have been taken for tags.
    return [part for part in parts if plain(part) not in there and not ("," in part and part in caption)]


def beside(old: str, more: str, policy: str) -> str:
    """``policy``: "prepend" or "append"."""
    old = old.strip().rstrip(",").rstrip()
    return JOINED_BY.join([more, old] if policy == "prepend" else [old, more])


@edit("from_name", "take the caption from the picture's file name")
@dataclass(frozen=True)
class FromName(Edit):
    pattern: str = option("(.+)", "regular expression that the name without its extension matches; groups are taken")
    joined_by: str = option(", ", "what stands between groups")
    policy: str = option("if_empty", "what becomes of a caption that is there", choices=POLICIES)

    def __post_init__(self) -> None:
        if not _compiles(self.pattern):
            raise StudioError("is no regular expression", field="pattern", came=self.pattern)

    def __call__(self, caption: str, about: About = About()) -> str:
        stem = about.name.rpartition("/")[2].rpartition(".")[0]
        found = re.search(self.pattern, stem)
        if not found:
            return caption
        taken = [text.strip() for text in (found.groups() or [found[0]]) if text and text.strip()]
        return combine(caption, self.joined_by.join(taken), self.policy)


@edit("set", "write one caption")
@dataclass(frozen=True)
class Set(Edit):
    text: str = option("", "the caption")
    policy: str = option("overwrite", "what becomes of a caption that is there", choices=POLICIES)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise StudioError("must be given", field="text", allowed="text")

    def __call__(self, caption: str, about: About = About()) -> str:
        return combine(caption, " ".join(self.text.split()), self.policy)
