"""What taggers have said of a dataset's pictures, as captions, as counts, and beside the captions that are there."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lib_lora.base.protocols import Label
from lib_lora.dataset.items import Item
from lib_lora.dataset.tag_groups import plain
from lib_lora.tagging.choose import Found, Voice, find, is_left_alone, new_caption, spell
from lib_lora.tagging.labels import SENTENCE
from lib_lora.tagging.options import TagConfig, rules_of
from lib_lora.tagging.scores import Key, Said, ScoreStore, taggers_with_scores
from lib_lora.tagging.table import Own, kinds_of, make_table

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Applied, Collection

USUAL = Own(0.35, 0.85)
"""For a tagger that has said something and is not known here any more."""

_MOST_TABLES, _MOST_TEXTS = 4, 16
_SPELLING_OPTIONS = ("underscores_to_spaces", "escape_parentheses", "exclude", "replace")


@dataclass(frozen=True)
class TagCount:
    """What a choice of thresholds comes to.

    Attributes:
        pictures: those that were looked at.
        tags: all tags of all pictures; ``always_add`` and sentences are none.
        without: pictures that no tag was found for.
        by_category: tags by their category.
        top: (tag, category, pictures), most frequent first.
    """

    pictures: int
    tags: int
    without: int
    by_category: dict[str, int]
    top: list[tuple[str, str, int]]

    @property
    def per_picture(self) -> float:
        return self.tags / self.pictures if self.pictures else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "per_picture": self.per_picture}


@dataclass(frozen=True)
class Disagreement:
    """One tag on which taggers and captions differ.

    Attributes:
        missing: (picture, score): the taggers are sure, and the caption does not have it.
        doubted: (picture, score): the caption has it, and no tagger gives it more than that.
    """

    tag: str
    missing: list[tuple[int, float]]
    doubted: list[tuple[int, float]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Cache:
    """What was made last; of more than ``most`` things the longest unused goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return self._kept[key]


