"""The filter language: ``1girl -hat``, ``red_* AND NOT (blue OR green)``, ``caption:"holding a" tags>10``.

A text becomes a tree of terms; a term answers with the bits of the items that it is true for (``tag_index``).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from itertools import compress, repeat
from typing import Any, Protocol

from lib_lora.base.errors import StudioError
from lib_lora.dataset.items import Item
from lib_lora.dataset.tag_groups import plain
from lib_lora.dataset.tag_index import TagIndex, bits_of, bits_of_flags

_TEXTS: dict[str, Callable[[Item], str]] = {
    "caption": lambda item: item.caption or "",
    "prose": lambda item: item.prose,
    "name": lambda item: item.file_name,
    "path": lambda item: item.name,
    "folder": lambda item: item.folder,
    "concept": lambda item: item.concept,
}
_NUMBERS: dict[str, Callable[[Item], float]] = {
    "tags": lambda item: len(item.tags),
    "characters": lambda item: item.characters,
    "width": lambda item: item.width_px,
    "height": lambda item: item.height_px,
    "side": lambda item: min(item.width_px, item.height_px),
    "megapixels": lambda item: item.width_px * item.height_px / 1e6,
    "ratio": lambda item: item.width_px / item.height_px if item.height_px else 0.0,
    "kilobytes": lambda item: item.bytes / 1024,
    "repeats": lambda item: item.repeats,
    "lines": lambda item: 1 + item.lines_unused if item.caption else 0,
}
_STATES: dict[str, Callable[[Item], bool]] = {
    "captioned": lambda item: bool(item.caption),
    "uncaptioned": lambda item: not item.caption,
    "prose": lambda item: bool(item.prose),
    "damaged": lambda item: item.problem is not None,
    "animated": lambda item: item.animated,
    "regularisation": lambda item: item.regularisation,
    "untrained": lambda item: item.repeats == 0,
}


# Of a column's values: whether a query is true for each. Made of what is compiled: there are ten thousand values.
Flags = Callable[[Sequence[Any]], Iterable[bool]]


class Columns:
    """Items by attribute: what is asked for is laid out once, and kept as the items change. Texts are in lower case."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = list(items)
        self._ids = [item.id for item in self._items]
        self._are_places = self._ids == list(range(len(self._ids)))
        self._made: dict[tuple[str, str], tuple[Callable[[Item], Any], list[Any]]] = {}

    def bits(self, kind: str, name: str, of: Callable[[Item], Any], flags: Flags) -> int:
        """Bits of the items for whose value ``of(item)``, kept under ``kind`` and ``name``, ``flags`` are set."""
        if (kind, name) not in self._made:
            values = list(map(of, self._items))
            self._made[kind, name] = (of, _lowered(values) if kind == _TEXT else values)
        found = flags(self._made[kind, name][1])
        if self._are_places:
            return bits_of_flags(bytes(found))
        return bits_of(compress(self._ids, found))

    def change(self, item: Item) -> None:
        """The item of this id is another now."""
        place = item.id if self._are_places else self._ids.index(item.id)
        self._items[place] = item
        self._made.pop(_COUNTED, None)  # tokens take long to count: not before they are asked for again
        for (kind, _), (of, values) in self._made.items():
            values[place] = of(item).lower() if kind == _TEXT else of(item)


def _lowered(texts: list[str]) -> list[str]:
    """All at once takes a third of the time. Neither a caption nor a name has a zero byte."""
    return "\0".join(texts).lower().split("\0") if texts else []


_TEXT = "text"
_COUNTED = ("number", "tokens")


class Source(Protocol):
    """What a query is asked of."""

    index: TagIndex
    columns: Columns
    every: int  # bits of all items
    selected: int  # bits of those that a person has selected

    def tokens(self, item: Item) -> int: ...


Query = Callable[[Source], int]

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_NUMBER = re.compile(rf"({'|'.join([*_NUMBERS, 'tokens'])})(>=|<=|!=|>|<|==?)(.*)", re.IGNORECASE)
_FIELD = re.compile(rf"({'|'.join([*_TEXTS, 'tag', 'is'])}):", re.IGNORECASE)
_OPERATORS = {"AND": "and", "&": "and", ",": ",", "OR": "or", "|": "or", "NOT": "not", "(": "(", ")": ")"}
_DEEPEST = 50


def parse_query(text: str) -> Query:
    """What ``text`` asks for; everything where it is empty.

    Raises:
        StudioError: at field "filter", naming the position (from 1) where it cannot be understood.
    """
    return _Parser(text).parse()


