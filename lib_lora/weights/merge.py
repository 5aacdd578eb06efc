"""``merge``: several LoRAs as one file that does what they do together.

Low ranks are put side by side, which is exact (strength * alpha / rank in up, ranks added up); whatever has no low
rank of its own is summed as a whole matrix in the WebUI's order. The result is exact until a rank or a size is asked
for, and then as near as this rank allows, with the error of each layer told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.blocks.rules import read_rules
from lib_lora.weights.combine import combined, concatenated, is_sum, summed_bias
from lib_lora.weights.delta import INPAINTING_CHANNELS, LATENT_CHANNELS, Factors
from lib_lora.weights.layers import block_of_key
from lib_lora.weights.modules import (
    MB,
    factor_tensors,
    header_bytes,
    is_spatial,
    layer_kernel,
    precision_of,
    rank_bytes,
)
from lib_lora.weights.options import MergeConfig, RecipeConfig
from lib_lora.weights.output import check_output, common_metadata, lora_metadata, saved, write_lora
from lib_lora.weights.recipe import (
    Ingredient,
    Part,
    common_family,
    from_files,
    from_prompt,
    layer_parts,
    recipe_notes,
)
from lib_lora.weights.svd import FactorSvd, RankRule, Truncated, spend_budget, truncate_dense
from lib_lora.weights.workers import Stopped, alone_if_large, check_stop, each

# Singular values below this share of the largest are less than any saved precision can tell.
_NOTHING = 1e-7


@dataclass(frozen=True)
class Merged:
    """One layer of the result: tensors by whole key, and its line of the report."""

    key: str
    tensors: Mapping[str, Tensor]
    row: Mapping[str, Any]
    norm: float = 0.0
    error: float = 0.0


@dataclass(frozen=True)
class LayerSum:
    """What a layer's parts come to: ``factors`` where low ranks are exact, else ``change``, the whole matrix."""

    key: str
    shape: tuple[int, ...]
    parts: Sequence[Part]
    factors: Factors | None
    change: Tensor | None
    bias: Tensor | None

    @property
    def may_be_cut(self) -> bool:
        """Biases exist beside whole differences only, and norms are no matrices."""
        return self.bias is None and len(self.shape) > 1

    def singular_values(self) -> Tensor:
        if self.factors is not None:
            return FactorSvd(*self.factors).singular
        return truncate_dense(self.change.flatten(1), RankRule("threshold", 0.0), exact=True).singular

    def cut(self, rule: RankRule, exact: bool) -> Truncated:
        if self.factors is not None:
            return FactorSvd(*self.factors).cut(rule)
        return truncate_dense(self.change.flatten(1), rule, exact)


def ingredients_of(config: RecipeConfig) -> list[Ingredient]:
    """The LoRAs that the options name.

    Raises:
        StudioError: neither prompt nor files, both of them, or one that cannot be read.
    """
    if (config.prompt is None) == (not config.models):
        raise StudioError("must be given, or else models", field="prompt", allowed="one of the two")
    if config.prompt is None:
        return from_files(config.models, config.ratios, config.reading)
    if config.ratios:
        raise StudioError("go with models; a prompt has its own strengths", field="ratios")
    return from_prompt(config.prompt, config.lora_dir, reading=config.reading, **read_rules(config))


