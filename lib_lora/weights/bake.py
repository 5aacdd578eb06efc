"""``bake``: LoRAs written into a checkpoint, tensor by tensor.

Each tensor is read, changed and written when its turn comes, so that memory does not depend on the file's size. What
no LoRA changes goes through byte for byte: the VAE, the noise schedule, EMA weights, ``position_ids``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib_lora.adapters.save import DTYPE_NAMES, SAVE_PRECISIONS, tensor_bytes
from lib_lora.arch.family import Family, text_parts
from lib_lora.arch.family import Part as ModelPart
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.files.atomic import atomic_write, write_bytes
from lib_lora.files.file_hashes import HashAhead
from lib_lora.files.lora_file import model_hash_legacy
from lib_lora.files.safetensors_file import TensorData, file_order, header_bytes
from lib_lora.models.checkpoint_file import open_vae
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.combine import applied, concatenated, summed_bias
from lib_lora.weights.layers import Layer
from lib_lora.weights.merge import ingredients_of
from lib_lora.weights.modules import MB
from lib_lora.weights.options import BakeConfig
from lib_lora.weights.output import check_output
from lib_lora.weights.recipe import (
    Ingredient,
    Part,
    common_family,
    layer_parts,
    recipe_notes,
)
from lib_lora.weights.workers import CHUNK_ELEMENTS, Stopped, alone_if_large, check_stop, each

_FP8 = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_PRECISIONS = {**SAVE_PRECISIONS, **_FP8}
_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
# What some checkpoints say of their own bytes, which are others now.
_STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
_SHA256_DIGITS = 64


class Change(NamedTuple):
    """What a tensor of the checkpoint is changed by: one layer, or the three of open_clip's fused projection."""

    layer: Layer
    parts: Sequence[Part]


Plan = dict[str, list[Change]]


def plan_changes(layers: Mapping[str, Sequence[Part]], base: BaseModel) -> tuple[Plan, Plan]:
    """The changes of each weight and of each bias, by the checkpoint's keys.

    Raises:
        StudioError: a layer has no bias that could be changed.
    """
    weights: Plan = {}
    biases: Plan = {}
    for key, parts in layers.items():
        layer = base.layer(key)
        change = Change(layer, parts)
        weights.setdefault(layer.weight, []).append(change)
        if any(part.delta.bias() is not None for part in parts):
            if layer.bias is None:
                raise StudioError(f"{key} has no bias that the LoRA could change", file=base.file.path)
            biases.setdefault(layer.bias, []).append(change)
    return weights, biases


def baked_weight(weight: Tensor, changes: Sequence[Change], dtype: torch.dtype) -> Tensor:
    """A tensor with its layers' changes, in ``dtype``; computed in float32, in float64 where ``dtype`` is no half."""
    result = weight.to(dtype, copy=True)
    for change in changes:
        rows = slice(None) if change.layer.rows is None else slice(*change.layer.rows)
        _bake_layer(weight[rows], change.parts, result[rows])
    return result