class StoredScores:
    """Of one open collection; may be called from any thread.

    Args:
        own: the taggers' own thresholds, by name.
    """

    def __init__(self, collection: Collection, own: Mapping[str, Own]) -> None:
        self.collection = collection
        self.own = own
        self._stores: dict[str, ScoreStore] = {}
        self._tables = _Cache(_MOST_TABLES)
        self._texts = _Cache(_MOST_TEXTS)
        self._lock = threading.RLock()

    def taggers(self) -> list[tuple[str, int]]:
        """Those that have said something, each with the number of this dataset's pictures that it has looked at."""
        keys = [key_of(item) for item in self.collection.items]
        names = taggers_with_scores(self.collection.folder)
        result = []
        for name in names:
            said = self.store(name).said  # asking for the store reads what is new in it, so once is enough
            result.append((name, sum(key in said for key in keys)))
        return result

    def of(self, id: int) -> dict[str, list[tuple[str, str, float]]]:
        """By tagger (tag, category, score) of one picture, as the tagger spells it, the surest first."""
        key = key_of(self.collection.item(id))
        result = {}
        for store in map(self.store, taggers_with_scores(self.collection.folder)):
            if key in store.said:
                pairs = [(*store.labels[label], float(score)) for label, score in zip(*store.said[key])]
                result[store.tagger] = sorted(pairs, key=lambda each: -each[2])
        return result

    def count(self, config: TagConfig, ids: Sequence[int] | None = None, most: int = 200) -> TagCount:
        """What a choice of thresholds comes to for all pictures, or those of ``ids``."""
        found = self._found(config, self._scope(ids))
        is_tag = np.array([kind != SENTENCE for kind in found.kinds], bool)
        counts = np.bincount(found.text, minlength=len(found.texts)) * is_tag
        by_category: dict[str, int] = defaultdict(int)
        for kind, count in zip(found.kinds, counts.tolist()):
            by_category[kind] += count
        tagged = np.zeros(len(found.looked_at), bool)
        tagged[found.picture[is_tag[found.text]]] = True
        some = np.flatnonzero(counts).tolist()
        top = sorted(some, key=lambda number: (-counts[number], found.texts[number]))[:most]
        return TagCount(
            pictures=int(found.looked_at.sum()),
            tags=int(counts.sum()),
            without=int((found.looked_at & ~tagged).sum()),
            by_category={kind: count for kind, count in by_category.items() if count},
            top=[(found.texts[number], found.kinds[number], int(counts[number])) for number in top],
        )

    def captions(self, config: TagConfig, ids: Sequence[int] | None = None) -> dict[int, str]:
        """The captions that would change, as the policy has it; where nothing was found, a caption stays."""
        return {item.id: text for item, text in self._changes(config, self._scope(ids))}

    def write(self, config: TagConfig, ids: Sequence[int] | None = None, *, group: str | None = None) -> Applied:
        """Write ``captions``, as one entry of the history.

        Args:
            group: as in ``Collection.apply``.
        """
        changes = list(self._changes(config, self._scope(ids)))
        was = {item.id: item.caption for item, _ in changes}
        return self.collection.set_captions({item.id: text for item, text in changes}, was=was, what="tag", group=group)

    def disagreements(
        self, config: TagConfig, ids: Sequence[int] | None = None, doubt_below: float = 0.1
    ) -> list[Disagreement]:
        """By tag, where the taggers of ``config`` and the captions differ; the tag with most such pictures first.

        Tags that no tagger knows, such as the word that calls a LoRA, are none of theirs to doubt.
        """
        ids = self._scope(ids)
        names: dict[str, str] = {}
        missing: dict[str, list[tuple[int, float]]] = defaultdict(list)
        doubted: dict[str, list[tuple[int, float]]] = defaultdict(list)
        found = self._found(config, ids)
        there = [{plain(tag): tag for tag in self.collection.item(id).tags} for id in ids]
        keys = [None if kind == SENTENCE else plain(text) for text, kind in zip(found.texts, found.kinds)]
        for picture, number, score in zip(found.picture.tolist(), found.text.tolist(), found.score.tolist()):
            key = keys[number]
            if key is not None and key not in there[picture]:
                names.setdefault(key, found.texts[number])
                missing[key].append((ids[picture], score))
        for picture, key, score in _scores_of_captions(self._voices(config, ids), there):
            if score < doubt_below:
                names.setdefault(key, there[picture][key])
                doubted[key].append((ids[picture], score))
        order = sorted({*missing, *doubted}, key=lambda key: (-len(missing[key]) - len(doubted[key]), key))
        return [Disagreement(names[key], missing[key], doubted[key]) for key in order]

    # Within

    def _scope(self, ids: Sequence[int] | None) -> Sequence[int]:
        """All pictures, or those of ``ids`` that are still there."""
        there = self.collection.ids
        if ids is None:
            return there
        there = set(there)
        return [id for id in ids if id in there]

    def _changes(self, config: TagConfig, ids: Sequence[int]) -> Iterator[tuple[Item, str]]:
        """Pictures whose captions would change, with the new ones."""
        found = self._found(config, ids)
        for picture in np.flatnonzero(found.looked_at).tolist():
            item = self.collection.item(ids[picture])
            if not is_left_alone(item, config.policy):
                parts = found.parts(picture, config)
                text = new_caption(item, parts, config.policy)
                if parts and text != item.caption:
                    yield item, text

    def _found(self, config: TagConfig, ids: Sequence[int]) -> Found:
        rules_of(config)  # refuses what cannot be understood, whether or not something was said
        return find(self._voices(config, ids), config)

    def _voices(self, config: TagConfig, ids: Sequence[int]) -> list[Voice]:
        known = {name.lower(): name for name in self.own}
        names = dict.fromkeys(known.get(name.lower(), name) for name in config.taggers)
        return [self._voice(name, config, ids) for name in names]

    def _voice(self, tagger: str, config: TagConfig, ids: Sequence[int]) -> Voice:
        store = self.store(tagger)
        with store.lock:
            labels, kind = self._labels(store)
            table_key = (tagger, store.version, self.collection.version, tuple(ids))
            table = self._tables.get(table_key, lambda: make_table(labels, kind, self._said(store, ids)))
            options = tuple(getattr(config, name) for name in _SPELLING_OPTIONS)
            spelling_key = (tagger, store.model, len(labels), options)
            spelt = self._texts.get(spelling_key, lambda: spell(labels, config, rules_of(config)))
            return Voice(table, spelt, self.own.get(tagger, USUAL))

    def _labels(self, store: ScoreStore) -> tuple[list[Label], np.ndarray]:
        """All that a tagger has said or can say, and its kinds."""
        key = (store.tagger, store.model, len(store.labels))
        return self._texts.get(key, lambda: (list(store.labels), kinds_of(store.labels)))

    def _said(self, store: ScoreStore, ids: Sequence[int]) -> list[Said | None]:
        return [store.said.get(key_of(self.collection.item(id))) for id in ids]

    def store(self, tagger: str) -> ScoreStore:
        """A tagger's own store, as it is on disk now."""
        with self._lock:
            if tagger not in self._stores:
                self._stores[tagger] = ScoreStore(self.collection.folder, tagger)
            store = self._stores[tagger]
        store.refresh()
        return store


def key_of(item: Item) -> Key:
    """How a picture is known to the stores."""
    return Key(item.file_name, item.bytes, item.modified_ns)


def _scores_of_captions(
    voices: Sequence[Voice], there: Sequence[Mapping[str, str]]
) -> Iterator[tuple[int, str, float]]:
    """(picture, tag, score) of every tag of a caption that a tagger knows which has looked at the picture; of several
    taggers the highest score. 0 where it is too low to have been kept."""
    best: dict[tuple[int, str], float] = {}
    for voice in voices:
        table = voice.table
        labels: dict[str, list[int]] = defaultdict(list)
        for number, (label, text) in enumerate(zip(table.labels, voice.spelt)):
            if label.category != SENTENCE:
                labels[plain(label.name if text is None else text)].append(number)
        for picture in np.flatnonzero(table.looked_at).tolist():
            entries = slice(table.starts[picture], table.starts[picture + 1])
            scores = dict(zip(table.label[entries].tolist(), table.score[entries].tolist()))
            for key in there[picture]:
                if key in labels:
                    score = max(scores.get(label, 0.0) for label in labels[key])
                    best[picture, key] = max(best.get((picture, key), 0.0), score)
    yield from ((picture, key, score) for (picture, key), score in best.items())
