"""``compare``: how alike two LoRAs are: the cosine of their changes, and how far the strongest directions agree."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lib_lora.arch.blocks import BASE, unet_blocks
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.blocks.norms import OTHER
from lib_lora.weights.chart import bar_chart, check_picture, save_chart
from lib_lora.weights.delta import ModuleDelta
from lib_lora.weights.layers import block_of_key, canonical_key
from lib_lora.weights.modules import delta_norm, delta_product, read_whole
from lib_lora.weights.options import CompareConfig
from lib_lora.weights.svd import RankRule, Truncated, truncate_dense, truncate_factors
from lib_lora.weights.workers import each


@dataclass(frozen=True)
class Likeness:
    """Two changes A and B of one layer.

    Attributes:
        first, second: ||A|| and ||B||.
        product: <A, B>, the sum of products of their values.
        overlap: 0 to 1; None where one is zero or a norm's, which has no directions.
    """

    first: float
    second: float
    product: float
    overlap: float | None

    @property
    def cosine(self) -> float | None:
        """<A, B> / (||A|| ||B||): 1 for the same change, 0 for changes that have nothing to do with each other."""
        size = self.first * self.second
        return self.product / size if size else None


def likeness(first: ModuleDelta, second: ModuleDelta, directions: int, weight: Tensor | None = None) -> Likeness:
    """Compare two modules of one layer.

    The overlap is that of Hu et al. (arXiv 2106.09685, section 7.2), ||U_A^T U_B||^2 / k of the k strongest singular
    vectors, the mean of both sides: 1 for the same directions, about k / n for random ones in n dimensions.

    Args:
        directions: k, or less where one of the changes has fewer.
        weight: of the layer, where a type needs it.

    Raises:
        StudioError: a type that needs the layer's weight and has none, or changes of different shapes.
    """
    one, other = first.low_rank(weight), second.low_rank(weight)
    rule = RankRule(most=directions)
    if one is not None and other is not None:
        _check_shapes(first, [one[0].shape[0], one[1].shape[1]], [other[0].shape[0], other[1].shape[1]])
        cuts = truncate_factors(*one, rule), truncate_factors(*other, rule)
        return Likeness(cuts[0].norm, cuts[1].norm, delta_product(one, other), _overlap(*cuts))
    matrices = [_matrix(delta, weight) for delta in (first, second)]
    _check_shapes(first, *(list(matrix.shape) for matrix in matrices))
    norms, product = [float(matrix.norm()) for matrix in matrices], float((matrices[0] * matrices[1]).sum())
    if matrices[0].dim() == 1:
        return Likeness(*norms, product, None)
    return Likeness(*norms, product, _overlap(*(truncate_dense(matrix, rule) for matrix in matrices)))


def _matrix(delta: ModuleDelta, weight: Tensor | None) -> Tensor:
    dense = delta.dense(weight)
    return dense.flatten(1) if dense.dim() > 1 else dense


def _check_shapes(delta: ModuleDelta, first: list[int], second: list[int]) -> None:
    if first != second:
        raise StudioError(
            "the layer has another size in the second LoRA", field=delta.key, came=second, allowed=str(first)
        )


def _overlap(first: Truncated, second: Truncated) -> float | None:
    count = min(first.rank, second.rank)
    if not count:
        return None
    shares = []
    for one, other in ((first.up, second.up), (first.down.T, second.down.T)):
        bases = (F.normalize(side[:, :count].double(), dim=0) for side in (one, other))
        shares.append(float((next(bases).T @ next(bases)).square().sum()) / count)
    return sum(shares) / len(shares)


def run(config: CompareConfig, control: Control) -> Iterator[Event]:
    """Compare two files.

    Raises:
        StudioError: files that cannot be read, are of two families or share no layer, or a type that needs ``base``.
    """
    began = time.monotonic()
    check_picture(config.picture, config.overwrite)
    first, second = (read_whole(path) for path in (config.first, config.second))
    if None not in (first.family, second.family) and first.family is not second.family:
        came = f"{first.family.value} and {second.family.value}"
        raise StudioError("the LoRAs are for two families", field="second", came=came)
    family = first.family or second.family
    ours, theirs = ({canonical_key(key, family): delta for key, delta in w.modules.items()} for w in (first, second))
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise StudioError("the LoRAs share no layer", field="second", came=str(config.second))
    base = BaseModel(config.base) if config.base else None
    found: dict[str, Likeness] = {}

    def work(key: str) -> Likeness:
        return likeness(ours[key], theirs[key], config.directions, _weight(key, base, ours[key], theirs[key]))

    for key, alike in zip(shared, each(work, shared)):
        if control.stopping:
            yield Note("stopped", "warning")
            return
        found[key] = alike
        yield Progress("comparing", len(found), len(shared))
    alone = [{key: delta for key, delta in own.items() if key not in found} for own in (ours, theirs)]
    norms = [_norms(own, base) for own in alone]
    report = _report(found, *norms, family)
    if config.picture:
        blocks = report["blocks"]
        series = {name: [row[name] for row in blocks] for name in ("cosine", "overlap")}
        title = f"{config.first.stem} and {config.second.stem}: how alike per block"
        save_chart(config.picture, bar_chart(title, [row["block"] for row in blocks], series, reach=1.0))
        yield Saved(config.picture, 0)
    yield ToolDone("compare", config.picture, report, time.monotonic() - began)


def _norms(modules: Mapping[str, ModuleDelta], base: BaseModel | None) -> dict[str, float]:
    """||W|| of the layers that only one of the files has."""
    return {key: delta_norm(delta, _weight(key, base, delta)) for key, delta in modules.items()}


def _weight(key: str, base: BaseModel | None, *deltas: ModuleDelta) -> Tensor | None:
    """The layer's weight, where a change depends on it: a checkpoint may lack layers of the others."""
    return base.weight(key) if base is not None and any(delta.needs_base for delta in deltas) else None


