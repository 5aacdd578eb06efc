"""What becomes of a caption before an epoch shows it: shuffled, shortened or left out.

The rules are sd-scripts' (kohya-ss/sd-scripts 48d368f, ``process_caption`` in library/train_util.py), the draws are
not: each has an owner, so that the same seed gives the same captions in any order and any number of processes. Two
rules differ: ``keep_tokens_separator`` is taken out of every caption, and not only where tags are shuffled or dropped;
and prefix and suffix stand around whichever line of a caption is drawn, not around its first and last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lib_lora.base.seeds import Owner

JOINED_BY = ", "  # whatever the separator is
_WILDCARD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


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
        secondary_separator: becomes ``caption_separator`` at the end: what it joins counts as one tag until then.
        enable_wildcard: of several lines one is drawn, and of ``{red|blue}`` one word; ``{{`` is a brace.
        token_warmup_min, token_warmup_step: tags after those that stay come one after the other, from so many of them
            at the first step to all at this step; below 1 it is a share of the run.
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
    secondary_separator: str = ""
    enable_wildcard: bool = False
    token_warmup_min: int = 1
    token_warmup_step: float = 0.0

    @property
    def changes_tags(self) -> bool:
        """Whether a caption has more texts than can be known beforehand."""
        return self.enable_wildcard or self._moves_tags

    @property
    def _moves_tags(self) -> bool:
        return self.shuffle_caption or self.caption_tag_dropout_rate > 0 or self.token_warmup_step > 0

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


def vary_caption(caption: str, rules: CaptionRules, owner: Owner, step: int = 0, total_steps: int = 0) -> str:
    """The text that one sample of one epoch is trained on.

    Args:
        step: those made before it, of the run's ``total_steps``; of meaning for ``token_warmup_step`` alone.
    """
    if _is_left_out(rules, owner):
        return ""
    if rules.enable_wildcard:
        caption = _drawn(caption, owner)
    if not rules._moves_tags:
        return _whole(caption, rules)
    first, middle, last = _tags(_framed(caption, rules), rules)
    middle = middle[: _shown(len(middle), rules, step, total_steps)]
    if rules.shuffle_caption:
        owner.generator("caption order").shuffle(middle)
    if rules.caption_tag_dropout_rate > 0:
        draw = owner.generator("tag dropout")
        middle = [tag for tag in middle if draw.random() >= rules.caption_tag_dropout_rate]
    return _separated(JOINED_BY.join(first + middle + last), rules)


def _drawn(caption: str, owner: Owner) -> str:
    """One of the lines, and of each ``{red|blue}`` one word."""
    draw = owner.generator("wildcards")
    line = draw.choice(caption.split("\n"))
    return _WILDCARD.sub(lambda found: draw.choice(found[1].split("|")) if found[1] else found[0][0], line)


def _shown(count: int, rules: CaptionRules, step: int, total_steps: int) -> int:
    """How many of ``count`` tags a step shows: floor(step (count - min) / warm-up) + min."""
    warm_up = rules.token_warmup_step
    steps = int(warm_up * total_steps) if warm_up < 1 else int(warm_up)
    if step >= steps:
        return count
    return max(0, step * (count - rules.token_warmup_min) // steps + rules.token_warmup_min)


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
    if rules.keep_tokens_separator and rules.keep_tokens_separator in text:
        first, middle, last = _tags(text, rules)
        text = JOINED_BY.join(first + middle + last)
    return _separated(text, rules)


def _separated(text: str, rules: CaptionRules) -> str:
    mark = rules.secondary_separator
    return text.replace(mark, rules.caption_separator) if mark else text


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
