"""``extract``: the difference of two checkpoints as a LoRA, layer by layer."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib_lora.arch.family import Family, Part
from lib_lora.arch.keys import module_name
from lib_lora.arch.ldm import is_open_clip
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.models.config_yaml import published_config, yaml_beside
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.layers import Layer, block_of_key, is_text_key
from lib_lora.weights.modules import MB, factor_tensors, header_bytes, is_spatial, rank_bytes
from lib_lora.weights.options import ExtractConfig
from lib_lora.weights.output import check_output, lora_metadata, saved, write_lora
from lib_lora.weights.svd import RankRule, Truncated, spend_budget, truncate_dense
from lib_lora.weights.workers import each

_TEXT_LAYER = re.compile(r"lora_te_text_model_encoder_layers_(\d+)_")
_SIZE_RANK = 128  # the largest rank where a size is asked for and no rank is


class Pair(NamedTuple):
    """The same layer of both checkpoints."""

    original: Layer
    tuned: Layer


@dataclass(frozen=True)
class Extracted:
    """One layer of the result.

    Attributes:
        tensors: by whole key; none where nothing differs.
        row: the report's line.
        singular: the singular values kept, for a budget to choose among; None where there is nothing to choose.
        norm, error, best: ||W||, ||W - result|| and the least error that this rank can have, rounding apart.
    """

    key: str
    tensors: Mapping[str, Tensor]
    row: Mapping[str, Any]
    norm: float = 0.0
    error: float = 0.0
    best: float = 0.0
    singular: Tensor | None = None


class Extraction:
    """The layers of two open checkpoints, and what becomes of each.

    Raises:
        StudioError: they are of two families, or share no layer that was asked for.
    """

    def __init__(self, original: BaseModel, tuned: BaseModel, config: ExtractConfig) -> None:
        self._original, self._tuned, self._config = original, tuned, config
        self.family = original.family
        if tuned.family is not original.family:
            raise StudioError(
                "the checkpoints are of two families",
                field="model_tuned",
                came=tuned.family.value,
                allowed=f"{original.family.value}, as {original.file.name}",
            )
        self._idle = idle_layer(original)
        both = original.layers.keys() & tuned.layers.keys()
        pairs = {key: Pair(layer, tuned.layers[key]) for key, layer in original.layers.items() if key in both}
        pairs = {key: pair for key, pair in pairs.items() if self._is_wanted(pair.original)}
        self.pairs = {key: pair for key, pair in pairs.items() if pair.original.shape == pair.tuned.shape}
        self.misfits = sorted(pairs.keys() - self.pairs.keys())
        if not self.pairs:
            raise StudioError("the checkpoints share no layer that was asked for", field="model_tuned")

    def _is_wanted(self, layer: Layer) -> bool:
        """sd-scripts' choice (48d368f, networks/lora.py): transformers, and with ``conv_dim`` all of the UNet."""
        is_text = is_text_key(layer.key)
        if not (self._config.text_encoder if is_text else self._config.unet):
            return False
        if self._idle and layer.key.startswith(self._idle):
            return False
        if len(layer.shape) == 1:
            return self._config.norms and layer.bias is not None
        return is_text or self._config.conv_dim is not None or ".attentions." in module_name(layer.key)

    def layer(self, key: str) -> Extracted:
        """What the result keeps of one layer."""
        config, (original, tuned) = self._config, self.pairs[key]
        change = self._difference(original.weight, tuned.weight, original.rows, tuned.rows)
        if len(original.shape) == 1:
            return self._norm(key, change)
        bias = self._bias(original, tuned) if config.biases else None
        largest = float(change.abs().max())
        if not math.isfinite(largest):
            raise StudioError("holds values that are not finite", field=key, file=self._tuned.file.path)
        if not bias and (largest == 0 or largest < config.min_diff):
            return Extracted(key, {}, _row(key, "none", 0, 0.0, 0.0))
        if bias:
            return self._whole(key, change, bias)
        if config.network_type == "LoKr":
            return self._lokr(key, change)
        return self._lora(key, change)

    def _difference(
        self, original: str, tuned: str, rows: tuple[int, int] | None, tuned_rows: tuple[int, int] | None
    ) -> Tensor:
        dtype = torch.float64 if self._config.exact else torch.float32
        first, second = self._original.file.tensors[original], self._tuned.file.tensors[tuned]
        first = first if rows is None else first[slice(*rows)]
        second = second if tuned_rows is None else second[slice(*tuned_rows)]
        return second.to(dtype) - first.to(dtype)

    def _bias(self, original: Layer, tuned: Layer) -> dict[str, Tensor]:
        if original.bias is None or tuned.bias is None:
            return {}
        change = self._difference(original.bias, tuned.bias, original.rows, tuned.rows)
        return {f"{original.key}.diff_b": change} if change.any() else {}

    def _norm(self, key: str, change: Tensor) -> Extracted:
        original, tuned = self.pairs[key]
        bias = self._difference(original.bias, tuned.bias, original.rows, tuned.rows)
        if not (change.any() or bias.any()):
            return Extracted(key, {}, _row(key, "none", 0, 0.0, 0.0))
        tensors = {f"{key}.w_norm": change, f"{key}.b_norm": bias}
        return self._result(key, tensors, "Norm", None, math.hypot(float(change.norm()), float(bias.norm())))

    def _whole(self, key: str, change: Tensor, bias: Mapping[str, Tensor]) -> Extracted:
        return self._result(key, {f"{key}.diff": change, **bias}, "Full", None, float(change.norm()))

    def _result(
        self,
        key: str,
        tensors: Mapping[str, Tensor],
        kind: str,
        rank: int | None,
        norm: float,
        error: float = 0.0,
        best: float = 0.0,
        singular: Tensor | None = None,
    ) -> Extracted:
        row = _row(key, kind, rank, error / norm if norm else 0.0, error / best - 1 if best else 0.0)
        tensors = saved(tensors, self._config.save_precision)
        return Extracted(key, tensors, row, norm, error, best, singular)

    def _rule(self, key: str, shape: tuple[int, ...]) -> RankRule:
        config = self._config
        most = config.conv_dim if is_spatial(key, shape) else config.dim
        if config.size_mb is not None:
            return RankRule(most=most or _SIZE_RANK)
        return RankRule(most=most) if config.mode == "fixed" else RankRule(config.mode, config.mode_param, most)

    def _lora(self, key: str, change: Tensor) -> Extracted:
        config, shape = self._config, tuple(change.shape)
        rule = self._rule(key, shape)
        if config.full and rule.kind == "fixed" and config.size_mb is None and _takes_all(shape, rule.most):
            return self._whole(key, change, {})
        found = truncate_dense(change.flatten(1), rule, config.exact)
        if config.full and config.size_mb is None and _takes_all(shape, found.rank):
            return self._whole(key, change, {})
        if config.clamp_quantile is not None and found.rank:
            found = clamped(found, change.flatten(1), config.clamp_quantile)
        tensors = factor_tensors(key, found.up.double(), found.down.double(), shape) if found.rank else {}
        singular = found.singular[: found.rank]
        return self._result(key, tensors, "LoRA", found.rank, found.norm, found.error, found.best, singular)

    def _lokr(self, key: str, change: Tensor) -> Extracted:
        first, second, error = nearest_kronecker(change, self._config.lokr_factor)
        norm = float(change.norm())
        rule = self._rule(key, tuple(change.shape))
        rows = second.flatten(1)
        found = truncate_dense(rows, rule, self._config.exact)
        if not found.rank or found.rank * sum(rows.shape) >= rows.numel():
            whole = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(1.0)}
            return self._result(key, _named(key, whole), "LoKr", None, norm, error, error)
        # What the product leaves is orthogonal to every kron(w1, .).
        scale = float(first.norm())
        down = found.down.unflatten(1, second.shape[1:])
        parts = {"lokr_w1": first, "lokr_w2_a": found.up, "lokr_w2_b": down.flatten(1)}
        parts["alpha"] = torch.tensor(float(found.rank))
        lost, best = math.hypot(error, scale * found.error), math.hypot(error, scale * found.best)
        return self._result(key, _named(key, parts), "LoKr", found.rank, norm, lost, best)


