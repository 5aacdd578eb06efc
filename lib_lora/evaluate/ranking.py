"""Blocks in the order of what they change. Light: a page asks for it while the work goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_lora.evaluate.options import ALONE, OFF

_KEPT = ("block", ALONE, OFF, "pictures")


def ranked(blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The most first, each with its ``rank`` from 1: by the mean difference alone where that was measured, else off.
    Equals keep the order of the data.

    Args:
        blocks: the fields of ``base.events.BlockMeasured``.
    """
    way = ALONE if any(block[ALONE] is not None for block in blocks) else OFF
    order = sorted(blocks, key=lambda block: -block[way]["mean"])
    return [{"rank": rank, **{name: block[name] for name in _KEPT}} for rank, block in enumerate(order, 1)]
