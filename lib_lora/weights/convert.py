"""``convert``: the same LoRA under other names, as plain LoRA, in another precision, or with a DyLoRA's first ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.models.checkpoint_file import open_checkpoint
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.delta import LoraWeights, ModuleDelta, Norm, lora_from_tensors
from lib_lora.weights.layers import block_of_key, canonical_key
from lib_lora.weights.modules import MB, factor_tensors, is_spatial, precision_of, refuse_unread
from lib_lora.weights.names import diffusers_name, from_diffusers, is_diffusers, ldm_key
from lib_lora.weights.options import ConvertConfig
from lib_lora.weights.output import check_output, lora_metadata, saved, write_lora
from lib_lora.weights.svd import FactorSvd, RankRule, Truncated, truncate_dense
from lib_lora.weights.workers import each

_PLAIN = frozenset({"lora_up.weight", "lora_down.weight", "alpha"})
_RANK_KEYS = ("ss_network_module", "ss_network_dim", "ss_network_alpha")


@dataclass(frozen=True)
class Converted:
    """One module of the result, by suffix, with its norm and what was lost of it, and the report's line."""

    key: str
    tensors: Mapping[str, Tensor]
    row: Mapping[str, Any]
    norm: float = 0.0
    error: float = 0.0


def read_any_names(path: Path, reading: str = "webui") -> LoraWeights:
    """A LoRA file in any of ``names.NAMES``, as kohya's.

    Raises:
        StudioError: no such file, or something else than a LoRA.
    """
    file = open_checkpoint(path)
    tensors = from_diffusers(file.tensors, file.metadata) if is_diffusers(file.tensors) else file.tensors
    weights = lora_from_tensors(tensors, file.metadata, path, reading)
    refuse_unread(weights)
    return weights


def is_plain(delta: ModuleDelta) -> bool:
    """LoRA without Tucker form, magnitudes or anything else beside."""
    return delta.kind == "LoRA" and delta.tensors.keys() <= _PLAIN


def as_lora(delta: ModuleDelta, rule: RankRule | None, weight: Tensor | None = None, exact: bool = False) -> Converted:
    """A module of any type as LoRA; without a rule without loss.

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
    if rule is None:
        raise StudioError(
            f"{delta.key} is a {delta.name} of full rank: as LoRA it needs a rank or a share that may be lost",
            field="dim",
        )
    dense = delta.dense(weight)
    # The shape told by the layer, where there is one: files of some types have lost the kernel.
    return _cut(delta, truncate_dense(dense.flatten(1), rule, exact), tuple(dense.shape))


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
    check_output(config.output, config.overwrite)
    weights = read_any_names(config.model, config.reading)
    base = BaseModel(config.base) if config.base else None
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


def _converted(delta: ModuleDelta, base: BaseModel | None, config: ConvertConfig) -> Converted:
    if config.first_ranks is not None:
        delta = first_ranks(delta, config.first_ranks)
    if config.network_type is None or isinstance(delta, Norm):
        return Converted(delta.key, delta.tensors, _row(delta, delta.name, delta.rank))
    weight = None
    if base is not None and (delta.needs_base or not is_plain(delta)):
        weight = base.weight(canonical_key(delta.key, base.family))
    return as_lora(delta, _rule(config, delta), weight, config.exact)


def _rule(config: ConvertConfig, delta: ModuleDelta) -> RankRule | None:
    spatial = config.conv_dim is not None and is_spatial(delta.key, delta.shape or ())
    most = config.conv_dim if spatial else config.dim
    if config.max_loss is not None:
        return RankRule("sv_fro", math.sqrt(1 - config.max_loss**2), most)
    return None if most is None else RankRule(most=most)


def _notes(config: ConvertConfig, weights: LoraWeights, modules: list[Converted]) -> Iterator[Note]:
    """What the result has not."""
    ignored = sorted({suffix for delta in weights.modules.values() for suffix in delta.ignored})
    if ignored:
        yield Note(f"left out, because the WebUI leaves it out, too: {', '.join(ignored)}", "warning")
    if config.network_type is None:
        return
    biases = [module.key for module in modules if weights.modules[module.key].bias() is not None]
    lost = [key for key in biases if not isinstance(weights.modules[key], Norm)]
    if lost:
        yield Note(f"{len(lost)} layers' changes of the bias are left out: LoRA has none", "warning")
    norms = len(biases) - len(lost)
    if norms:
        yield Note(f"{norms} norms stay as they are: they have no LoRA form")


def _named(modules: list[Converted], names: str, weights: LoraWeights) -> tuple[dict[str, Tensor], str | None]:
    """The result by whole key, and what is odd about it."""
    if names == "diffusers":
        return _as_diffusers(modules, weights)
    rename = ldm_key if names == "ldm" else canonical_key
    family = weights.family
    named = {f"{rename(m.key, family)}.{suffix}": tensor for m in modules for suffix, tensor in m.tensors.items()}
    return named | dict(weights.embeddings), None


def _as_diffusers(modules: list[Converted], weights: LoraWeights) -> tuple[dict[str, Tensor], str | None]:
    """``lora_A`` and ``lora_B`` with the scale in them.

    diffusers takes one alpha and one rank for all modules of a part where the file tells no alphas: with the scale in
    the factors and zeros up to the largest rank, every version computes the same.
    """
    if weights.embeddings:
        raise StudioError("diffusers' files hold no embeddings", field="names", came="diffusers")
    others = [module.key for module in modules if module.tensors.keys() - _PLAIN]
    if others:
        raise StudioError(
            f"{len(others)} modules are no plain LoRA, the first is {others[0]}",
            field="names",
            came="diffusers",
            allowed="plain LoRA, which network_type makes of most types",
        )
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


def _padded(tensor: Tensor, axis: int, count: int) -> Tensor:
    if not count:
        return tensor
    shape = [*tensor.shape]
    shape[axis] = count
    return torch.cat([tensor, tensor.new_zeros(shape)], axis)


def _metadata(config: ConvertConfig, weights: LoraWeights, modules: list[Converted]) -> dict[str, str]:
    """The file's own; of a file that became LoRA with the new ranks."""
    own = dict(weights.metadata)
    own.pop("lora_adapter_metadata", None)
    tensors = {f"{module.key}.{suffix}": t for module in modules for suffix, t in module.tensors.items()}
    values = lora_metadata(config.output.stem, weights.family, tensors)
    if config.network_type is None and config.first_ranks is None:
        return values | own if own or config.names != "diffusers" else {"format": "pt"}
    own.pop("ss_network_args", None)
    return values | own | {key: values[key] for key in _RANK_KEYS}


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
