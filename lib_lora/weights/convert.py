"""``convert``: the same LoRA under other names, as plain LoRA, in another precision, or with a DyLoRA's first ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.delta import Full, LoraWeights, ModuleDelta
from lib_lora.weights.layers import block_of_key, canonical_key
from lib_lora.weights.modules import MB, factor_tensors, ignored_text, is_spatial, precision_of, read_whole
from lib_lora.weights.names import diffusers_name, ldm_key
from lib_lora.weights.options import ConvertConfig
from lib_lora.weights.output import check_output, derived_metadata, saved, write_lora
from lib_lora.weights.svd import FactorSvd, RankRule, Truncated, truncate_dense
from lib_lora.weights.workers import each

_PLAIN = frozenset({"lora_up.weight", "lora_down.weight", "alpha"})


@dataclass(frozen=True)
class Converted:
    """One module of the result, by suffix, with its norm and what was lost of it, and the report's line."""

    key: str
    tensors: Mapping[str, Tensor]
    row: Mapping[str, Any]
    norm: float = 0.0
    error: float = 0.0


def is_plain(delta: ModuleDelta) -> bool:
    """LoRA without Tucker form, magnitudes or anything else beside."""
    return delta.kind == "LoRA" and delta.tensors.keys() <= _PLAIN


def as_lora(delta: ModuleDelta, rule: RankRule | None, weight: Tensor | None = None, exact: bool = False) -> Converted:
    """A module of any type as LoRA; without a rule without loss, where that takes no more ranks than the module has.

    Args:
        weight: of the layer, where the type needs it.

    Raises:
        StudioError: the type needs the weight, or has no low rank and there is no rule.
    """
    if is_plain(delta) and (rule is None or (rule.kind == "fixed" and delta.rank <= rule.most)):
        return Converted(delta.key, delta.tensors, _row(delta, "LoRA", delta.rank))
    factors = delta.low_rank(weight)
    if factors is not None:
        return _cut(delta, FactorSvd(*factors).cut(rule or RankRule()), delta.shape or tuple(weight.shape))
    # The shape told by the layer, where there is one: files of some types have lost the kernel.
    shape = delta.shape if weight is None else tuple(weight.shape)
    if rule is None and not _is_as_large(delta, shape):
        raise _full_rank(delta)
    dense = delta.dense(weight)
    return _cut(delta, truncate_dense(dense.flatten(1), rule or RankRule(), exact), tuple(dense.shape))


def _is_as_large(delta: ModuleDelta, shape: tuple[int, ...]) -> bool:
    """Whether a module has as many ranks as any matrix of the layer's shape can have."""
    return delta.rank is not None and min(shape[0], math.prod(shape[1:])) <= delta.rank


def _full_rank(delta: ModuleDelta) -> StudioError:
    return StudioError(
        f"{delta.key} is a {delta.name} of full rank: as LoRA it needs a rank or a share that may be lost",
        field="dim",
    )


def _cut(delta: ModuleDelta, found: Truncated, shape: tuple[int, ...]) -> Converted:
    named = factor_tensors(delta.key, found.up.double(), found.down.double(), shape) if found.rank else {}
    tensors = {key[len(delta.key) + 1 :]: tensor for key, tensor in named.items()}
    row = _row(delta, "LoRA", found.rank, found.lost, found.excess)
    return Converted(delta.key, tensors, row, found.norm, found.error)


def _row(delta: ModuleDelta, kind: str, rank: int | None, lost: float = 0.0, excess: float = 0.0) -> dict[str, Any]:
    block = block_of_key(delta.key)
    row = {"key": delta.key, "block": block, "from": delta.name, "to": kind, "old_rank": delta.rank, "rank": rank}
    return {**row, "lost": lost, "excess": excess}


def first_ranks(delta: ModuleDelta, rank: int) -> ModuleDelta:
    """A LoRA's first ranks at an unchanged scale, with an alpha that says so (as the WebUI's ``dyn=``)."""
    cut = delta.cut(rank)
    if cut is delta:
        return delta
    tensors = {suffix: tensor for suffix, tensor in cut.tensors.items() if suffix != "scale"}
    return replace(cut, tensors={**tensors, "alpha": torch.tensor(cut.scale * cut.rank)})


