"""The options of tagging: which taggers, which of what they say counts, how it is written, and into which captions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lib_lora.base.errors import StudioError
from lib_lora.base.options import option
from lib_lora.tagging.labels import CATEGORIES
from lib_lora.tagging.scores import FLOOR

SKIP, IF_EMPTY, OVERWRITE, PREPEND, APPEND = POLICIES = ("skip", "if_empty", "overwrite", "prepend", "append")
SCORE, ALPHABET = ORDERS = ("score", "alphabet")
_BETWEEN = "=>"
_WRITABLE = tuple(name for name in CATEGORIES if name != "rating")


@dataclass(frozen=True)
class TagConfig:
    """All of a tagging job but its pictures."""

    taggers: tuple[str, ...] = option(("wd-swinv2-tagger-v3",), "names of the taggers; several add up", group="Tagger")
    again: bool = option(
        False, "run also the pictures whose scores are there already", group="Tagger", level="advanced"
    )
    batch_size: int = option(
        4,
        "pictures at once, where the model takes several",
        unit="pictures",
        minimum=1,
        maximum=64,
        group="Tagger",
        level="advanced",
    )
    device: str = option(
        "auto",
        "auto takes the card where onnxruntime has one",
        choices=("auto", "cpu"),
        group="Tagger",
        level="advanced",
    )
    cpu_threads: int = option(
        0,
        "processor threads of ONNX taggers; 0 for half of the cores",
        minimum=0,
        maximum=256,
        group="Tagger",
        level="advanced",
    )

    general_threshold: float | None = option(
        None,
        "how sure the tagger must be of a tag; none takes its own threshold",
        minimum=FLOOR,
        maximum=1,
        group="Thresholds",
    )
    character_threshold: float | None = option(
        None,
        "how sure it must be of a character; none takes its own threshold",
        minimum=FLOOR,
        maximum=1,
        group="Thresholds",
    )
    general_mcut: bool = option(
        False,
        "threshold of each picture in the largest gap between its scores (MCut) instead",
        group="Thresholds",
        label="General: MCut",
        level="advanced",
    )
    character_mcut: bool = option(
        False,
        "the same for characters; never below 0.15",
        group="Thresholds",
        label="Character: MCut",
        level="advanced",
    )
    minimum_fraction: float = option(
        0.0,
        "leave out tags found on a smaller part of the pictures than this; captions are then written at the end",
        minimum=0,
        maximum=1,
        group="Thresholds",
        level="advanced",
    )

    categories: tuple[str, ...] = option(
        ("general", "character"),
        f"kinds of tags to write, of {', '.join(_WRITABLE)}",
        group="Tags",
        level="advanced",
    )
    rating: bool = option(False, "add the likeliest rating", group="Tags")
    underscores_to_spaces: bool = option(True, "long_hair becomes long hair; kaomoji such as ^_^ stay", group="Tags")
    escape_parentheses: bool = option(
        False,
        "write \\( and \\) as a prompt wants them; captions for training want them plain",
        group="Tags",
        level="advanced",
    )
    exclude: tuple[str, ...] = option((), "tags never to write, as regular expressions for a whole tag", group="Tags")
    replace: tuple[str, ...] = option((), "tags to write as others: gray hair => grey hair", group="Tags")
    always_add: tuple[str, ...] = option((), "tags for every caption, found or not, before all others", group="Tags")
    first_tags: tuple[str, ...] = option((), "tags that come first, in this order, where they are found", group="Tags")
    order: str = option(SCORE, "order of the tags: the surest first, or the alphabet", choices=ORDERS, group="Tags")

    policy: str = option(
        IF_EMPTY,
        "what becomes of captions that are there: skip leaves every picture with a caption file alone, if_empty those "
        "with a caption in it, overwrite replaces it, prepend and append add the tags that it lacks",
        choices=POLICIES,
        group="Captions",
        label="Existing captions",
    )


@dataclass(frozen=True)
class Rules:
    """The texts among the options, understood.

    Attributes:
        excluded: for whole tags, without case.
        replaced: (old, new) pairs; an empty new one leaves the tag out.
    """

    excluded: tuple[re.Pattern[str], ...]
    replaced: tuple[tuple[str, str], ...]


def rules_of(config: TagConfig) -> Rules:
    """Raises StudioError for a text that cannot be understood, and for categories that there are not."""
    if not config.taggers:
        raise StudioError("must name a tagger", field="taggers", came="nothing")
    for name in config.categories:
        if name not in _WRITABLE:
            raise StudioError("unknown name", field="categories", came=name, allowed=_WRITABLE)
    return Rules(tuple(map(_pattern, config.exclude)), tuple(map(_replacement, config.replace)))


def wanted_categories(config: TagConfig) -> frozenset[str]:
    """Those whose tags are written."""
    return frozenset(config.categories) | ({"rating"} if config.rating else set())


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as fault:
        raise StudioError(f"is no regular expression: {fault}", field="exclude", came=text) from fault


def _replacement(text: str) -> tuple[str, str]:
    old, between, new = (part.strip() for part in text.partition(_BETWEEN))
    if not between or not old:
        raise StudioError("is no replacement", field="replace", came=text, allowed=f"old {_BETWEEN} new")
    return old, new
