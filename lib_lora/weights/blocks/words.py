"""What a LoRA's tag in a prompt says, block weights and all: the one door to it.

``<lora:name:te:unet:dyn>`` as the WebUI reads it, positions or ``te=``, ``unet=`` and ``dyn=``: a missing te is 1, a
missing unet is te. Beside them

    lbw=     block weights by a preset's name or as a list; ``lwb=`` and ``w=`` are the same
    x=       what X in them stands for
    lbwe=    an elemental filter by name
    start=, stop=, step=    in which steps it acts

and the positions from before WebUI 1.5, ``<lora:name:1:OUTX:0.5>``: the first that is no number is lbw, behind it a
number is x and a word lbwe.

Where a part cannot be understood, a live prompt (``strict=False``) goes on without this part, and says so: without
block weights all blocks keep the plain strength, without a filter the block weights count, without steps it acts in
all of them. What is asked for beyond that is nobody's guess.

Sources: A1111 v1.10.1, extensions-builtin/Lora/extra_networks_lora.py; hako-mikan/sd-webui-lora-block-weight b403cb7,
``loradealer``.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.seeds import derive_seed
from lib_lora.weights.blocks.elements import BUILT_IN_ELEMENTS, ElementFilter, find_elements
from lib_lora.weights.blocks.presets import BUILT_IN
from lib_lora.weights.blocks.schedule import Schedule, parse_schedule
from lib_lora.weights.blocks.vector import BlockRatios, parse_vector

T = TypeVar("T")
BLOCK_WORDS = ("lbw", "lwb", "w")
STEP_WORDS = ("start", "stop", "step")
WORDS = frozenset({*BLOCK_WORDS, *STEP_WORDS, "x", "lbwe"})  # that the WebUI does not know
_RANK = re.compile(r"0{0,8}[1-9][0-9]{0,8}")  # Python refuses to read thousands of digits
_OLD_FORM = "block weights without lbw= are taken as before WebUI 1.5; today one writes"


@dataclass(frozen=True)
class WeightedTag:
    """A LoRA in a prompt.

    Attributes:
        name: as written.
        te, unet: strengths.
        dyn: the rank to cut the LoRA down to, or None.
        notes: a sentence on each part that could not be understood and is left out.
        hints: what was understood in another way than it looks.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None
    ratios: BlockRatios | None = None
    elements: ElementFilter | None = None
    schedule: Schedule | None = None
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def ratio(self, key: str) -> float:
        """What a module's strength is multiplied with, by its name in files: the filter's weight where a rule of it
        fits, else its block's."""
        found = None if self.elements is None else self.elements.of(key)
        if found is not None:
            return found
        return 1.0 if self.ratios is None else self.ratios.of(key)

    def at(self, step: int, steps: int) -> tuple[float, float]:
        """What te and unet are multiplied with in a step, counted from 0, of a pass of ``steps``."""
        return 1.0, 1.0 if self.schedule is None or self.schedule.acts(step, steps) else 0.0

    @property
    def is_plain(self) -> bool:
        """Whether it says no more than the WebUI itself understands."""
        return self.ratios is None and self.elements is None and self.schedule is None

    @property
    def signature(self) -> tuple[object, ...]:
        """What tells one state from another, to be a key."""
        ratios = None if self.ratios is None else self.ratios.signature
        elements = None if self.elements is None else self.elements.signature
        return self.name, self.te, self.unet, self.dyn, ratios, elements, self.schedule

    @property
    def words(self) -> str:
        """In a prompt's words, written out in full; a filter by its name."""
        words = [self.name, f"{self.te:.10g}", *([] if self.te == self.unet else [f"{self.unet:.10g}"])]
        words += [] if self.dyn is None else [f"dyn={self.dyn}"]
        words += [] if self.ratios is None else [f"lbw={self.ratios.text}"]
        words += [] if self.elements is None else [f"lbwe={self.elements.name}"]
        return ":".join([*words, *([] if self.schedule is None else [self.schedule.text])])

    @property
    def text(self) -> str:
        return f"<lora:{self.words}>"


