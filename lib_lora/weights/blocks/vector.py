"""Block weights as a list of numbers, and lists of one length as those of another.

A list has one of four lengths: every block of SD1 and SD2 (26) or those that have attention (17), and the same of SDXL
(20, 12). Without BASE, a value shorter, BASE counts 1. Three rules make a list cover a model:

- What belongs to no block (``time_embed``, ``label_emb``, ``out``) keeps its strength, and the blocks without
  attention, which a short list does not name, count 0, both as in sd-webui-lora-block-weight.
- But where all values for the UNet are the same, all of the UNet has that value: ``ALL`` is no block weights, ``NONE``
  is no LoRA, and ``ALL0.5`` half the strength, whatever layers a file has.
- Of a list for the other kind of model each block takes the value of the one that stands at the same share of the way:
  block i of n on its side that of block floor((i + 1/2) m / n) of m.

Source: hako-mikan/sd-webui-lora-block-weight b403cb7.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lib_lora.arch.blocks import BASE, BLOCK_LISTS, MIDDLE, unet_blocks
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.blocks.presets import BUILT_IN, RANDOM, X, check_value, split_values, wrong_length
from lib_lora.weights.layers import block_of_key

Draw = Callable[[float, float], float]
_SIDES = (BASE, "IN", MIDDLE, "OUT")
_RANDOM_DIGITS = 3


@dataclass(frozen=True)
class BlockRatios:
    """What the strength is multiplied with in each block.

    Attributes:
        by_block: of every block of the model's family and BASE, in the order of lists.
        outside: of what belongs to no block.
        remarks: what was made of the list, where that is not what it says.
    """

    by_block: Mapping[str, float]
    outside: float = 1.0
    remarks: tuple[str, ...] = field(default=(), compare=False)

    def of(self, key: str) -> float:
        """The ratio of a module by its name in files."""
        block = block_of_key(key)
        return self.outside if block is None else self.by_block.get(block, 0.0)

    @property
    def signature(self) -> tuple[object, ...]:
        """What tells it from others, to be a key."""
        return *self.by_block.items(), self.outside

    @property
    def text(self) -> str:
        """All of it as a list."""
        return vector_text(list(self.by_block.values()))


def parse_vector(
    text: str,
    family: Family | None,
    *,
    x: float = 1.0,
    presets: Mapping[str, str] = BUILT_IN,
    draw: Draw | None = None,
) -> BlockRatios:
    """Block weights by a preset's name or as a list.

    Args:
        text: "OUTD", or numbers apart by commas, of which ``X``, ``X+0.3`` and ``X-0.2`` stand for ``x``, ``R`` for a
            random number from 0 to 1 and ``U`` for one from -0.5 to 1.5.
        family: of the LoRA; None takes the one whose list has this length.
        draw: a random number between two; None refuses R and U.

    Raises:
        StudioError: no such preset, a value that is no number, or a list of a length that there is not.
    """
    written = presets.get(text.strip(), text)
    values = split_values(written)
    if len(values) == 1:
        raise _unknown(text, presets)
    numbers = [_number(value, x, draw, written) for value in values]
    home, names = _list_of(len(values), written)
    remarks = [] if names[0] == BASE else [f"{len(values)} block weights leave out BASE, which counts 1"]
    by_name = {BASE: 1.0, **dict(zip(names, numbers))}
    if family is not None and not _are_alike(family, home):
        if len(set(numbers)) > 1:
            what = f"{len(values)} block weights are {_whose(home)}"
            remarks.append(f"{what}; {family.value} takes them by its own blocks")
        by_name = _converted(by_name, _same_kind(names, family))
    return _complete(by_name, family or home, remarks)


def to_length(ratios: BlockRatios, family: Family, count: int) -> list[float]:
    """The ratios as a list of 12, 17, 20 or 26, or of one less without BASE. A list for the other kind of model is
    made by the rule by which one is read.

    Raises:
        StudioError: there is no list of this length.
    """
    home, names = _list_of(count, str(count))
    if _are_alike(family, home):
        return [ratios.by_block.get(name, 0.0) for name in names]
    own = {name: ratios.by_block.get(name, 0.0) for name in _same_kind(names, family)}
    return list(_converted(own, names).values())


def lr_multipliers(ratios: BlockRatios, family: Family) -> dict[str, tuple[float, ...]]:
    """The option of a training that gives each block's learning rate this factor.

    Raises:
        StudioError: a ratio below 0, for which there is no learning rate.
    """
    values = tuple(to_length(ratios, family, max(BLOCK_LISTS[family])))
    if min(values) < 0:
        raise StudioError("a learning rate has no factor below 0", field="lbw", came=vector_text(values))
    return {"block_lr_weight": values}


def vector_text(values: Sequence[float]) -> str:
    """``[1.0, 0.5]`` -> "1,0.5", which reads as the same numbers."""
    return ",".join(f"{value:.10g}" for value in values)


def _unknown(text: str, presets: Mapping[str, str]) -> StudioError:
    by_case = {name.upper(): name for name in presets}
    near = [by_case[name] for name in difflib.get_close_matches(text.strip().upper(), by_case)]
    allowed = f"{' or '.join(near)}, perhaps" if near else "a preset's name, or a list of numbers"
    # A line of their file that could not be read may be what was meant.
    reasons = [note for note in getattr(presets, "notes", ()) if text.strip() in note]
    problem = "; ".join(["no block weights have this name", *reasons])
    return StudioError(problem, field="lbw", came=text, allowed=allowed)


def _number(value: str, x: float, draw: Draw | None, text: str) -> float:
    check_value(value, text)
    if value in RANDOM:
        if draw is None:
            raise StudioError(
                "R and U are drawn anew for each picture: a file cannot hold them", field="lbw", came=text
            )
        return round(draw(*RANDOM[value]), _RANDOM_DIGITS)
    match = X.fullmatch(value)
    return x + float(match[1] or 0) if match else float(value)


def _list_of(count: int, text: str) -> tuple[Family, tuple[str, ...]]:
    """The family and the names of a list's blocks."""
    for family in (Family.SD1, Family.SDXL):
        for length, names in BLOCK_LISTS[family].items():
            if count in (length, length - 1):
                return family, names[length - count :]
    raise wrong_length(count, text)