def run(config: ConvertConfig, control: Control) -> Iterator[Event]:
    """Convert a file.

    Raises:
        StudioError: files that cannot be read or written, a type that needs a base or a rank and has none, or names
            that cannot hold a type.
    """
    began = time.monotonic()
    check_output(config.output, config.overwrite, [config.model, *([config.base] if config.base else [])])
    weights, base = _opened(config)
    modules: list[Converted] = []
    for module in each(lambda key: _converted(weights.modules[key], base, config), weights.modules):
        if control.stopping:
            yield Note("stopped; nothing was written", "warning")
            return
        modules.append(module)
        yield Progress("converting", len(modules), len(weights.modules))
    yield from _notes(config, weights, modules)
    precision = config.save_precision or precision_of(weights)
    named, note = _named(modules, config.names, weights)
    if note:
        yield Note(note)
    write_lora(config.output, saved(named, precision), _metadata(config, weights, modules))
    yield Saved(config.output, 0, final=True)
    yield ToolDone("convert", config.output, _report(config, modules), time.monotonic() - began)


def check(config: ConvertConfig) -> None:
    """Whether the file can become what the options ask for.

    Raises:
        StudioError: it cannot, or a file cannot be read.
    """
    _opened(config)


def _opened(config: ConvertConfig) -> tuple[LoraWeights, BaseModel | None]:
    weights = read_whole(config.model, config.reading)
    base = BaseModel(config.base) if config.base else None
    if base is not None and weights.family not in (None, base.family):
        raise StudioError(
            "is of another family than the LoRA", field="base", came=base.family.value, allowed=weights.family.value
        )
    if config.first_ranks is not None:
        _check_first_ranks(config.first_ranks, weights)
    kept = [d for d in weights.modules.values() if config.network_type is None or _is_norm(d)]
    others = [delta.key for delta in kept if not is_plain(delta)]
    if config.names == "diffusers" and (others or weights.embeddings):
        raise _no_diffusers_form(others)
    for delta in weights.modules.values() if config.network_type else ():
        if not _is_norm(delta):
            _check_type(delta, base, config)
    return weights, base


def _check_first_ranks(rank: int, weights: LoraWeights) -> None:
    if not any(delta.cut(rank) is not delta for delta in weights.modules.values()):
        ranks = [delta.rank for delta in weights.modules.values() if delta.cut(1) is not delta]
        raise StudioError(
            "no module has more ranks that could be left out",
            field="first_ranks",
            came=rank,
            allowed=f"less than {max(ranks)}" if ranks else "a file with LoRA modules of several ranks",
        )


def _check_type(delta: ModuleDelta, base: BaseModel | None, config: ConvertConfig) -> None:
    """By shapes alone, whether a module can become LoRA."""
    weight = _weight(delta, base)
    shapes = {name: tensor.to("meta") if tensor.dim() else tensor for name, tensor in delta.tensors.items()}
    light = replace(delta, tensors=shapes)
    if delta.needs_base and weight is None:
        light.dense()  # raises the error that says so
    factors = light.low_rank(None if weight is None else weight.to("meta"))
    shape = delta.shape if weight is None else tuple(weight.shape)
    if factors is None and _rule(config, delta) is None and not _is_as_large(delta, shape):
        raise _full_rank(delta)


def _weight(delta: ModuleDelta, base: BaseModel | None) -> Tensor | None:
    """The layer's weight; also where it only tells the shape."""
    return None if base is None or is_plain(delta) else base.weight(canonical_key(delta.key, base.family))


def _is_norm(delta: ModuleDelta) -> bool:
    """A change of a norm, which has no rows and columns."""
    return isinstance(delta, Full) and len(delta.shape) == 1


def _converted(delta: ModuleDelta, base: BaseModel | None, config: ConvertConfig) -> Converted:
    if config.first_ranks is not None:
        delta = first_ranks(delta, config.first_ranks)
    if config.network_type is None or _is_norm(delta):
        return Converted(delta.key, delta.tensors, _row(delta, delta.name, delta.rank))
    return as_lora(delta, _rule(config, delta), _weight(delta, base), config.exact)


def _rule(config: ConvertConfig, delta: ModuleDelta) -> RankRule | None:
    spatial = config.conv_dim is not None and is_spatial(delta.key, delta.shape or ())
    most = config.conv_dim if spatial else config.dim
    if config.max_loss is not None:
        return RankRule("sv_fro", math.sqrt(1 - config.max_loss**2), most)
    return None if most is None else RankRule(most=most)


def _notes(config: ConvertConfig, weights: LoraWeights, modules: list[Converted]) -> Iterator[Note]:
    """What the result has not."""
    if ignored := ignored_text(weights):
        yield Note(ignored, "warning")
    if config.first_ranks is not None:
        whole = sum(delta.cut(config.first_ranks) is delta for delta in weights.modules.values())
        if whole:
            yield Note(f"{whole} modules are no LoRA of more than {config.first_ranks} ranks: none is left out of them")
    if config.network_type is None:
        return
    biases = [module.key for module in modules if weights.modules[module.key].bias() is not None]
    lost = [key for key in biases if not _is_norm(weights.modules[key])]
    if lost:
        yield Note(f"{len(lost)} layers' changes of the bias are left out: LoRA has none", "warning")
    norms = len(biases) - len(lost)
    if norms:
        yield Note(f"{norms} norms stay as they are: they have no LoRA form")