def idle_layer(model: BaseModel) -> str | None:
    """How the names of a layer begin that nobody runs; None where there is none.

    SD2's text is the output of the last layer but one: what the last one holds, which some tools make up, is at work
    neither in the WebUI nor in a run of ours (``models.build.without_last_layer``).
    """
    if model.family is not Family.SD2:
        return None
    part = Part.TEXT_ENCODER.value
    keys = [key[len(part) :] for key in model.file.tensors if key.startswith(part)]
    config = yaml_beside(model.file.path) or published_config(Family.SD2)
    if not (config.penultimate and is_open_clip(keys)):
        return None
    numbers = [int(match[1]) for match in map(_TEXT_LAYER.match, model.layers) if match]
    return f"lora_te_text_model_encoder_layers_{max(numbers)}_"


def _named(key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{key}.{suffix}": tensor for suffix, tensor in tensors.items()}


def _row(key: str, kind: str, rank: int | None, lost: float, excess: float) -> dict[str, Any]:
    """``lost``: ||W - result|| / ||W||. ``excess``: how far that is above the least for this rank, as a share of it."""
    return {"key": key, "kind": kind, "block": block_of_key(key), "rank": rank, "lost": lost, "excess": excess}


def _takes_all(shape: tuple[int, ...], rank: int | None) -> bool:
    """Whether factors of this rank take as much room as the matrix itself."""
    return rank is not None and rank * (shape[0] + prod(shape[1:])) >= prod(shape)


def clamped(found: Truncated, matrix: Tensor, quantile: float) -> Truncated:
    """The factors U S and V^T cut off at a quantile of their values, as sd-scripts does (48d368f,
    networks/extract_lora_from_models.py); the error is measured anew on ``matrix`` [m, n]."""
    roots = found.singular[: found.rank].sqrt().to(found.up.dtype)
    up, down = found.up * roots, found.down / roots[:, None]
    values = torch.cat([up.flatten(), down.flatten()]).sort().values
    limit = values[min(int(quantile * len(values)), len(values) - 1)]
    up, down = up.clamp(-limit, limit), down.clamp(-limit, limit)
    return found._replace(up=up, down=down, error=float((matrix - up @ down).norm()))


def nearest_kronecker(change: Tensor, factor: int) -> tuple[Tensor, Tensor, float]:
    """w1 [a, b] and w2 [out / a, in / b, ...] with kron(w1, w2) nearest to ``change`` [out, in, ...], and the error.

    With a row for each place of w1 and a column for each of w2 it is the best approximation of rank 1
    (Van Loan and Pitsianis 1993).

    Args:
        factor: a and b are the largest divisors of out and in up to this.
    """
    out, size, *kernel = change.shape
    a, b = _divisor(out, factor), _divisor(size, factor)
    places = change.reshape(a, out // a, b, size // b, *kernel).transpose(1, 2).reshape(a * b, -1)
    wide = places.double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    first = vectors[:, -1]
    second = first @ wide
    error = math.sqrt(max(float(squares[:-1].clamp_min(0).sum()), 0.0))
    return first.reshape(a, b), second.reshape(out // a, size // b, *kernel), error


def _divisor(size: int, most: int) -> int:
    return next(divisor for divisor in range(min(most, size), 0, -1) if size % divisor == 0)


def run(config: ExtractConfig, control: Control) -> Iterator[Event]:
    """Extract from two files.

    Raises:
        StudioError: options that do not fit together, or files that cannot be read, do not fit or cannot be written.
    """
    began = time.monotonic()
    check_output(config.output, config.overwrite, [config.model_org, config.model_tuned])
    extraction = _opened(config)
    if extraction.misfits:
        yield Note(f"left out, because their shapes differ: {', '.join(extraction.misfits)}", "warning")
    layers: list[Extracted] = []
    for layer in each(extraction.layer, extraction.pairs):
        if control.stopping:
            yield Note("stopped; nothing was written", "warning")
            return
        layers.append(layer)
        yield Progress("extracting", len(layers), len(extraction.pairs))
    if config.size_mb is not None:
        layers = _within(layers, config, extraction)
    yield from _differences(layers)
    tensors = {key: tensor for layer in layers for key, tensor in layer.tensors.items()}
    metadata = _metadata(config, extraction.family, tensors)
    write_lora(config.output, tensors, metadata)
    yield Saved(config.output, 0, final=True)
    yield ToolDone("extract", config.output, _report(config, layers), time.monotonic() - began)


def check(config: ExtractConfig) -> None:
    """Whether the options fit together, and the two checkpoints do.

    Raises:
        StudioError: they do not, or a file cannot be read.
    """
    _opened(config)


def _opened(config: ExtractConfig) -> Extraction:
    _check_options(config)
    return Extraction(BaseModel(config.model_org), BaseModel(config.model_tuned), config)


def _check_options(config: ExtractConfig) -> None:
    if config.model_org.resolve() == config.model_tuned.resolve():
        raise StudioError("is the same file as model_org", field="model_tuned", came=str(config.model_tuned))
    if config.size_mb is not None and config.mode != "fixed":
        raise StudioError("does not go together with size_mb", field="mode", came=config.mode)
    if config.size_mb is not None and config.network_type == "LoKr":
        raise StudioError("does not go together with LoKr, whose size is lokr_factor's", field="size_mb")
    if config.mode == "fixed" and config.dim is None and config.size_mb is None:
        raise StudioError("must be given, or else size_mb or another mode", field="dim")
    if (config.mode == "fixed") != (config.mode_param is None):
        problem = "must be given with this mode" if config.mode_param is None else "means nothing to the mode fixed"
        raise StudioError(problem, field="mode_param", came=config.mode_param)
    if config.mode != "fixed":
        RankRule(config.mode, config.mode_param)
    if not (config.unet or config.text_encoder):
        raise StudioError("neither the UNet nor the text encoders are asked for", field="unet")


def _within(layers: list[Extracted], config: ExtractConfig, extraction: Extraction) -> list[Extracted]:
    """The layers with ranks that fit into the size."""
    shapes = {key: pair.original.shape for key, pair in extraction.pairs.items()}
    free = {layer.key: layer.singular for layer in layers if layer.singular is not None}
    others = {name: t for layer in layers if layer.singular is None for name, t in layer.tensors.items()}
    taken = sum(tensor.numel() * tensor.element_size() for tensor in others.values()) + header_bytes(free, others, {})
    costs = {key: rank_bytes(shapes[key], config.save_precision) for key in free}
    ranks = spend_budget(free, costs, int(config.size_mb * MB) - taken)
    if not any(ranks.values()):
        raise StudioError("is too small for any rank", field="size_mb", came=config.size_mb)
    return [_shortened(layer, ranks[layer.key]) if layer.key in ranks else layer for layer in layers]


def _shortened(layer: Extracted, rank: int) -> Extracted:
    """The first ranks alone; alpha keeps its share of them."""
    rest = float(layer.singular[rank:].double().norm())
    error, best = math.hypot(layer.error, rest), math.hypot(layer.best, rest)
    row = {**layer.row, "rank": rank, "lost": error / layer.norm if layer.norm else 0.0}
    row["excess"] = error / best - 1 if best else 0.0
    if not rank:
        return replace(layer, tensors={}, row=row, error=error, best=best)
    up, down, alpha = (layer.tensors[f"{layer.key}.{name}"] for name in ("lora_up.weight", "lora_down.weight", "alpha"))
    parts = {"lora_up.weight": up[:, :rank].contiguous(), "lora_down.weight": down[:rank].contiguous()}
    parts["alpha"] = (alpha.double() * rank / down.shape[0]).float()
    return replace(layer, tensors=_named(layer.key, parts), row=row, error=error, best=best)


def _differences(layers: list[Extracted]) -> Iterator[Note]:
    """Parts of the model in which nothing differs."""
    for words, is_text in (("the UNet", False), ("the text encoders", True)):
        own = [layer for layer in layers if is_text_key(layer.key) == is_text]
        if own and not any(layer.tensors for layer in own):
            yield Note(f"{words} of the two checkpoints do not differ: left out")


def _metadata(config: ExtractConfig, family: Family, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    metadata = lora_metadata(config.output.stem, family, tensors)
    if config.network_type == "LoKr":
        metadata |= {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "lokr"}'}
    metadata["ss_sd_model_name"] = config.model_org.name
    metadata["ss_training_comment"] = f"the difference of {config.model_tuned.name} from {config.model_org.name}"
    return metadata


def _report(config: ExtractConfig, layers: list[Extracted]) -> dict[str, Any]:
    norm, error, best = (math.hypot(*(getattr(layer, name) for layer in layers)) for name in ("norm", "error", "best"))
    return {
        "layers": [dict(layer.row) for layer in layers],
        "lost": error / norm if norm else 0.0,
        "excess": error / best - 1 if best else 0.0,
        "worst_excess": max((layer.row["excess"] for layer in layers), default=0.0),
        "exact": config.exact,
        "left_out": [layer.key for layer in layers if not layer.tensors],
        "bytes": config.output.stat().st_size,
    }


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal: a line per layer, then the sum."""
    lines = [
        f"{row['key']:75} {row['kind']:5} rank {'-' if row['rank'] is None else row['rank']:>4}  "
        f"kept {1 - row['lost'] ** 2:7.2%} of the energy, lost {row['lost']:7.2%} of the norm"
        for row in report["layers"]
    ]
    how = "exact" if report["exact"] else f"at most about {report['worst_excess']:.2%} above the best in any layer"
    left_out = f"; {len(report['left_out'])} layers left out" if report["left_out"] else ""
    total = f"{report['bytes'] / MB:.1f} MB; {report['lost']:.3%} of the whole difference lost ({how}){left_out}"
    return "\n".join([*lines, total])
