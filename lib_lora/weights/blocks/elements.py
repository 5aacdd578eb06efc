"""Elemental filters: a weight for layers by their block and by what they are.

A rule is ``blocks:elements:weight``, such as ``IN05-OUT05:attn:0.5``. Both lists are apart by spaces; empty ones mean
everything, ``A-B`` a range of blocks in either order, a leading ``NOT`` all others. An element is part of the layer's
name in the WebUI, whatever names the file has: ``attn``, ``attn1``, ``to_k``, ``ff_net``, ``proj_in``, ``in_layers``.
Of several rules, apart by commas, semicolons or lines, the last that fits counts; it takes the block weight's place.

A file has named filters, ``NAME:blocks:elements:weight``, with empty lines between them.

Source: hako-mikan/sd-webui-lora-block-weight b403cb7, ``ratiodealer``; a text encoder's layers have the same names here
for every family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lib_lora.arch.blocks import BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.arch.keys import UNET_PREFIX, module_name, split_prefix
from lib_lora.arch.ldm import sdxl_module_name
from lib_lora.base.errors import StudioError
from lib_lora.weights.blocks.named import Named
from lib_lora.weights.layers import block_of_key, common_prefix

OWN_FILE = "block_elements.txt"
_BLOCKS = BLOCK_LISTS[Family.SD1][26]
_LIKE_A_BLOCK = re.compile(r"(IN|M|MID|OUT)\d+")
_NOT = "NOT"


@dataclass(frozen=True)
class Words:
    """Any of these, or none of them; no words at all mean everything."""

    words: tuple[str, ...]
    negated: bool = False

    def fit(self, text: str) -> bool:
        if not self.words:
            return True
        return any(word in text for word in self.words) is not self.negated


@dataclass(frozen=True)
class Rule:
    blocks: Words
    elements: Words
    weight: float


@dataclass(frozen=True)
class ElementFilter:
    """A named filter. The name is what a prompt calls it by."""

    name: str
    rules: tuple[Rule, ...]

    def of(self, key: str) -> float | None:
        """The weight of a module by its name in files; None where no rule fits."""
        name = _searched(key)
        fitting = (rule.weight for rule in reversed(self.rules) if rule.blocks.fit(name) and rule.elements.fit(name))
        return next(fitting, None)

    @property
    def signature(self) -> tuple[Rule, ...]:
        return self.rules


class Elements(Named):
    """Filters as text, by name."""

    @classmethod
    def load(cls, data_dir: Path) -> Elements:
        """Ours and those in the data folder; a file that cannot be read is noted."""
        path = own_path(data_dir)
        try:
            return cls(BUILT_IN_ELEMENTS, read_elements(path) if path.exists() else None)
        except StudioError as fault:
            return cls(BUILT_IN_ELEMENTS, None, (f"{OWN_FILE}: {fault.problem}",))


# sd-webui-lora-block-weight's own.
BUILT_IN_ELEMENTS = Elements(
    {
        "ATTNDEEPON": "IN05-OUT05:attn:1",
        "ATTNDEEPOFF": "IN05-OUT05:attn:0",
        "PROJDEEPOFF": "IN05-OUT05:proj:0",
    }
)


def own_path(data_dir: Path) -> Path:
    return data_dir / OWN_FILE


def find_elements(name: str, elements: Mapping[str, str]) -> ElementFilter:
    """The filter of a name.

    Raises:
        StudioError: there is none, or it cannot be understood.
    """
    if name not in elements:
        problem = "; ".join(["no elemental filter has this name", *getattr(elements, "notes", ())])
        raise StudioError(problem, field="lbwe", came=name, allowed=list(elements))
    return parse_elements(elements[name], name)


def parse_elements(text: str, name: str) -> ElementFilter:
    """A filter from its rules.

    Raises:
        StudioError: a rule that is none, or a block that there is not.
    """
    rules = [rule for rule in re.split(r"[,;\n]", text) if rule.strip()]
    if not rules:
        raise StudioError("has no rule", field="lbwe", came=name, allowed=_FORM)
    return ElementFilter(name, tuple(_rule(rule.strip(), name) for rule in rules))


def read_elements(path: Path) -> dict[str, str]:
    """The filters of a file as text, by name; lines that begin with # count for nothing.

    Raises:
        StudioError: the file cannot be read, or a filter has no name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"cannot be read: {error}", field="elements", file=path) from error
    lines = "\n".join("" if not line.strip() else line for line in text.splitlines() if not line.startswith("#"))
    found = {}
    for block in filter(str.strip, re.split(r"\n{2,}", lines)):
        name, colon, rules = block.strip().partition(":")
        if not colon or not name.strip():
            raise StudioError("has a filter without a name", field="elements", file=path, came=block, allowed=_FORM)
        found[name.strip()] = rules
    return found


_FORM = "NAME:blocks:elements:weight, such as DEEP:IN05-OUT05:attn:0.5"


def _rule(text: str, name: str) -> Rule:
    parts = text.split(":")
    if len(parts) != 3:
        raise StudioError(f"{text!r} is no rule", field="lbwe", came=name, allowed="blocks:elements:weight")
    try:
        weight = float(parts[2])
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise StudioError(f"{parts[2]!r} is no number", field="lbwe", came=name, allowed="blocks:elements:weight")
    blocks = _words(parts[0])
    ranges = tuple(block for word in blocks.words for block in _range(word, name))
    return Rule(Words(ranges, blocks.negated), _words(parts[1]), weight)


def _words(text: str) -> Words:
    words = text.split()
    negated = words[:1] == [_NOT]
    return Words(tuple(words[negated:]), negated)


def _range(word: str, name: str) -> tuple[str, ...]:
    """``IN05-OUT05`` -> its blocks; any other word, a part of a block's name or of a layer's, as it is."""
    first, dash, last = word.partition("-")
    if not dash:
        if _LIKE_A_BLOCK.fullmatch(word) and not any(word in block for block in _BLOCKS):
            raise _no_block(word, name)
        return (word,)
    for block in (first, last):
        if block not in _BLOCKS:
            raise _no_block(block, name)
    begin, end = sorted((_BLOCKS.index(first), _BLOCKS.index(last)))
    return _BLOCKS[begin : end + 1]


def _no_block(word: str, name: str) -> StudioError:
    return StudioError(f"{word!r} is no block", field="lbwe", came=name, allowed="BASE, IN00 ... M00 ... OUT11")


def _searched(key: str) -> str:
    """A module's name in the WebUI together with its block, in which words are looked for."""
    return f"{webui_name(key)} {block_of_key(key) or ''}"


@lru_cache(maxsize=8192)
def webui_name(key: str) -> str:
    """``lora_unet_down_blocks_0_attentions_0_proj_in`` -> ``diffusion_model_input_blocks_1_1_proj_in``, for every
    family; ``transformer_text_model_...`` for text encoders."""
    own = common_prefix(key)
    try:
        prefix, rest = split_prefix(own)
        if prefix != UNET_PREFIX:
            return f"transformer_{rest}"
        return f"diffusion_model_{sdxl_module_name(module_name(own)).replace('.', '_')}"
    except KeyError:
        return key
