"""What a tagger has said of many pictures, as arrays, and which of it counts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lib_lora.base.protocols import Label
from lib_lora.tagging.labels import CATEGORIES, ONE_OF, SENTENCE
from lib_lora.tagging.options import TagConfig, wanted_categories
from lib_lora.tagging.scores import Said

MCUT_CHARACTER_FLOOR = 0.15
_KINDS = (*CATEGORIES, SENTENCE)
_NEVER = 2.0  # above every score


@dataclass(frozen=True)
class Own:
    """A tagger's own thresholds."""

    general: float
    character: float


@dataclass(frozen=True)
class Table:
    """What one tagger has said of some pictures.

    Attributes:
        starts: int64 [pictures + 1]; the entries of picture p are those from starts[p] to starts[p + 1].
        picture, label, score: of each entry: the picture's number, the label's number, float32.
        kind: uint8 [labels], the place of each label's category in ``_KINDS``.
        looked_at: bool [pictures].
    """

    labels: Sequence[Label]
    starts: np.ndarray
    picture: np.ndarray
    label: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    looked_at: np.ndarray
    _cuts: dict[str, np.ndarray] = field(default_factory=dict)

    def cuts(self, kind: str) -> np.ndarray:
        """``mcut`` of this table, computed once."""
        if kind not in self._cuts:
            self._cuts[kind] = mcut(self, kind)
        return self._cuts[kind]


def kinds_of(labels: Sequence[Label]) -> np.ndarray:
    """uint8 [labels], the ``Table.kind`` of these labels."""
    place = {name: number for number, name in enumerate(_KINDS)}
    return np.array([place[label.category] for label in labels], np.uint8)


def make_table(labels: Sequence[Label], kind: np.ndarray, said: Sequence[Said | None]) -> Table:
    """A table of pictures in the order in which they come; None for one that was not looked at."""
    counts = [0 if each is None else len(each.labels) for each in said]
    found = [each for each in said if each is not None]
    return Table(
        labels=labels,
        starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
        picture=np.repeat(np.arange(len(said), dtype=np.int32), counts),
        label=np.concatenate([np.empty(0, np.uint32), *(each.labels for each in found)]).astype(np.int32),
        score=np.concatenate([np.empty(0, np.float32), *(each.scores for each in found)]).astype(np.float32),
        kind=kind,
        looked_at=np.array([each is not None for each in said], bool),
    )


def kept(table: Table, config: TagConfig, own: Own) -> np.ndarray:
    """bool [entries]: which of what was said counts.

    Sentences always do; of ratings and of qualities a picture's likeliest; of other kinds what reaches the threshold.
    """
    thresholds = _thresholds(config, own)
    result = table.score >= thresholds[table.kind][table.label]
    for kind, wanted in (("general", config.general_mcut), ("character", config.character_mcut)):
        if wanted and thresholds[_KINDS.index(kind)] < _NEVER:
            cuts = table.cuts(kind)
            if kind == "character":
                cuts = np.maximum(cuts, MCUT_CHARACTER_FLOOR)
            mine = table.kind[table.label] == _KINDS.index(kind)
            result[mine] = table.score[mine] >= cuts[table.picture[mine]]
    wanted_kinds = wanted_categories(config)
    for kind in ONE_OF:
        if kind in wanted_kinds:
            result[likeliest(table, kind)] = True
    return result


def mcut(table: Table, kind: str) -> np.ndarray:
    """float32 [pictures]: the middle of the largest gap between the scores of a picture's labels of one kind.

    MCut: Largeron, Moulin, Gery 2012, "MCut: A Thresholding Strategy for Multi-label Classification". Of equal gaps the
    uppermost counts; what the table does not hold counts as 0, so that a single score has a gap below it.
    """
    mine = np.flatnonzero(table.kind[table.label] == _KINDS.index(kind))
    cuts = np.full(len(table.looked_at), _NEVER, np.float32)
    if not len(mine):
        return cuts
    mine = mine[np.argsort(_by_picture_and_score(table, mine))]
    picture, score = table.picture[mine], table.score[mine]
    begins = _begins(picture)
    below = np.append(score[1:], np.float32(0))
    below[begins[1:] - 1] = 0
    gap = score - below
    largest = np.repeat(np.maximum.reduceat(gap, begins), np.diff(np.append(begins, len(gap))))
    places = np.flatnonzero(gap == largest)
    first = places[_begins(picture[places])]
    cuts[picture[first]] = (score[first] + below[first]) / 2
    return cuts


def _by_picture_and_score(table: Table, entries: np.ndarray) -> np.ndarray:
    """A number for each entry that sorts by picture, and then from the highest score down.

    Scores are not negative, so that their bits as a whole number sort as they do (IEEE 754).
    """
    bits = table.score[entries].view(np.uint32).astype(np.int64)
    return (table.picture[entries].astype(np.int64) << 32) - bits


def _begins(sorted_values: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins; of one value at least."""
    return np.flatnonzero(np.append(True, sorted_values[1:] != sorted_values[:-1]))


def likeliest(table: Table, kind: str) -> np.ndarray:
    """The entries that are the highest of one kind in their picture; of equal ones the first."""
    mine = np.flatnonzero(table.kind[table.label] == _KINDS.index(kind))
    if not len(mine):
        return mine
    mine = mine[np.argsort(_by_picture_and_score(table, mine), kind="stable")]
    return mine[_begins(table.picture[mine])]


def _thresholds(config: TagConfig, own: Own) -> np.ndarray:
    """float32 [kinds]; above every score for what is not wanted, and for what has another rule."""
    general = own.general if config.general_threshold is None else config.general_threshold
    character = own.character if config.character_threshold is None else config.character_threshold
    wanted = wanted_categories(config)
    values = []
    for kind in _KINDS:
        if kind == SENTENCE:
            values.append(0.0)
        elif kind not in wanted or kind in ONE_OF:
            values.append(_NEVER)
        else:
            values.append(character if kind == "character" else general)
    return np.array(values, np.float32)
