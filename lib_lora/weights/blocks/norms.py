"""How large a LoRA's change is in each block: the norms of its layers, from their factors where they have them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_lora.arch.blocks import BASE, unet_blocks
from lib_lora.arch.family import Family
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.delta import LoraWeights, ModuleDelta
from lib_lora.weights.layers import block_of_key, canonical_key
from lib_lora.weights.modules import delta_norm, read_whole
from lib_lora.weights.workers import each

OTHER = "other"  # layers of no block: time embedding and output


def block_norms(path: Path, base: Path | None = None) -> list[dict[str, Any]]:
    """The blocks of a file that hold weights, in the order of the data; ``rows_of_blocks`` says what each row is.

    Args:
        base: the checkpoint, for types whose change depends on its weights.

    Raises:
        StudioError: a file that cannot be read.
    """
    weights = read_whole(path)
    norms = module_norms(weights, None if base is None else BaseModel(base))
    return rows_of_blocks(dict(zip(weights.modules, norms)), weights.family)


def rows_of_blocks(norms: Mapping[str, float | None], family: Family | None) -> list[dict[str, Any]]:
    """Per block ||W|| of all its layers together, and its share of the sum of all squares, in the order of the data.

    Args:
        norms: by module; None where only the checkpoint would tell, and then there are no shares.
    """
    found: dict[str, list[float | None]] = defaultdict(list)
    for key, norm in norms.items():
        found[block_of_key(key) or OTHER].append(norm)
    order = [BASE, *unet_blocks(family or Family.SD1), OTHER]
    whole = _together(list(norms.values()))
    return [_row(block, found[block], whole) for block in order if block in found]


def _row(block: str, norms: Sequence[float | None], whole: float | None) -> dict[str, Any]:
    norm = _together(norms)
    share = None if whole is None or norm is None else (norm / whole) ** 2 if whole else 0.0
    return {"block": block, "norm": norm, "modules": len(norms), "share": share}


def _together(norms: Sequence[float | None]) -> float | None:
    return None if None in norms else math.hypot(*norms)


def module_norms(weights: LoraWeights, base: BaseModel | None) -> Iterator[float | None]:
    """||W|| of each module, None where it depends on a checkpoint that is not given."""

    def norm(delta: ModuleDelta) -> float | None:
        if not delta.needs_base:
            return delta_norm(delta)
        return None if base is None else delta_norm(delta, base.weight(canonical_key(delta.key, base.family)))

    return each(norm, weights.modules.values())