def _report(
    found: Mapping[str, Likeness], first: Mapping[str, float], second: Mapping[str, float], family: Family | None
) -> dict[str, Any]:
    """``first`` and ``second`` are the norms of the layers that one file has alone: they count as changes that the
    other does not make."""
    every = dict(found)
    every |= {key: Likeness(norm, 0.0, 0.0, None) for key, norm in first.items()}
    every |= {key: Likeness(0.0, norm, 0.0, None) for key, norm in second.items()}
    by_block: dict[str, list[Likeness]] = defaultdict(list)
    for key, alike in every.items():
        by_block[block_of_key(key) or OTHER].append(alike)
    order = [BASE, *unet_blocks(family or Family.SD1), OTHER]
    layers = [
        {"key": key, "block": block_of_key(key), "cosine": alike.cosine, "overlap": alike.overlap}
        for key, alike in found.items()
    ]
    return {
        **_together(list(every.values())),
        "blocks": [{"block": block, **_together(by_block[block])} for block in order if block in by_block],
        "layers": layers,
        "only_first": sorted(first),
        "only_second": sorted(second),
    }


def _together(parts: Sequence[Likeness]) -> dict[str, Any]:
    """Several layers as one long change; the overlap is the mean of theirs."""
    norms = [math.hypot(*(getattr(part, side) for part in parts)) for side in ("first", "second")]
    overlaps = [part.overlap for part in parts if part.overlap is not None]
    whole = Likeness(*norms, sum(part.product for part in parts), sum(overlaps) / len(overlaps) if overlaps else None)
    return {"first": whole.first, "second": whole.second, "cosine": whole.cosine, "overlap": whole.overlap}


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal: a line per block, then the sum."""
    lines = [f"{'block':6} {'cosine':>8} {'overlap':>8} {'norms':>22}"]
    for row in [*report["blocks"], {**report, "block": "all"}]:
        shares = (f"{row[name]:8.3f}" if row[name] is not None else f"{'-':>8}" for name in ("cosine", "overlap"))
        lines.append(f"{row['block']:6} {' '.join(shares)} {row['first']:10.4g}  {row['second']:10.4g}")
    for name, words in (("only_first", "first"), ("only_second", "second")):
        if report[name]:
            lines.append(f"{len(report[name])} layers are in the {words} alone")
    return "\n".join(lines)