@dataclass(frozen=True)
class _Token:
    """``kind``: "and", ",", "or", "not", "(", ")", "word" or "end"; of a word ``query`` is what it asks for."""

    kind: str
    begin: int
    query: Query | None = None
    word: str | None = None  # of a plain word: what may be part of a tag of several words


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_Lexer(text).tokens())
        self._place = 0
        self._depth = 0

    def parse(self) -> Query:
        if self._kind() == "end":
            return lambda source: source.every
        query = self._either()
        if self._kind() == ")":
            raise self._fault("there is no ( for this )")
        return query

    def _either(self) -> Query:
        queries = [self._all()]
        while self._kind() == "or":
            self._place += 1
            queries.append(self._all())
        return queries[0] if len(queries) == 1 else lambda source: _union(query(source) for query in queries)

    def _all(self) -> Query:
        queries = [self._one()]
        while True:
            while self._kind() in ("and", ","):
                needs_word = self._kind() == "and"
                self._place += 1
                if needs_word and self._kind() in ("and", "or", ",", ")", "end"):
                    raise self._fault("a word is missing here")
            if self._kind() in ("or", ")", "end"):
                break
            queries.append(self._one())
        return queries[0] if len(queries) == 1 else lambda source: _intersection(source, queries)

    def _one(self) -> Query:
        token = self._tokens[self._place]
        if token.kind == "not":
            self._place += 1
            return _inverse(self._nested(self._one_only))
        if token.kind == "(":
            self._place += 1
            query = self._nested(self._either)
            if self._kind() != ")":
                raise self._fault("a ) is missing", self._tokens[self._place].begin)
            self._place += 1
            return query
        if token.kind != "word":
            raise self._fault("a word is missing here")
        return self._words()

    def _one_only(self) -> Query:
        """What stands behind NOT or -: one word, or a bracket."""
        token = self._tokens[self._place]
        if token.kind != "word":
            return self._one()
        self._place += 1
        return token.query

    def _words(self) -> Query:
        """A word, or plain words beside each other, which together may be one tag or several."""
        words = []
        while self._tokens[self._place].word is not None:
            words.append(self._tokens[self._place].word)
            self._place += 1
        if len(words) > 1:
            return lambda source: _divided(source, words)
        if words:
            return self._tokens[self._place - 1].query
        self._place += 1
        return self._tokens[self._place - 1].query

    def _nested(self, parse: Callable[[], Query]) -> Query:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._fault("brackets are nested too deep")
        query = parse()
        self._depth -= 1
        return query

    def _kind(self) -> str:
        return self._tokens[self._place].kind

    def _fault(self, problem: str, position: int | None = None) -> StudioError:
        return _fault(self._text, self._tokens[self._place].begin if position is None else position, problem)


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def tokens(self) -> Iterable[_Token]:
        text = self._text
        while True:
            while self._place < len(text) and text[self._place].isspace():
                self._place += 1
            begin = self._place
            if begin == len(text):
                yield _Token("end", begin)
                return
            if text[begin] in "(),":
                self._place += 1
                yield _Token(_OPERATORS[text[begin]], begin)
            elif self._is_minus(begin):
                self._place += 1
                yield _Token("not", begin)
            else:
                yield self._word(begin)

    def _is_minus(self, place: int) -> bool:
        """A - or ! right before a word, a quote or a bracket means NOT; faces such as -_- and !? are words."""
        following = self._text[place + 1 : place + 2]
        if self._text[place] not in "-!" or not following:
            return False
        return following.isalnum() or following in '"(/' or (self._text[place] == "-" and following in "*:\\")

    def _word(self, begin: int) -> _Token:
        found = _FIELD.match(self._text, begin)
        if found:
            self._place = found.end()
            value, quoted = self._value()
            return _Token("word", begin, self._field(found[1].lower(), value, quoted, found.end()))
        value, quoted = self._value()
        if quoted == '"':
            return _Token("word", begin, lambda source: source.index.exact(value))
        if quoted == "/":
            pattern = self._regex(value, begin + 1)
            return _Token("word", begin, lambda source: source.index.matching(pattern, whole=False))
        if value in _OPERATORS:
            return _Token(_OPERATORS[value], begin)
        if value.lower() == "selected":
            return _Token("word", begin, lambda source: source.selected)
        number = _NUMBER.fullmatch(value)
        if number:
            return _Token("word", begin, self._number(number, begin))
        query = _tag_query(value)
        return _Token("word", begin, query, None if _has_wildcard(value) else value)

    def _value(self) -> tuple[str, str]:
        """What stands here, and whether it stands between quotes or slashes."""
        text, begin = self._text, self._place
        first = text[begin] if begin < len(text) else ""
        if first == '"' or (first == "/" and self._closing("/", begin + 1) is not None):
            return self._enclosed(first)
        depth, value = 0, []
        while self._place < len(text):
            letter = text[self._place]
            if letter == "\\" and self._place + 1 < len(text):
                value.append(text[self._place + 1])
                self._place += 2
                continue
            if letter.isspace() or letter == "," or (letter == ")" and depth == 0):
                break
            if letter == "(" and "".join(value) in _OPERATORS:
                break  # NOT(a OR b)
            depth += (letter == "(") - (letter == ")")
            value.append(letter)
            self._place += 1
        if not value:
            raise _fault(text, begin, "a word is missing here")
        return "".join(value), ""

    def _enclosed(self, mark: str) -> tuple[str, str]:
        begin = self._place
        end = self._closing(mark, begin + 1)
        if end is None:
            raise _fault(self._text, begin, f"the closing {mark} is missing")
        self._place = end + 1
        value = self._text[begin + 1 : end].replace("\\" + mark, mark)
        if not value:
            raise _fault(self._text, begin, "there is nothing between these")
        return value, mark

    def _closing(self, mark: str, place: int) -> int | None:
        """Where the next ``mark`` is that no backslash stands before."""
        while place < len(self._text):
            if self._text[place] == "\\":
                place += 1
            elif self._text[place] == mark:
                return place
            place += 1
        return None

    def _field(self, field: str, value: str, quoted: str, begin: int) -> Query:
        if field == "is":
            return self._state(value.lower(), begin)
        if quoted == "/":
            pattern = self._regex(value, begin + 1)
            if field == "tag":
                return lambda source: source.index.matching(pattern, whole=False)
            return _text_query(field, _lowered_search(pattern))
        if field == "tag":
            return (lambda source: source.index.exact(value)) if quoted else _tag_query(value)
        return _text_query(field, _text_matcher(field, value, quoted))

    def _state(self, value: str, begin: int) -> Query:
        if value == "selected":
            return lambda source: source.selected
        if value not in _STATES:
            raise _fault(self._text, begin, "is no state", allowed=["selected", *_STATES])
        is_true = _STATES[value]
        return lambda source: source.columns.bits("state", value, is_true, iter)

    def _number(self, found: re.Match[str], begin: int) -> Query:
        try:
            limit = float(found[3])
        except ValueError:
            problem = f"a number is missing behind {found[1]}{found[2]}"
            raise _fault(self._text, begin + found.start(3), problem) from None
        name, compare = found[1].lower(), _COMPARISONS["=" if found[2] == "==" else found[2]]

        def flags(values: Sequence[float]) -> Iterable[bool]:
            return map(compare, values, repeat(limit))

        if name == "tokens":
            return lambda source: source.columns.bits(*_COUNTED, source.tokens, flags)
        return lambda source: source.columns.bits("number", name, _NUMBERS[name], flags)

    def _regex(self, pattern: str, begin: int) -> re.Pattern[str]:
        try:
            return re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            place = begin + (error.pos or 0)
            raise _fault(self._text, place, f"the regular expression is wrong ({error.msg})") from None


