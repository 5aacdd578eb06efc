"""A LoRA with block weights as a file of its own, which does at strength 1 what the weights do in a prompt.

A weight multiplies what a module changes. Each type has something that the change is linear in, and that takes the
factor r: alpha of LoRA, LoHa and LoKr, the vector of (IA)^3, the difference of full layers and norms, one matrix of
each of GLoRA's products. OFT's change R W - W times r is (r R + (1 - r) I) W - W, again a block diagonal. What is not
linear in anything, DoRA and BOFT, is saved as a whole difference, for which the checkpoint is needed.

Modules of weight 1 stay as they are, those of weight 0 are left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.blocks.norms import OTHER
from lib_lora.weights.blocks.rules import read_rules
from lib_lora.weights.blocks.words import WeightedTag, read_tag
from lib_lora.weights.delta import IA3, OFT, Full, GLoRA, LoKr, LoraWeights, ModuleDelta, Norm
from lib_lora.weights.layers import block_of_key, canonical_key
from lib_lora.weights.modules import MB, ignored_text, read_whole
from lib_lora.weights.options import ApplyBlocksConfig
from lib_lora.weights.output import check_output, derived_metadata, saved, write_lora
from lib_lora.weights.recipe import Ingredient, common_family
from lib_lora.weights.workers import Stopped, check_stop

# By type what its change is linear in; ``bias`` is part of the change wherever a file has it.
_LINEAR: dict[type[ModuleDelta], tuple[str, ...]] = {
    IA3: ("weight",),
    Full: ("diff", "diff_b"),
    Norm: ("w_norm", "b_norm"),
    GLoRA: ("a2.weight", "b2.weight"),
    LoKr: ("lokr_w1",),  # where both matrices are whole, and there is no rank for alpha to count by
}
_SCALES = ("alpha", "scale")


@dataclass(frozen=True)
class _Opened:
    weights: LoraWeights
    tag: WeightedTag
    base: BaseModel | None


def weighted(delta: ModuleDelta, ratio: float, weight: Tensor | None = None) -> dict[str, Tensor]:
    """The tensors by suffix of a module that changes its layer ``ratio`` times as much.

    Args:
        weight: the layer's, for what ``needs_weight``.
    """
    own = dict(delta.tensors)
    if ratio == 1:
        return own
    if needs_weight(delta):
        return {"diff": (ratio * delta.dense(weight)).float()}
    if isinstance(delta, OFT):
        return {"oft_diag": _turned(delta, ratio).float()}
    names = _LINEAR.get(type(delta), ()) if type(delta) is not LoKr or delta.rank is None else ()
    if names:
        return own | {name: _times(own[name], ratio) for name in (*names, "bias") if name in own}
    scales = {name: own[name] for name in _SCALES if name in own}
    scales = scales or {"alpha": torch.tensor(float(delta.rank), dtype=torch.float64)}
    return own | {name: _times(tensor, ratio) for name, tensor in scales.items()}


def needs_weight(delta: ModuleDelta) -> bool:
    """Whether a module becomes a whole difference, which depends on its layer's weight."""
    return delta.is_dora or delta.name == "BOFT"


def _turned(delta: OFT, ratio: float) -> Tensor:
    """The blocks [n, b, b] of r R diag(rescale) + (1 - r) I; R is applied transposed (``delta._block_diagonal``)."""
    turns = delta.turns(torch.float64)
    if "rescale" in delta.tensors:
        turns = turns * delta.tensors["rescale"].double().reshape(turns.shape[0], 1, -1)
    return ratio * turns + (1 - ratio) * torch.eye(turns.shape[-1], dtype=turns.dtype)


def _times(tensor: Tensor, ratio: float) -> Tensor:
    """In its own precision where that holds the product exactly, else in single precision."""
    product = tensor.double() * ratio
    own = product.to(tensor.dtype)
    return own if tensor.is_floating_point() and torch.equal(own.double(), product) else product.float()


def check(config: ApplyBlocksConfig) -> None:
    """Whether the weights fit the file, and the checkpoint is there where it is needed.

    Raises:
        StudioError: they do not, it is not, or a file cannot be read.
    """
    _opened(config)