def _named(modules: list[Converted], names: str, weights: LoraWeights) -> tuple[dict[str, Tensor], str | None]:
    """The result by whole key, and what is odd about it."""
    if names == "diffusers":
        return _as_diffusers(modules)
    rename = ldm_key if names == "ldm" else canonical_key
    family = weights.family
    named = {f"{rename(m.key, family)}.{suffix}": tensor for m in modules for suffix, tensor in m.tensors.items()}
    return named | dict(weights.embeddings), None


def _as_diffusers(modules: list[Converted]) -> tuple[dict[str, Tensor], str | None]:
    """``lora_A`` and ``lora_B`` with the scale in them.

    diffusers takes one alpha and one rank for all modules of a part where the file tells no alphas: with the scale in
    the factors and zeros up to the largest rank, every version computes the same.
    """
    made = [module for module in modules if module.tensors]
    ranks = [module.tensors["lora_down.weight"].shape[0] for module in made]
    named = {}
    for module, rank in zip(made, ranks):
        up, down = module.tensors["lora_up.weight"].double(), module.tensors["lora_down.weight"]
        alpha = float(module.tensors.get("alpha", rank))
        name, missing = diffusers_name(module.key), max(ranks) - rank
        named[f"{name}.lora_A.weight"] = _padded(down, 0, missing)
        named[f"{name}.lora_B.weight"] = _padded(up * (alpha / rank), 1, missing)
    padded = sum(rank < max(ranks) for rank in ranks)
    note = (
        f"{padded} modules were filled up with zeros to rank {max(ranks)}: diffusers wants one rank" if padded else None
    )
    return named, note


def _no_diffusers_form(modules: list[str]) -> StudioError:
    if not modules:
        return StudioError("diffusers' files hold no embeddings", field="names", came="diffusers")
    return StudioError(
        f"{len(modules)} modules are no plain LoRA, the first is {modules[0]}",
        field="names",
        came="diffusers",
        allowed="plain LoRA, which network_type makes of most types",
    )


def _padded(tensor: Tensor, axis: int, count: int) -> Tensor:
    if not count:
        return tensor
    shape = [*tensor.shape]
    shape[axis] = count
    return torch.cat([tensor, tensor.new_zeros(shape)], axis)


def _metadata(config: ConvertConfig, weights: LoraWeights, modules: list[Converted]) -> dict[str, str]:
    """The file's own; of a file that became LoRA with the new ranks."""
    own, changes = weights.metadata, config.network_type is not None or config.first_ranks is not None
    if config.names == "diffusers" and not (changes or own.keys() - {"lora_adapter_metadata"}):
        return {"format": "pt"}
    tensors = {f"{module.key}.{suffix}": t for module in modules for suffix, t in module.tensors.items()}
    return derived_metadata(own, config.output.stem, weights.family, tensors, changes)


def _report(config: ConvertConfig, modules: list[Converted]) -> dict[str, Any]:
    norm = math.hypot(*(module.norm for module in modules))
    return {
        "layers": [dict(module.row) for module in modules],
        "lost": math.hypot(*(module.error for module in modules)) / norm if norm else 0.0,
        "left_out": [module.key for module in modules if not module.tensors],
        "names": config.names,
        "bytes_before": config.model.stat().st_size,
        "bytes": config.output.stat().st_size,
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal: a line per layer that changed, then the sum."""
    rank = {None: "-"}
    lines = [
        f"{row['key']:75} {row['from']} {rank.get(row['old_rank'], row['old_rank'])} -> {row['to']} "
        f"{rank.get(row['rank'], row['rank'])}, lost {row['lost']:.3%}"
        for row in report["layers"]
        if (row["from"], row["old_rank"]) != (row["to"], row["rank"])
    ]
    sizes = f"{report['bytes_before'] / MB:.1f} MB -> {report['bytes'] / MB:.1f} MB"
    left_out = f"; {len(report['left_out'])} layers without any change left out" if report["left_out"] else ""
    total = f"{len(report['layers'])} modules in {report['names']} names; {sizes}"
    return "\n".join([*lines, f"{total}; {report['lost']:.3%} of what was approximated lost{left_out}"])