def _fault(text: str, position: int, problem: str, allowed: Iterable[str] | None = None) -> StudioError:
    return StudioError(f"position {position + 1}: {problem}", field="filter", came=text, allowed=allowed)


def _has_wildcard(value: str) -> bool:
    return "*" in value or "?" in value


def _tag_query(value: str) -> Query:
    if not _has_wildcard(value):
        return lambda source: source.index.alike(value)
    pattern = re.compile(translate(plain(value)))
    # A tag may itself hold a ? or a *.
    return lambda source: source.index.matching(pattern, whole=True) | source.index.alike(value)


def _text_matcher(field: str, value: str, quoted: str) -> Flags:
    """For texts in lower case. Part of the text suffices; of names and paths a value with wildcards must be all."""
    lowered = value.lower()
    if quoted or not _has_wildcard(value):
        return lambda texts: map(operator.contains, texts, repeat(lowered))
    if field in ("caption", "prose"):
        inside = ".*".join(".".join(map(re.escape, part.split("?"))) for part in lowered.split("*"))
        return _found_by(re.compile(inside).search)
    return _found_by(re.compile(translate(lowered)).match)


def _found_by(search: Callable[[str], re.Match[str] | None]) -> Flags:
    return lambda texts: map(bool, map(search, texts))


_ESCAPES = re.compile(r"\\.|\(\?P.*?[>)]", re.DOTALL)


def _lowered_search(pattern: re.Pattern[str]) -> Flags:
    """The same for texts in lower case: where it names no capital letter, it need not look for both."""
    if _ESCAPES.sub("", pattern.pattern).islower():
        pattern = re.compile(pattern.pattern)
    return _found_by(pattern.search)


def _text_query(field: str, flags: Flags) -> Query:
    return lambda source: source.columns.bits(_TEXT, field, _TEXTS[field], flags)


def _inverse(query: Query) -> Query:
    return lambda source: source.every & ~query(source)


def _union(found: Iterable[int]) -> int:
    bits = 0
    for more in found:
        bits |= more
    return bits


def _intersection(source: Source, queries: list[Query]) -> int:
    bits = source.every
    for query in queries:
        bits &= query(source)
    return bits


def _divided(source: Source, words: list[str]) -> int:
    """Items that have all of the words, however these are divided into tags: ``red hair 1girl``."""
    found = [source.every]
    for end in range(1, len(words) + 1):
        parts = ((begin, " ".join(words[begin:end])) for begin in range(end))
        found.append(_union(found[begin] & source.index.alike(tag) for begin, tag in parts))
    return found[-1]