def _are_alike(family: Family, other: Family) -> bool:
    """Whether two families have the same blocks."""
    return BLOCK_LISTS[family] == BLOCK_LISTS[other]


def _whose(family: Family) -> str:
    return "SDXL's" if family is Family.SDXL else "SD1's and SD2's"


def _same_kind(names: Sequence[str], family: Family) -> tuple[str, ...]:
    """The family's list in place of another's: every block, or those that have attention."""
    lists = BLOCK_LISTS[family]
    return lists[max(lists) if "IN00" in names else min(lists)]


def _converted(values: Mapping[str, float], wanted: Sequence[str]) -> dict[str, float]:
    """Values of one model's blocks for the blocks of another, side by side."""
    found: dict[str, float] = {}
    for side in _SIDES:
        theirs = [value for name, value in values.items() if name.startswith(side)]
        names = [name for name in wanted if name.startswith(side)]
        for index, name in enumerate(names):
            found[name] = theirs[(2 * index + 1) * len(theirs) // (2 * len(names))]
    return found


def _complete(by_name: Mapping[str, float], family: Family, remarks: Sequence[str]) -> BlockRatios:
    """With what the list does not name."""
    of_unet = {value for name, value in by_name.items() if name != BASE}
    rest, outside = (0.0, 1.0) if len(of_unet) > 1 else (*of_unet, *of_unet)
    by_block = {name: by_name.get(name, rest) for name in (BASE, *unet_blocks(family))}
    return BlockRatios(by_block, outside, tuple(remarks))
