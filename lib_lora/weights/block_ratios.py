"""Block weights as sd-webui-lora-block-weight writes them: ``lbw=OUTD``, ``lbw=1,0,0,X,...``.

Source: hako-mikan/sd-webui-lora-block-weight b403cb7. A block that a list does not name gets 0; what belongs to no
block (``time_embed``, ``label_emb``, ``out``) keeps 1.

It has presets for SD1's blocks alone. Of SDXL's blocks, which are fewer, each takes the value of the one that stands at
the same share of the way: block i of n on its side that of block floor((i + 1/2) m / n) of SD1's m.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lib_lora.arch.blocks import BASE, BLOCK_LISTS, MIDDLE
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.layers import block_of_key


def _runs(*runs: tuple[str, int]) -> str:
    return ",".join(value for value, count in runs for _ in range(count))


# For the list of 17, by sd-webui-lora-block-weight; the last four are a training guide's.
PRESETS = {
    "NONE": _runs(("0", 17)),
    "ALL": _runs(("1", 17)),
    "ALL0.5": _runs(("0.5", 17)),
    "INS": _runs(("1", 4), ("0", 13)),
    "IND": _runs(("1", 1), ("0", 3), ("1", 3), ("0", 10)),
    "INALL": _runs(("1", 7), ("0", 10)),
    "MIDD": _runs(("1", 1), ("0", 3), ("1", 8), ("0", 5)),
    "OUTD": _runs(("1", 1), ("0", 7), ("1", 4), ("0", 5)),
    "OUTS": _runs(("1", 1), ("0", 11), ("1", 5)),
    "OUTALL": _runs(("1", 1), ("0", 7), ("1", 9)),
    "INX": _runs(("1", 8), ("X", 9)),
    "OUTX": _runs(("X", 8), ("1", 9)),
    "LINX": _runs(("1", 12), ("X", 13)),
    "LOUTX": _runs(("X", 12), ("1", 13)),
}
_OF_LENGTH = {26: Family.SD1, 17: Family.SD1, 20: Family.SDXL, 12: Family.SDXL}
_X = re.compile(r"X([+-]\d*\.?\d+)?")


@dataclass(frozen=True)
class BlockRatios:
    """What each block's strength is multiplied with; blocks that are not named count 0."""

    by_block: Mapping[str, float]

    def of(self, key: str) -> float:
        """The ratio of a module by its name in files; 1 for what belongs to no block."""
        block = block_of_key(key)
        return 1.0 if block is None else self.by_block.get(block, 0.0)


def read_presets(path: Path) -> dict[str, str]:
    """One ``ID:values`` a line; empty lines and lines that begin with # count for nothing.

    Raises:
        StudioError: the file cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"cannot be read: {error}", field="presets", file=path) from error
    presets = {}
    for number, line in enumerate(lines, 1):
        name, colon, values = line.partition(":")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not colon:
            raise StudioError(
                f"line {number} is no preset", field="presets", file=path, came=line, allowed="NAME:1,0,1,..."
            )
        presets[name.strip()] = values.strip()
    return presets


def parse_ratios(
    text: str, family: Family | None, *, x: float = 1.0, presets: Mapping[str, str] = PRESETS
) -> BlockRatios:
    """Block weights by a preset's name or as a list.

    Args:
        text: "OUTD", or numbers apart by commas, of which ``X``, ``X+0.3`` and ``X-0.2`` stand for ``x``.
        family: of the LoRA; None takes the one whose list has this length.

    Raises:
        StudioError: no such preset, a value that is no number, or a list of a length that the family does not have.
    """
    name = text.strip()
    written = presets.get(name, text)
    values = [item.strip() for item in written.split(",")]
    if family is Family.SDXL and written == PRESETS.get(name):
        values = _for_sdxl(values)
    if len(values) == 1:
        raise StudioError("no such block weights", field="lbw", came=text, allowed=[*presets, "or a list of numbers"])
    names = _block_names(len(values), family, text)
    # A list with one value too few leaves out BASE, which then counts 1.
    return BlockRatios({BASE: 1.0, **dict(zip(names, (_number(value, x, text) for value in values)))})


def _for_sdxl(values: list[str]) -> list[str]:
    """A preset of 17 or 25 values as one of SDXL's 12 or 19."""
    names = _block_names(len(values), Family.SD1, "")
    lists = BLOCK_LISTS[Family.SDXL]
    wanted = lists[12] if BASE in names else lists[20][1:]
    found = []
    for side in (BASE, "IN", MIDDLE, "OUT"):
        theirs = [value for name, value in zip(names, values) if name.startswith(side)]
        count = sum(name.startswith(side) for name in wanted)
        found += [theirs[(2 * index + 1) * len(theirs) // (2 * count)] for index in range(count)]
    return found


def _block_names(count: int, family: Family | None, text: str) -> tuple[str, ...]:
    """The blocks of a list with or without BASE."""
    family = family or _OF_LENGTH.get(count) or _OF_LENGTH.get(count + 1)
    lists = BLOCK_LISTS.get(family, {}) if family else {}
    if count in lists:
        return lists[count]
    if count + 1 in lists:
        return lists[count + 1][1:]
    wanted = " or ".join(str(length) for length in (lists or _OF_LENGTH))
    whose = f"of {family.value}" if family else "of any family"
    raise StudioError(
        f"{count} block weights are no list {whose}", field="lbw", came=text, allowed=f"{wanted} values, BASE first"
    )


def _number(value: str, x: float, text: str) -> float:
    if value in ("R", "U"):
        raise StudioError("R and U are drawn anew for each picture: a file cannot hold them", field="lbw", came=text)
    if match := _X.fullmatch(value):
        return x + float(match[1] or 0)
    try:
        return float(value)
    except ValueError:
        raise StudioError(f"{value!r} is no number", field="lbw", came=text, allowed="numbers and X") from None