def averaged(ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    """The same with strengths that add up to 1, of text encoders and UNet apart.

    Raises:
        StudioError: they add up to 0.
    """
    tags = [item.tag for item in ingredients]
    te, unet = sum(tag.te for tag in tags), sum(tag.unet for tag in tags)
    strengths = [(te, [tag.te for tag in tags]), (unet, [tag.unet for tag in tags])]
    if any(not total and any(each) for total, each in strengths):
        raise StudioError("strengths that add up to 0 have no average", field="mode", came="average")
    shares = [replace(tag, te=tag.te / (te or 1), unet=tag.unet / (unet or 1)) for tag in tags]
    return [replace(item, tag=share) for item, share in zip(ingredients, shares)]


def layer_sum(key: str, parts: Sequence[Part], base: BaseModel | None, config: MergeConfig) -> LayerSum:
    """One layer, before ranks."""
    bias = summed_bias(parts)
    factors = concatenated(parts) if bias is None and is_sum(config.mode) else None
    shape = _shape(key, parts)
    if factors is not None:
        _refuse_broken(key, parts, *factors)
        return LayerSum(key, shape, parts, factors, None, None)
    needs_base = any(part.delta.needs_base for part in parts)
    weight = base.weight(key) if base is not None and (needs_base or shape is None) else None
    if shape is None:
        shape = tuple(weight.shape)
    with alone_if_large(prod(shape)):
        change = combined(parts, config.mode, weight, shape, density=config.density, seed=config.seed)
    change = _for_pictures(key, change)
    _refuse_broken(key, parts, change)
    return LayerSum(key, tuple(change.shape), parts, None, change, bias)


def _refuse_broken(key: str, parts: Sequence[Part], *tensors: Tensor) -> None:
    """
    Raises:
        StudioError: there are values that are not finite: no singular values can be found of them.
    """
    # A sum is finite in float64 where its terms are: one pass, and no mask.
    if not all(tensor.sum().isfinite() for tensor in tensors):
        kinds = " + ".join(part.delta.name for part in parts)
        raise StudioError(f"{key} ({kinds}) has infinite values or none at all (NaN)", allowed="LoRAs that are finite")


def _shape(key: str, parts: Sequence[Part]) -> tuple[int, ...] | None:
    """The layer's shape as the files tell it, None where they do not."""
    known = [part.delta.shape for part in parts if part.delta.shape is not None]
    if not known:
        return None
    shape = max(known, key=len)
    kernel = layer_kernel(key, shape)
    if len(shape) == 2 and prod(kernel) > 1:
        return (shape[0], shape[1] // prod(kernel), *kernel)
    return shape


def _for_pictures(key: str, change: Tensor) -> Tensor:
    """Of an inpainting model's first convolution, the four channels that a LoRA file holds.

    Raises:
        StudioError: the others change, too, which the WebUI could not apply.
    """
    if change.dim() != 4 or change.shape[1] != INPAINTING_CHANNELS:
        return change
    if change[:, LATENT_CHANNELS:].any():
        raise StudioError(f"{key}: a LoRA for the WebUI cannot hold a change of the mask's channels")
    return change[:, :LATENT_CHANNELS]


def merge_layer(found: LayerSum, rule: RankRule | None, *, exact: bool = False, only_lora: bool = False) -> Merged:
    """The tensors of one layer: at the rank that the rule says, or without loss where there is none."""
    if not found.may_be_cut:
        return _as_difference(found)
    if rule is not None:
        return _as_lora(found, found.cut(rule, exact))
    rows, columns = found.shape[0], prod(found.shape[1:])
    if found.factors is None:
        return _as_lora(found, found.cut(RankRule("ratio", _NOTHING), True)) if only_lora else _as_difference(found)
    up, down = found.factors
    if len(found.parts) > 1 or up.shape[1] > min(rows, columns):
        svd, tight = FactorSvd(up, down), RankRule("ratio", _NOTHING)
        if tight.rank(svd.singular) < up.shape[1]:
            up, down, *_ = svd.cut(tight)
    if not only_lora and up.shape[1] * (rows + columns) >= rows * columns:
        whole = replace(found, factors=None, change=(found.factors[0] @ found.factors[1]).reshape(found.shape))
        return _as_difference(whole)
    norm = float((found.factors[0].T @ found.factors[0] * (found.factors[1] @ found.factors[1].T)).sum())
    return _as_lora(found, Truncated(up, down, torch.empty(0), math.sqrt(max(norm, 0.0)), 0.0, 0.0))


def _as_lora(found: LayerSum, cut: Truncated) -> Merged:
    tensors = factor_tensors(found.key, cut.up, cut.down, found.shape) if cut.rank else {}
    return Merged(found.key, tensors, _row(found, "LoRA", cut.rank, cut.lost, cut.excess), cut.norm, cut.error)


def _as_difference(found: LayerSum) -> Merged:
    change = found.change
    if change.dim() == 1:  # a norm: the WebUI wants both of its tensors
        bias = torch.zeros_like(change) if found.bias is None else found.bias
        tensors = {f"{found.key}.w_norm": change, f"{found.key}.b_norm": bias}
    else:
        tensors = {f"{found.key}.diff": change}
        if found.bias is not None:
            tensors[f"{found.key}.diff_b"] = found.bias
    saved_as = "Norm" if change.dim() == 1 else "Full"
    return Merged(found.key, tensors, _row(found, saved_as, None, 0.0, 0.0), float(change.norm()))


def _row(found: LayerSum, saved_as: str, rank: int | None, lost: float, excess: float) -> dict[str, Any]:
    """A layer's line of the report. ``lost``: error / change; ``excess``: by how much the error is above the best."""
    return {
        "key": found.key,
        "block": block_of_key(found.key),
        "kinds": [part.delta.name for part in found.parts],
        "saved_as": saved_as,
        "rank": rank,
        "lost": lost,
        "excess": excess,
    }


def check(config: MergeConfig) -> None:
    """Whether the LoRAs go together, and have the checkpoint that they need.

    Raises:
        StudioError: they do not, or a file cannot be read.
    """
    _opened(config)


def _opened(
    config: MergeConfig,
) -> tuple[list[Ingredient], BaseModel | None, Family | None, dict[str, list[Part]]]:
    """The LoRAs, the checkpoint, their family, and each layer's parts."""
    ingredients = ingredients_of(config)
    base = None if config.base is None else BaseModel(config.base)
    family = common_family(ingredients, None if base is None else base.family)
    if config.mode == "average":
        ingredients = averaged(ingredients)
    layers = layer_parts(ingredients, family)
    refuse_without_base(layers, base)
    return ingredients, base, family, layers


def run(config: MergeConfig, control: Control) -> Iterator[Event]:
    """Merge files.

    Raises:
        StudioError: options that do not fit together, LoRAs that do not, or a file that cannot be read or written.
    """
    began = time.monotonic()
    ingredients, base, family, layers = _opened(config)
    inputs = [*(item.lora.path for item in ingredients), *([config.base] if config.base else [])]
    check_output(config.output, config.overwrite, inputs)
    for text in recipe_notes(ingredients, family):
        yield Note(text, "warning")
    precision = config.save_precision or _common_precision(ingredients)
    if not is_sum(config.mode) and config.new_rank is None and config.size_mb is None:
        what = f"{config.mode} saves every layer as a whole difference: the file becomes as large as their weights"
        yield Note(f"{what}; new_rank or size_mb keep it small", "warning")
    merged: list[Merged] = []
    try:
        known = _embeddings(ingredients), _metadata(config, ingredients, family, {})
        rules = yield from _rules(config, layers, base, precision, known, control)
        work = each(lambda key: _finished(config, key, layers[key], base, rules[key], precision), layers)
        for done in work:
            check_stop(control)
            merged.append(done)
            yield Progress("merging", len(merged), len(layers))
    except Stopped:
        yield Note("stopped; nothing was written", "warning")
        return
    tensors = {key: tensor for layer in merged for key, tensor in layer.tensors.items()}
    tensors |= _embeddings(ingredients)
    write_lora(config.output, tensors, _metadata(config, ingredients, family, tensors))
    yield Saved(config.output, 0, final=True)
    yield ToolDone("merge", config.output, _report(config, ingredients, merged), time.monotonic() - began)


def _finished(
    config: MergeConfig,
    key: str,
    parts: Sequence[Part],
    base: BaseModel | None,
    rule: RankRule | None,
    precision: str,
) -> Merged:
    layer = merge_layer(layer_sum(key, parts, base, config), rule, exact=config.exact, only_lora=config.only_lora)
    return replace(layer, tensors=saved(layer.tensors, precision))


def refuse_without_base(layers: Mapping[str, Sequence[Part]], base: BaseModel | None) -> None:
    """
    Raises:
        StudioError: types that depend on the checkpoint's weights, and no checkpoint, or not the right one.
    """
    needing = {
        key: {part.delta.name for part in parts if part.delta.needs_base}
        for key, parts in layers.items()
        if any(part.delta.needs_base for part in parts)
    }
    if needing and base is None:
        names = ", ".join(sorted(set().union(*needing.values())))
        raise StudioError(
            f"must be given: {len(needing)} layers are {names}, whose change depends on the checkpoint's weights",
            field="base",
            allowed="the checkpoint that the LoRAs are meant for",
        )
    for key in needing:
        base.layer(key)


def _common_precision(ingredients: Sequence[Ingredient]) -> str:
    found = {precision_of(item.lora) for item in ingredients}
    return found.pop() if len(found) == 1 else "float"


def _most(config: MergeConfig, key: str, shape: tuple[int, ...]) -> int | None:
    return config.new_conv_rank if config.new_conv_rank and is_spatial(key, shape) else config.new_rank


def _rules(
    config: MergeConfig,
    layers: Mapping[str, Sequence[Part]],
    base: BaseModel | None,
    precision: str,
    known: tuple[Mapping[str, Tensor], Mapping[str, str]],
    control: Control,
) -> Iterator[Event]:
    """The rank rule of each layer; None where it stays exact. A generator that returns them.

    Args:
        known: tensors and metadata that the file has in any case.
    """
    if config.size_mb is None:
        shapes = {key: _shape(key, parts) or () for key, parts in layers.items()}
        most = {key: _most(config, key, shape) for key, shape in shapes.items()}
        return {key: None if rank is None else RankRule(most=rank) for key, rank in most.items()}
    spectra: dict[str, Tensor] = {}
    costs: dict[str, int] = {}
    fixed: dict[str, Tensor] = dict(known[0])  # of what is made, without its values
    for key, found in zip(layers, each(lambda key: _spectrum(layer_sum(key, layers[key], base, config)), layers)):
        check_stop(control)
        shape, values = found
        if isinstance(values, Merged):
            fixed |= {name: tensor.to("meta") for name, tensor in saved(values.tensors, precision).items()}
        else:
            spectra[key], costs[key] = values[: _most(config, key, shape)], rank_bytes(shape, precision)
        yield Progress("singular values", len(spectra), len(layers))
    used = header_bytes(spectra, fixed, known[1]) + sum(t.numel() * t.element_size() for t in fixed.values())
    ranks = spend_budget(spectra, costs, int(config.size_mb * MB) - used)
    if not any(ranks.values()):
        raise StudioError("is too small for any rank", field="size_mb", came=config.size_mb)
    # A rule of rank 0 is a threshold above everything.
    rules = {key: RankRule(most=rank) if rank else RankRule("threshold", math.inf) for key, rank in ranks.items()}
    return {key: rules.get(key) for key in layers}


def _spectrum(found: LayerSum) -> tuple[tuple[int, ...], Tensor | Merged]:
    """A layer's shape, and its singular values or, where it is saved whole in any case, its tensors."""
    return found.shape, found.singular_values() if found.may_be_cut else _as_difference(found)


def _embeddings(ingredients: Sequence[Ingredient]) -> dict[str, Tensor]:
    """The textual inversions that the files carry along.

    Raises:
        StudioError: two files have different ones of one name.
    """
    found: dict[str, Tensor] = {}
    for item in ingredients:
        for key, tensor in item.lora.embeddings.items():
            if key in found and not torch.equal(found[key], tensor):
                raise StudioError(f"{key} is another embedding of a name that is taken", file=item.lora.path)
            found[key] = tensor
    return found


def _metadata(
    config: MergeConfig, ingredients: Sequence[Ingredient], family: Family | None, tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    words = dict.fromkeys(item.lora.metadata.get("modelspec.trigger_phrase") for item in ingredients)
    phrase = ", ".join(word for word in words if word)
    recipe = ", ".join(item.tag.words for item in ingredients)
    values = lora_metadata(config.output.stem, family, tensors)
    values |= common_metadata([item.lora.metadata for item in ingredients])
    values["ss_training_comment"] = f"merged ({config.mode}) of {recipe}"
    return values | ({"modelspec.trigger_phrase": phrase} if phrase else {})


def _report(config: MergeConfig, ingredients: Sequence[Ingredient], merged: Sequence[Merged]) -> dict[str, Any]:
    norm = math.hypot(*(layer.norm for layer in merged))
    return {
        "recipe": [item.tag.words for item in ingredients],
        "mode": config.mode,
        "layers": [dict(layer.row) for layer in merged],
        "lost": math.hypot(*(layer.error for layer in merged)) / norm if norm else 0.0,
        "left_out": [layer.key for layer in merged if not layer.tensors],
        "bytes": config.output.stat().st_size,
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal: a line per layer, then the sum."""
    lines = [
        f"{row['key']:75} {' + '.join(row['kinds'])} -> {row['saved_as']}"
        + (f" of rank {row['rank']}" if row["rank"] is not None else "")
        + (f", {row['lost']:.3%} lost" if row["lost"] else "")
        for row in report["layers"]
    ]
    lost = f"{report['lost']:.4%} of the whole change lost" if report["lost"] else "nothing lost but rounding"
    left_out = f"; {len(report['left_out'])} layers left out" if report["left_out"] else ""
    return "\n".join([*lines, f"{' + '.join(report['recipe'])}: {report['bytes'] / MB:.1f} MB; {lost}{left_out}"])
