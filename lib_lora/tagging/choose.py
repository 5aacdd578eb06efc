"""From what taggers have said to tags, and from tags to captions. Pure: numbers and texts in, numbers and texts out."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib_lora.base.protocols import Label
from lib_lora.dataset.edits import beside, lacking
from lib_lora.dataset.items import Item
from lib_lora.dataset.tag_groups import kaomoji, plain
from lib_lora.tagging.labels import SENTENCE
from lib_lora.tagging.options import ALPHABET, IF_EMPTY, OVERWRITE, SKIP, Rules, TagConfig, rules_of
from lib_lora.tagging.scores import Said
from lib_lora.tagging.table import Own, Table, kept, kinds_of, make_table
from lib_lora.text.captions import JOINED_BY

_PARENTHESIS = re.compile(r"(?<!\\)([()])")


@dataclass(frozen=True)
class Voice:
    """One tagger: what it has said, how that is spelt (None: never written), and its own thresholds."""

    table: Table
    spelt: Sequence[str | None]
    own: Own


@dataclass(frozen=True)
class Found:
    """What counts of all that was said: each text once for each picture, ordered by picture.

    Attributes:
        picture, text, score: int32, int32, float32 [finds]: numbers of picture and text, and the highest score.
        texts, kinds: what each number of a text is: as it is written, and its category.
        looked_at: bool [pictures]: by a tagger at least.
    """

    picture: np.ndarray
    text: np.ndarray
    score: np.ndarray
    texts: Sequence[str]
    kinds: Sequence[str]
    looked_at: np.ndarray

    def parts(self, picture: int, config: TagConfig) -> list[str]:
        """A picture's parts of a caption in their order; none where nothing was found.

        What is always added comes before the sentences, these before the tags, by their score or by the alphabet; of
        all of them those that are to come first, before the others.
        """
        begin, end = self._bounds[picture : picture + 2]
        if begin == end:
            return []
        parts: dict[str, str] = {}
        for part in config.always_add:
            parts.setdefault(plain(part), part)
        for number in self._by_alphabet[begin:end] if config.order == ALPHABET else self._by_score[begin:end]:
            parts.setdefault(self._keys[number], self.texts[number])
        if not config.first_tags:
            return list(parts.values())
        first = [key for key in map(plain, config.first_tags) if key in parts]
        return [parts[key] for key in dict.fromkeys([*first, *parts])]

    @functools.cached_property
    def _bounds(self) -> list[int]:
        """Where each picture's finds begin, and the last one's end."""
        pictures = np.arange(len(self.looked_at) + 1, dtype=self.picture.dtype)
        return np.searchsorted(self.picture, pictures).tolist()

    @functools.cached_property
    def _keys(self) -> list[str]:
        """Of each text: equal for two ways to write one tag."""
        return [plain(text) for text in self.texts]

    @functools.cached_property
    def _by_score(self) -> list[int]:
        """The texts' numbers, by picture, sentences first, the surest before the others, then by the alphabet."""
        # Scores are not negative, so that their bits as a whole number sort as they do.
        sureness = (1 << 31) - self.score.view(np.int32).astype(np.int64)
        return self.text[np.lexsort((self._rank[self.text], self._place(sureness)))].tolist()

    @functools.cached_property
    def _by_alphabet(self) -> list[int]:
        return self.text[np.argsort(self._place(self._rank[self.text]))].tolist()

    @property
    def _rank(self) -> np.ndarray:
        """int64 [texts]: its place in the alphabet."""
        order = sorted(range(len(self.texts)), key=lambda number: (self.texts[number].lower(), self.texts[number]))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks

    def _place(self, within: np.ndarray) -> np.ndarray:
        """int64 [finds]: sorts by picture, sentences before tags, and then by ``within``, below 2^32."""
        is_tag = np.array([kind != SENTENCE for kind in self.kinds], np.int64)
        return (self.picture.astype(np.int64) * 2 + is_tag[self.text]) * (1 << 32) + within


def choose(said: Mapping[Label, float], config: TagConfig, own: Own) -> list[str]:
    """The parts of a caption for one picture, of which one tagger has said ``said``."""
    labels, scores = list(said), np.fromiter(said.values(), np.float32, len(said))
    table = make_table(labels, kinds_of(labels), [Said(np.arange(len(labels), dtype=np.uint32), scores)])
    return find([Voice(table, spell(labels, config, rules_of(config)), own)], config).parts(0, config)