def _opened(config: ApplyBlocksConfig) -> _Opened:
    if not config.lbw and not config.lbwe:
        raise StudioError("must be given, or else lbwe", field="lbw", allowed="a preset's name, or a list of numbers")
    weights = read_whole(config.model)
    base = None if config.base is None else BaseModel(config.base)
    words = {"lbw": config.lbw, "x": config.x, "lbwe": config.lbwe}
    items = [weights.name.replace("=", "_"), *(f"{word}={value}" for word, value in words.items() if value != "")]
    tag = read_tag(items, family=weights.family or (base and base.family), **read_rules(config))
    if base is not None:
        common_family([Ingredient(weights, tag)], base.family)
    needing = {delta.name for key, delta in weights.modules.items() if _is_whole(delta, tag.ratio(key))}
    if needing and base is None:
        raise StudioError(
            f"must be given: a part of what {' and '.join(sorted(needing))} does depends on the checkpoint's weights",
            field="base",
            allowed="the checkpoint that the LoRA is used on",
        )
    return _Opened(weights, tag, base)


def _is_whole(delta: ModuleDelta, ratio: float) -> bool:
    return ratio not in (0, 1) and needs_weight(delta)


def run(config: ApplyBlocksConfig, control: Control) -> Iterator[Event]:
    """Write the weighted file.

    Raises:
        StudioError: as ``check``, or the result cannot be written.
    """
    began = time.monotonic()
    opened = _opened(config)
    weights, tag = opened.weights, opened.tag
    check_output(config.output, config.overwrite, [config.model, *([config.base] if config.base else [])])
    for text in _remarks(opened):
        yield Note(text, "warning")
    tensors = dict(weights.embeddings)
    try:
        for number, (key, delta) in enumerate(weights.modules.items(), 1):
            check_stop(control)
            tensors |= {f"{key}.{name}": tensor for name, tensor in _module(opened, delta).items()}
            yield Progress("weighing", number, len(weights.modules))
    except Stopped:
        yield Note("stopped; nothing was written", "warning")
        return
    if config.save_precision is not None:
        tensors = saved(tensors, config.save_precision)
    write_lora(config.output, tensors, _metadata(config, opened, tensors))
    yield Saved(config.output, 0, final=True)
    yield ToolDone("blocks", config.output, _report(config, weights, tag), time.monotonic() - began)


def _module(opened: _Opened, delta: ModuleDelta) -> dict[str, Tensor]:
    ratio = opened.tag.ratio(delta.key)
    if ratio == 0:
        return {}
    base = opened.base if _is_whole(delta, ratio) else None
    return weighted(delta, ratio, None if base is None else base.weight(canonical_key(delta.key, base.family)))


def _remarks(opened: _Opened) -> Iterator[str]:
    yield from opened.tag.hints
    left_out = ignored_text(opened.weights)
    if left_out:
        yield left_out
    whole = [delta for key, delta in opened.weights.modules.items() if _is_whole(delta, opened.tag.ratio(key))]
    if whole:
        names = " and ".join(sorted({delta.name for delta in whole}))
        yield f"{len(whole)} layers of {names} become whole differences: they are exact on this checkpoint alone"


def _metadata(config: ApplyBlocksConfig, opened: _Opened, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    own = opened.weights.metadata
    values = derived_metadata(own, config.output.stem, opened.weights.family, tensors, new_ranks=False)
    before = own.get("ss_training_comment")
    made = f"block weights of {opened.tag.words}"
    return values | {"ss_training_comment": f"{made}; {before}" if before else made}


def _report(config: ApplyBlocksConfig, weights: LoraWeights, tag: WeightedTag) -> dict[str, Any]:
    ratios = {key: tag.ratio(key) for key in weights.modules}
    groups = Counter((block_of_key(key) or OTHER, ratio) for key, ratio in ratios.items())
    return {
        "words": tag.words,
        "blocks": [{"block": block, "ratio": r, "modules": n} for (block, r), n in sorted(groups.items())],
        "modules": len(ratios),
        "left_out": sum(not ratio for ratio in ratios.values()),
        "whole": sum(_is_whole(delta, ratios[key]) for key, delta in weights.modules.items()),
        "bytes": config.output.stat().st_size,
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    lines = [f"{row['block']:6} x {row['ratio']:<8g}{row['modules']} modules" for row in report["blocks"]]
    kept = report["modules"] - report["left_out"]
    whole = f", {report['whole']} of them as whole differences" if report["whole"] else ""
    return "\n".join([*lines, f"{kept} of {report['modules']} modules saved{whole}; {report['bytes'] / MB:.1f} MB"])
