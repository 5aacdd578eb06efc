"""``resize``: a LoRA with smaller ranks, each layer's change as near to what it was as the rank allows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.weights.delta import Full, LoraWeights, ModuleDelta
from lib_lora.weights.layers import block_of_key
from lib_lora.weights.modules import (
    MB,
    factor_tensors,
    header_bytes,
    ignored_text,
    is_spatial,
    precision_of,
    rank_bytes,
    read_whole,
)
from lib_lora.weights.options import ResizeConfig
from lib_lora.weights.output import check_output, derived_metadata, saved, write_lora
from lib_lora.weights.svd import FactorSvd, RankRule, Truncated, spend_budget, truncate_dense
from lib_lora.weights.workers import each


@dataclass(frozen=True)
class Cut:
    """One module of the result. ``tensors`` by whole key, none where the rule leaves no rank."""

    key: str
    tensors: Mapping[str, Tensor]
    row: Mapping[str, Any]
    norm: float
    error: float


def can_be_cut(delta: ModuleDelta) -> bool:
    """Whether a module's change is known without the layer's weight, and is no difference to be kept whole."""
    return not isinstance(delta, Full) and not _inner(delta).needs_base


def singular_values(delta: ModuleDelta) -> Tensor:
    """All of them, [min(out, in * kh * kw)] or fewer, descending."""
    factors = _inner(delta).low_rank()
    if factors is not None:
        return FactorSvd(*factors).singular
    return truncate_dense(_matrix(delta), RankRule("threshold", 0.0), exact=True).singular


def cut_module(delta: ModuleDelta, rule: RankRule) -> Cut:
    """The module with the rank that the rule says, as LoRA; where this is its own rank already, as it is.

    A DoRA's magnitudes stay, and its low-rank part is cut; the figures are that part's.
    """
    if delta.kind == "LoRA" and rule.kind == "fixed" and delta.rank <= (rule.most or delta.rank):
        found = _whole(delta)
        tensors = {f"{delta.key}.{suffix}": tensor for suffix, tensor in delta.tensors.items()}
        return Cut(delta.key, tensors, _row(delta, delta.rank, found), found.norm, 0.0)
    found = _truncate(delta, rule)
    tensors = factor_tensors(delta.key, found.up, found.down, delta.shape) if found.rank else {}
    if tensors and delta.is_dora:
        tensors[f"{delta.key}.dora_scale"] = delta.tensors["dora_scale"]
    return Cut(delta.key, tensors, _row(delta, found.rank, found), found.norm, found.error)


def _inner(delta: ModuleDelta) -> ModuleDelta:
    """Without DoRA."""
    return replace(delta, tensors={name: t for name, t in delta.tensors.items() if name != "dora_scale"})


def _matrix(delta: ModuleDelta) -> Tensor:
    return _inner(delta).dense().flatten(1)


def _truncate(delta: ModuleDelta, rule: RankRule) -> Truncated:
    factors = _inner(delta).low_rank()
    return truncate_dense(_matrix(delta), rule, exact=True) if factors is None else FactorSvd(*factors).cut(rule)


def _whole(delta: ModuleDelta) -> Truncated:
    singular = singular_values(delta)
    empty = torch.empty(0, 0)
    return Truncated(empty, empty, singular, float(singular.norm()), 0.0, 0.0)


def _row(delta: ModuleDelta, rank: int, found: Truncated) -> dict[str, Any]:
    """A layer's line of the report. ``sum``: the share of the singular values' sum that is kept; ``ratio``: the
    largest to the smallest that is kept."""
    singular = found.singular.double()
    kept, total = singular[:rank], float(singular.sum())
    smallest = float(kept[-1]) if len(kept) else 0.0
    return {
        "key": delta.key,
        "kind": delta.name,
        "block": block_of_key(delta.key),
        "old_rank": delta.rank,
        "rank": rank,
        "lost": found.lost,
        "sum": float(kept.sum()) / total if total else 1.0,
        "ratio": float(singular[0]) / smallest if smallest else None,
    }


def resize(weights: LoraWeights, rules: Mapping[str, RankRule]) -> Iterator[Cut]:
    """Each module that ``rules`` names, cut."""
    return each(lambda key: cut_module(weights.modules[key], rules[key]), rules)


def run(config: ResizeConfig, control: Control) -> Iterator[Event]:
    """Resize a file.

    Raises:
        StudioError: options that do not fit together, or a file that cannot be read or written.
    """
    began = time.monotonic()
    check(config)
    check_output(config.output, config.overwrite, [config.model])
    weights = read_whole(config.model, config.reading)
    wanted = [key for key, delta in weights.modules.items() if can_be_cut(delta)]
    if not wanted:
        raise StudioError("holds no module whose rank could be cut", file=config.model)
    if ignored := ignored_text(weights):
        yield Note(ignored, "warning")
    precision = config.save_precision or precision_of(weights)
    kept = _kept(weights, wanted)
    if len(wanted) < len(weights.modules):
        yield Note(f"{len(weights.modules) - len(wanted)} modules are no low-rank ones, and stay as they are")
    if config.size_mb is None:
        rules = {key: _rule(config, weights.modules[key]) for key in wanted}
    else:
        spectra: dict[str, Tensor] = {}
        for key, found in zip(wanted, each(lambda key: singular_values(weights.modules[key]), wanted)):
            if control.stopping:
                yield Note("stopped; nothing was written", "warning")
                return
            spectra[key] = found
            yield Progress("singular values", len(spectra), len(wanted))
        rules = _rules_for_size(config, weights, spectra, precision, kept)
    cuts: list[Cut] = []
    for cut in resize(weights, rules):
        if control.stopping:
            yield Note("stopped; nothing was written", "warning")
            return
        cuts.append(replace(cut, tensors=saved(cut.tensors, precision)))
        yield Progress("resizing", len(cuts), len(rules))
    tensors = {key: tensor for cut in cuts for key, tensor in cut.tensors.items()}
    tensors |= saved(kept, precision)
    write_lora(config.output, tensors, _metadata(config, weights, cuts, tensors))
    yield Saved(config.output, 0, final=True)
    yield ToolDone("resize", config.output, _report(config, cuts), time.monotonic() - began)


def check(config: ResizeConfig) -> None:
    if config.dynamic_method and config.size_mb:
        raise StudioError("does not go together with size_mb", field="dynamic_method", came=config.dynamic_method)
    if config.dynamic_method and config.dynamic_param is None:
        raise StudioError("must be given with dynamic_method", field="dynamic_param")
    if config.dynamic_param is not None and not config.dynamic_method:
        raise StudioError("must be given with dynamic_param", field="dynamic_method")
    if not (config.new_rank or config.dynamic_method or config.size_mb):
        raise StudioError("must be given, or else dynamic_method or size_mb", field="new_rank")
    if config.dynamic_method:
        RankRule(config.dynamic_method, config.dynamic_param)


def _most(config: ResizeConfig, delta: ModuleDelta) -> int | None:
    if config.new_conv_rank is not None and is_spatial(delta.key, delta.shape):
        return config.new_conv_rank
    return config.new_rank


def _rule(config: ResizeConfig, delta: ModuleDelta) -> RankRule:
    most = _most(config, delta)
    return RankRule(config.dynamic_method, config.dynamic_param, most) if config.dynamic_method else RankRule(most=most)


def _kept(weights: LoraWeights, cut: list[str]) -> dict[str, Tensor]:
    """By whole key, what is not cut."""
    others = {key: delta for key, delta in weights.modules.items() if key not in set(cut)}
    tensors = {f"{key}.{suffix}": tensor for key, delta in others.items() for suffix, tensor in delta.tensors.items()}
    return tensors | dict(weights.embeddings)


def _rules_for_size(
    config: ResizeConfig,
    weights: LoraWeights,
    spectra: Mapping[str, Tensor],
    precision: str,
    kept: Mapping[str, Tensor],
) -> dict[str, RankRule]:
    costs = {key: rank_bytes(weights.modules[key].shape, precision) for key in spectra}
    whole = saved({**kept, **_magnitudes(weights, spectra)}, precision)
    fixed = header_bytes(spectra, whole, weights.metadata) + sum(t.numel() * t.element_size() for t in whole.values())
    capped = {key: s[: _most(config, weights.modules[key])] for key, s in spectra.items()}
    ranks = spend_budget(capped, costs, int(config.size_mb * MB) - fixed)
    if not any(ranks.values()):
        raise StudioError("is too small for any rank", field="size_mb", came=config.size_mb)
    # A rule of rank 0 is a threshold above everything.
    return {key: RankRule(most=rank) if rank else RankRule("threshold", math.inf) for key, rank in ranks.items()}


def _magnitudes(weights: LoraWeights, keys: Iterable[str]) -> dict[str, Tensor]:
    """What stays of DoRAs beside their ranks."""
    modules = ((key, weights.modules[key]) for key in keys)
    return {f"{key}.dora_scale": delta.tensors["dora_scale"] for key, delta in modules if delta.is_dora}


def _metadata(
    config: ResizeConfig, weights: LoraWeights, cuts: list[Cut], tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    """The file's own with the new ranks; the comment as sd-scripts writes it (48d368f, networks/resize_lora.py)."""
    values = derived_metadata(weights.metadata, config.output.stem, weights.family, tensors)
    old = max((cut.row["old_rank"] or 0) for cut in cuts)
    if config.dynamic_method:
        how = f"Dynamic resize with {config.dynamic_method}: {config.dynamic_param} from {old}"
    elif config.size_mb:
        how = f"resized to {config.size_mb:g} MB from {old}"
    else:
        how = f"dimension is resized from {old} to {config.new_rank}"
    values["ss_training_comment"] = f"{how}; {weights.metadata.get('ss_training_comment', '')}"
    return values


def _report(config: ResizeConfig, cuts: list[Cut]) -> dict[str, Any]:
    norm = math.hypot(*(cut.norm for cut in cuts))
    return {
        "layers": [dict(cut.row) for cut in cuts],
        "lost": math.hypot(*(cut.error for cut in cuts)) / norm if norm else 0.0,
        "left_out": [cut.key for cut in cuts if not cut.tensors],
        "bytes_before": config.model.stat().st_size,
        "bytes": config.output.stat().st_size,
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal: a line per layer, then the sum."""
    lines = [
        f"{row['key']:75} rank {row['old_rank'] or '-':>4} -> {row['rank']:>4}  kept {1 - row['lost'] ** 2:7.2%} of the"
        f" energy, {row['sum']:6.1%} of the sum" + (f", max ratio {row['ratio']:.1f}" if row["ratio"] else "")
        for row in report["layers"]
    ]
    sizes = f"{report['bytes_before'] / MB:.1f} MB -> {report['bytes'] / MB:.1f} MB"
    left_out = f"; {len(report['left_out'])} layers left out" if report["left_out"] else ""
    return "\n".join([*lines, f"{sizes}; {report['lost']:.3%} of the whole change lost{left_out}"])