def find(voices: Sequence[Voice], config: TagConfig) -> Found:
    """What counts, of one or several taggers that speak of the same pictures."""
    numbers: dict[str, int] = {}
    kinds: list[str] = []
    picture, text, score = [], [], []
    used = 0
    for voice in voices:
        chosen = np.flatnonzero(kept(voice.table, config, voice.own))
        label = voice.table.label[chosen]
        numbering = _numbering(voice, label, numbers, kinds)
        used += int((numbering >= 0).sum())
        written = numbering[label] >= 0
        picture.append(voice.table.picture[chosen][written])
        text.append(numbering[label][written])
        score.append(voice.table.score[chosen][written])
    finds = (np.concatenate(picture), np.concatenate(text), np.concatenate(score))
    if len(voices) > 1 or used > len(numbers):  # else nobody says a text twice, and all is in order
        finds = _once(*finds)
    looked_at = np.any([voice.table.looked_at for voice in voices], axis=0)
    return _frequent(Found(*finds, list(numbers), kinds, looked_at), config.minimum_fraction)


def _numbering(voice: Voice, labels: np.ndarray, numbers: dict[str, int], kinds: list[str]) -> np.ndarray:
    """int32 [all labels of the voice]: the number of the text of each of ``labels``, -1 for one that is not written.

    New texts get the next numbers; the category is that of whoever says the text first.
    """
    result = np.full(len(voice.table.labels), -1, np.int32)
    for label in np.flatnonzero(np.bincount(labels, minlength=len(result))).tolist():
        text = voice.spelt[label]
        if text is not None:
            if text not in numbers:
                numbers[text] = len(kinds)
                kinds.append(voice.table.labels[label].category)
            result[label] = numbers[text]
    return result


def _once(picture: np.ndarray, text: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each text once for each picture, with its highest score, ordered by picture."""
    key = picture.astype(np.int64) << 32 | text
    order = np.argsort(key, kind="stable")
    if not len(order):
        return picture, text, score
    first = np.flatnonzero(np.append(True, np.diff(key[order]) != 0))
    return picture[order][first], text[order][first], np.maximum.reduceat(score[order], first)


def _frequent(found: Found, fraction: float) -> Found:
    """Without the texts of fewer than this part of the pictures; sentences stay."""
    if not fraction:
        return found
    enough = np.bincount(found.text, minlength=len(found.texts)) >= fraction * found.looked_at.sum()
    enough |= np.array([kind == SENTENCE for kind in found.kinds], bool)
    stay = enough[found.text]
    return replace(found, picture=found.picture[stay], text=found.text[stay], score=found.score[stay])


def spell(labels: Iterable[Label], config: TagConfig, rules: Rules) -> list[str | None]:
    """How each label is written; None where it is not."""
    replaced = {plain(old): new for old, new in rules.replaced}
    return [_spell(label, config, rules, replaced) for label in labels]


def _spell(label: Label, config: TagConfig, rules: Rules, replaced: Mapping[str, str]) -> str | None:
    if label.category == SENTENCE:
        return label.name.strip() or None
    faces = kaomoji()
    text = label.name
    if config.underscores_to_spaces and text not in faces:
        text = text.replace("_", " ")
    if any(pattern.fullmatch(text) or pattern.fullmatch(label.name) for pattern in rules.excluded):
        return None
    if replaced:
        text = replaced.get(plain(text), text)
    if config.escape_parentheses and text not in faces:
        text = _PARENTHESIS.sub(r"\\\1", text)
    return text or None


def is_left_alone(item: Item, policy: str) -> bool:
    """Whether a picture's caption stays as it is, whatever is said of it; one that cannot be read always does."""
    has_file = item.caption_name is not None
    if has_file and item.caption is None:
        return True
    return (policy == SKIP and has_file) or (policy == IF_EMPTY and bool(item.caption))


def new_caption(item: Item, parts: Sequence[str], policy: str) -> str:
    """What becomes of a caption (its first line) for which ``parts`` were found; what is there is never reordered."""
    if policy == OVERWRITE or not item.caption:
        return JOINED_BY.join(parts)
    more = JOINED_BY.join(lacking(item.caption, (*item.tags, item.prose), parts))
    return beside(item.caption, more, policy) if more else item.caption