def read_tag(
    items: Sequence[str],
    *,
    family: Family | None,
    presets: Mapping[str, str] = BUILT_IN,
    elements: Mapping[str, str] = BUILT_IN_ELEMENTS,
    seed: int | None = None,
    strict: bool = True,
) -> WeightedTag:
    """A tag from its items as the WebUI splits them, ``["name", "1", "lbw=OUTD"]``.

    Args:
        family: of the model; None takes the one whose list has the length.
        seed: of the picture, from which R and U are drawn, for each name its own; None refuses them.
        strict: whether a part that cannot be understood is an error.

    Raises:
        StudioError: ``strict``, naming the word as ``field``; or there is no name.
    """
    positional, named, is_old = _sorted_items([str(item) for item in items])
    name = tag_name(items)
    reader = _Reader(name, strict)
    te = reader.part(lambda: _strength(positional, named, 1, "te", 1.0), 1.0, "it counts 1")
    unet = reader.part(lambda: _strength(positional, named, 2, "unet", te), te, "it counts as te")
    dyn = reader.part(lambda: _rank(positional, named), None, "all ranks count")
    draw = None if seed is None else random.Random(derive_seed(seed, "block weights", name)).uniform
    ratios = reader.part(
        lambda: _ratios(named, family, presets, draw), None, "left out, all blocks keep the plain strength"
    )
    rules = reader.part(lambda: _elements(named, elements), None, "left out")
    schedule = reader.part(
        lambda: parse_schedule(*(named.get(word) for word in STEP_WORDS)), None, "left out, it acts in every step"
    )
    hints = [f"<lora:{name}>: {remark}" for remark in (ratios.remarks if ratios else ())]
    if is_old:
        today = [*positional, *(f"{word}={named[word]}" for word in ("lbw", "x", "lbwe") if word in named)]
        hints.append(f"<lora:{name}>: {_OLD_FORM} <lora:{':'.join(today)}>")
    return WeightedTag(name, te, unet, dyn, ratios, rules, schedule, tuple(reader.notes), tuple(hints))


def tag_name(items: Sequence[str]) -> str:
    """The LoRA's name.

    Raises:
        StudioError: there is none.
    """
    name = next((str(item) for item in items if str(item).count("=") != 1), "")
    if not name.strip():
        written = ":".join(map(str, items))
        raise StudioError("the LoRA has no name", field="prompt", came=written, allowed="<lora:name:strength>")
    return name


def is_number(text: str) -> bool:
    """Whether it is a finite one."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class _Reader:
    """Reads part by part; of a live prompt it notes what is wrong and goes on."""

    def __init__(self, name: str, strict: bool) -> None:
        self._name = name
        self._strict = strict
        self.notes: list[str] = []

    def part(self, read: Callable[[], T], default: T, otherwise: str) -> T:
        try:
            return read()
        except StudioError as fault:
            if self._strict:
                raise
            self.notes.append(f"<lora:{self._name}>: {fault}; {otherwise}")
            return default


def _sorted_items(items: Sequence[str]) -> tuple[list[str], dict[str, str], bool]:
    """Positions, words by key as the WebUI tells them apart, and whether positions of the old form were among them."""
    named = {key: value for key, _, value in (item.partition("=") for item in items if item.count("=") == 1)}
    positional = [item for item in items if item.count("=") != 1]
    place = next((index for index, item in enumerate(positional) if index and not _is_strength(item)), None)
    if place is None:
        return positional, named, False
    old = {"lbw": positional[place]}
    if len(positional) > place + 1:
        old["x" if is_number(positional[place + 1]) else "lbwe"] = positional[place + 1]
    return positional[:place], {**old, **named}, True


def _is_strength(text: str) -> bool:
    """A number, or another extension's steps of strengths, ``0@0.2,1@0.5``."""
    return is_number(text) or "@" in text


def _number(text: str, field: str) -> float:
    if not is_number(text):
        raise StudioError("is no number", field=field, came=text)
    return float(text)


def _strength(positional: Sequence[str], named: Mapping[str, str], place: int, word: str, default: float) -> float:
    text = named.get(word, positional[place] if len(positional) > place else None)
    return default if text is None else _number(text, word)


def _rank(positional: Sequence[str], named: Mapping[str, str]) -> int | None:
    text = named.get("dyn", positional[3] if len(positional) > 3 else None)
    if text is None:
        return None
    if not _RANK.fullmatch(text.strip()):
        raise StudioError("is no rank", field="dyn", came=text, allowed="a whole number above 0")
    return int(text)


def _ratios(
    named: Mapping[str, str],
    family: Family | None,
    presets: Mapping[str, str],
    draw: Callable[[float, float], float] | None,
) -> BlockRatios | None:
    text = next((named[word] for word in BLOCK_WORDS if word in named), None)
    if text is None:
        return None
    x = _number(named["x"], "x") if "x" in named else 1.0
    return parse_vector(text, family, x=x, presets=presets, draw=draw)


def _elements(named: Mapping[str, str], elements: Mapping[str, str]) -> ElementFilter | None:
    return find_elements(named["lbwe"].strip(), elements) if "lbwe" in named else None