def _bake_layer(weight: Tensor, parts: Sequence[Part], out: Tensor) -> None:
    wide = torch.float32 if out.dtype.itemsize < 4 else torch.float64
    factors = concatenated(parts)
    columns = prod(weight.shape[1:])
    if factors is None or factors[0].shape[0] != weight.shape[0] or factors[1].shape[1] != columns:
        with alone_if_large(weight.numel()):
            out.copy_(applied(weight, parts, wide))
        return
    up, down = factors[0].to(wide), factors[1].to(wide)
    step = max(1, CHUNK_ELEMENTS // columns)
    for begin in range(0, weight.shape[0], step):
        chunk = slice(begin, begin + step)
        # A copy: what stands at an odd place of a file is not computed with.
        own = weight[chunk].to(wide, copy=True)
        out[chunk] = torch.addmm(own.flatten(1), up[chunk], down).reshape(own.shape)


def baked_bias(bias: Tensor, changes: Sequence[Change], dtype: torch.dtype) -> Tensor:
    """A bias with its layers' changes, in ``dtype``."""
    result = bias.double()
    for change in changes:
        rows = slice(None) if change.layer.rows is None else slice(*change.layer.rows)
        result[rows] += summed_bias(change.parts)
    return result.to(dtype)


def target_dtype(key: str, tensor: Tensor, precision: str | None, family: Family) -> torch.dtype:
    """What a tensor is saved in. Integers stay what they are. In fp8 are the matrices and convolutions of the UNet and
    the text encoders, the rest of the numbers is fp16 then."""
    if precision is None or not tensor.is_floating_point():
        return tensor.dtype
    if precision in _FP8:
        prefixes = tuple(part.value for part in (ModelPart.UNET, *text_parts(family)))
        is_matrix = key.startswith(prefixes) and tensor.dim() > 1 and "embedding" not in key
        return _FP8[precision] if is_matrix else torch.float16
    return _PRECISIONS[precision]


def vae_tensors(path: Path, base: BaseModel) -> dict[str, Tensor]:
    """The tensors that replace those of the checkpoint's VAE, by the checkpoint's keys.

    Raises:
        StudioError: the VAE lacks some of them, or has them in other shapes.
    """
    prefix = ModelPart.VAE.value
    given = open_vae(path)
    own = {key[len(prefix) :]: tensor for key, tensor in base.file.tensors.items() if key.startswith(prefix)}
    own = {key: tensor for key, tensor in own.items() if key.startswith(_VAE_PARTS)}
    missing = sorted(key for key in own if key not in given or given[key].shape != own[key].shape)
    if missing or not own:
        problem = (
            f"has no {missing[0]} of the checkpoint's shape" if missing else "the checkpoint has no VAE to replace"
        )
        raise StudioError(problem, field="vae", file=path, allowed="a VAE of the checkpoint's kind")
    return {prefix + key: given[key] for key in own}


def run(config: BakeConfig, control: Control) -> Iterator[Event]:
    """Bake LoRAs, a VAE or both into a checkpoint.

    Raises:
        StudioError: nothing to bake, a LoRA of another family or with unknown layers, or a file that cannot be read
            or written; nothing is left under the result's name.
    """
    began = time.monotonic()
    ingredients, base, layers = _opened(config)
    unknown = _unknown(layers, base, config)
    inputs = [config.checkpoint, *(item.lora.path for item in ingredients), *([config.vae] if config.vae else [])]
    check_output(config.output, config.overwrite, inputs)
    _check_yaml(config)
    layers = {key: parts for key, parts in layers.items() if key in base.layers}
    for text in recipe_notes(ingredients, base.family):
        yield Note(text, "warning")
    weights, biases = plan_changes(layers, base)
    replaced = {} if config.vae is None else vae_tensors(config.vae, base)
    tensors = _tensors(config, base, weights, biases, replaced)
    try:
        yield from _write(config, tensors, lambda digest: _metadata(config, ingredients, base, digest), control)
    except Stopped:
        yield Note("stopped; nothing was written", "warning")
        return
    _copy_yaml(config)
    yield Saved(config.output, 0, final=True)
    report = {
        "recipe": [item.tag.words for item in ingredients],
        "vae": None if config.vae is None else str(config.vae),
        "layers": len(layers),
        "unknown": unknown,
        "tensors": len(tensors),
        "changed": len(weights.keys() | biases.keys() | replaced.keys()),
        "bytes": config.output.stat().st_size,
    }
    yield ToolDone("bake", config.output, report, time.monotonic() - began)


def check(config: BakeConfig) -> None:
    """Whether the LoRAs are for the checkpoint.

    Raises:
        StudioError: they are not, or a file cannot be read.
    """
    _, base, layers = _opened(config)
    _unknown(layers, base, config)


def _opened(config: BakeConfig) -> tuple[list[Ingredient], BaseModel, dict[str, list[Part]]]:
    """The LoRAs, the checkpoint, and each layer's parts."""
    ingredients = _ingredients(config)
    base = BaseModel(config.checkpoint)
    common_family(ingredients, base.family)
    return ingredients, base, layer_parts(ingredients, base.family)


def _ingredients(config: BakeConfig) -> list[Ingredient]:
    if config.checkpoint.is_dir():
        raise StudioError(
            "a folder cannot become one file here", field="checkpoint", came=config.checkpoint, allowed="one file"
        )
    if config.prompt is None and not config.models and config.vae is not None:
        return []
    return ingredients_of(config)


def _unknown(layers: Mapping[str, Sequence[Part]], base: BaseModel, config: BakeConfig) -> list[str]:
    """Layers of the LoRAs that the checkpoint does not have.

    Raises:
        StudioError: there are some, or there are no others, and leaving them out was not asked for.
    """
    unknown = sorted(layers.keys() - base.layers.keys())
    if unknown and (not config.skip_unknown or len(unknown) == len(layers)):
        raise StudioError(
            f"{len(unknown)} of {len(layers)} layers of the LoRAs are unknown to the checkpoint, the first is "
            f"{unknown[0]}",
            file=config.checkpoint,
            allowed="the checkpoint that the LoRAs are meant for, or skip_unknown",
        )
    return unknown


def _tensors(
    config: BakeConfig, base: BaseModel, weights: Plan, biases: Plan, replaced: Mapping[str, Tensor]
) -> dict[str, TensorData]:
    """Every tensor of the result, each computed when its bytes are asked for."""
    made = {}
    for key, own in base.file.tensors.items():
        tensor = replaced.get(key, own)
        # A VAE from elsewhere comes in the checkpoint's own format.
        dtype = target_dtype(key, own, config.save_precision, base.family)
        if dtype not in DTYPE_NAMES:
            raise StudioError("has a number format that cannot be saved", field=key, came=str(dtype))
        make = _maker(key, tensor, dtype, weights.get(key), biases.get(key))
        made[key] = TensorData(DTYPE_NAMES[dtype], tuple(tensor.shape), make)
    return made


def _maker(
    key: str, tensor: Tensor, dtype: torch.dtype, weight: list[Change] | None, bias: list[Change] | None
) -> Callable[[], memoryview]:
    def make() -> memoryview:
        if weight is None and bias is None and tensor.dtype == dtype:
            return tensor_bytes(tensor)
        if weight is not None:
            result = baked_weight(tensor, weight, dtype)
        else:
            result = tensor.to(dtype) if bias is None else baked_bias(tensor, bias, dtype)
        if not _is_finite(result) and _is_finite(tensor):
            raise StudioError(
                "would hold values that are not finite in this precision", field=key, came=str(dtype), allowed="float"
            )
        return tensor_bytes(result)

    return make


def _is_finite(tensor: Tensor) -> bool:
    """Chunk by chunk, as the rest: a copy in float32 may be the largest thing in memory."""
    for chunk in tensor.reshape(-1).split(CHUNK_ELEMENTS):
        wide = chunk.float()
        # One pass and no mask where all is well, which it nearly always is.
        if not wide.sum().isfinite() and not wide.isfinite().all():
            return False
    return True


def _write(
    config: BakeConfig,
    tensors: Mapping[str, TensorData],
    metadata: Callable[[str], Mapping[str, str]],
    control: Control,
) -> Iterator[Event]:
    """The file, tensor by tensor; whatever ends this early leaves nothing under its name.

    Args:
        metadata: made of the checkpoint's sha256, which is found meanwhile: it takes as much room as any other.
    """
    ahead, order = HashAhead(config.checkpoint), file_order(tensors)
    with atomic_write(config.output) as file:
        file.write(header_bytes(tensors, metadata("0" * _SHA256_DIGITS)))
        for number, data in enumerate(each(lambda key: tensors[key].bytes(), order), 1):
            check_stop(control)
            file.write(data)
            yield Progress("baking", number, len(order))
        digest = yield from _steps(ahead, control)
        file.seek(0)
        file.write(header_bytes(tensors, metadata(digest)))


def _steps(ahead: HashAhead, control: Control) -> Generator[Event, None, str]:
    """Wait for a hash."""
    steps = ahead.steps()
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            return end.value
        check_stop(control)
        yield Progress("the checkpoint's hash (MB)", done // MB, -(-total // MB))


def _metadata(config: BakeConfig, ingredients: Sequence[Ingredient], base: BaseModel, digest: str) -> dict[str, str]:
    """The checkpoint's own, and where it comes from, as the WebUI's merger writes it (A1111 v1.10.1,
    modules/extras.py): a recipe, and by their sha256 the models that went in, each with its own recipe.

    Args:
        digest: the checkpoint's sha256.
    """
    own = {key: value for key, value in base.file.metadata.items() if key not in _STALE}
    recipe = {
        "type": "lora-studio",
        "primary_model_hash": digest,
        "secondary_model_hash": None,
        "tertiary_model_hash": None,
        "loras": [
            {"name": item.lora.name, "hash": item.lora.metadata.get("sshs_model_hash"), "strengths": item.tag.words}
            for item in ingredients
        ],
        "bake_in_vae": None if config.vae is None else config.vae.name,
        "save_as_half": config.save_precision == "fp16",
        "save_precision": config.save_precision,
        "custom_name": config.output.stem,
    }
    model = {
        "name": config.checkpoint.name,
        "legacy_hash": model_hash_legacy(config.checkpoint),
        "sd_merge_recipe": _from_json(own.get("sd_merge_recipe")),
    }
    models = {digest: model, **(_from_json(own.get("sd_merge_models")) or {})}
    return {**own, "format": "pt", "sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}


def _from_json(text: str | None) -> dict[str, Any] | None:
    """What a merger has written; None where that is something else than an object."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _check_yaml(config: BakeConfig) -> None:
    """Before the work: the model's configuration goes along, and writes over no other."""
    source, target = config.checkpoint.with_suffix(".yaml"), config.output.with_suffix(".yaml")
    if source.is_file() and target.exists() and not config.overwrite:
        raise StudioError("exists already", field="output", file=target, allowed="another name, or overwrite")


def _copy_yaml(config: BakeConfig) -> None:
    """The result's configuration is the checkpoint's: none where that has none, whatever a replaced file had."""
    source, target = config.checkpoint.with_suffix(".yaml"), config.output.with_suffix(".yaml")
    if source.is_file():
        write_bytes(target, source.read_bytes())
    elif config.overwrite:
        target.unlink(missing_ok=True)


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    what = " + ".join([*report["recipe"], *([f"VAE {report['vae']}"] if report["vae"] else [])])
    left_out = f"; {len(report['unknown'])} unknown layers left out" if report["unknown"] else ""
    return (
        f"{what}: {report['layers']} layers, {report['changed']} of {report['tensors']} tensors changed{left_out}; "
        f"{report['bytes'] / MB:.0f} MB"
    )
