"""What becomes of a caption before an epoch shows it: shuffled, shortened or left out.

The rules are sd-scripts' (kohya-ss/sd-scripts 48d368f, ``process_caption`` in library/train_util.py), the draws are
not: each has an owner, so that the same seed gives the same captions in any order and any number of processes. One
rule differs: ``keep_tokens_separator`` is taken out of every caption, and not only where tags are shuffled or dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.seeds import Owner

JOINED_BY = ", "  # whatever the separator is


@dataclass(frozen=True)
class CaptionRules:
    """sd-scripts' options; the names are those of the options.

    Attributes:
        caption_separator: what stands between two tags of a caption.
        shuffle_caption: the tags come in another order each time.
        keep_tokens: how many of the first tags stay where they are, and are never dropped.
        keep_tokens_separator: where it stands in a caption, the tags before it stay, in place of the first
            ``keep_tokens``; and those behind a second one stay at the end. Empty for none.
        caption_dropout_rate: how often the whole caption is empty.
        caption_dropout_every_n_epochs: all captions of every n-th epoch are empty; 0 for never.
        caption_tag_dropout_rate: how often a tag is left out.
        caption_prefix, caption_suffix: stand before and behind every caption that is not empty.
    """

    caption_separator: str = ","
    shuffle_caption: bool = False
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    caption_prefix: str = ""
    caption_suffix: str = ""

    @property
    def changes_tags(self) -> bool:
        """Whether a caption has more texts than can be known beforehand."""
        return self.shuffle_caption or self.caption_tag_dropout_rate > 0

    @property
    def drops(self) -> bool:
        """Whether a caption may be left out altogether."""
        return self.caption_dropout_rate > 0 or self.caption_dropout_every_n_epochs > 0


def caption_texts(caption: str, rules: CaptionRules) -> list[str]:
    """Every text that rules which do not change tags make of a caption.

    Raises:
        ValueError: they change tags; there are too many texts to tell.
    """
    if rules.changes_tags:
        raise ValueError("captions whose tags change have too many texts")
    return [_whole(caption, rules), *([""] if rules.drops else [])]


def vary_caption(caption: str, rules: CaptionRules, owner: Owner) -> str:
    """The text that one sample of one epoch is trained on."""
    if _is_left_out(rules, owner):
        return ""
    if not rules.changes_tags:
        return _whole(caption, rules)
    first, middle, last = _tags(_framed(caption, rules), rules)
    if rules.shuffle_caption:
        owner.generator("caption order").shuffle(middle)
    if rules.caption_tag_dropout_rate > 0:
        draw = owner.generator("tag dropout")
        middle = [tag for tag in middle if draw.random() >= rules.caption_tag_dropout_rate]
    return JOINED_BY.join(first + middle + last)


def _is_left_out(rules: CaptionRules, owner: Owner) -> bool:
    every = rules.caption_dropout_every_n_epochs
    if every > 0 and owner.epoch % every == 0:
        return True
    rate = rules.caption_dropout_rate
    return rate > 0 and owner.generator("caption dropout").random() < rate


def _framed(caption: str, rules: CaptionRules) -> str:
    return " ".join(part for part in (rules.caption_prefix, caption, rules.caption_suffix) if part)


def _whole(caption: str, rules: CaptionRules) -> str:
    """A caption that keeps its tags and their order, as it is written but for ``keep_tokens_separator``."""
    text = _framed(caption, rules)
    if not rules.keep_tokens_separator or rules.keep_tokens_separator not in text:
        return text
    first, middle, last = _tags(text, rules)
    return JOINED_BY.join(first + middle + last)


def _tags(text: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """The tags that stay at the beginning, those that may move, and those that stay at the end."""
    mark = rules.keep_tokens_separator
    if mark and mark in text:
        first, _, rest = text.partition(mark)
        middle, _, last = rest.partition(mark)
        return _split(first, rules), _split(middle, rules), _split(last, rules)
    tags = [tag.strip() for tag in text.strip().split(rules.caption_separator)]
    return tags[: rules.keep_tokens], tags[rules.keep_tokens :], []


def _split(text: str, rules: CaptionRules) -> list[str]:
    return [tag.strip() for tag in text.split(rules.caption_separator) if tag.strip()]
