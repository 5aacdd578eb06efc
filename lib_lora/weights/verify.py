"""``verify``: what is wrong with a LoRA file, or will be when the WebUI loads it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, ToolDone
from lib_lora.base.signals import Control
from lib_lora.files.lora_file import file_hashes
from lib_lora.files.safetensors_file import looks_like_safetensors, read_header
from lib_lora.models.checkpoint_file import open_checkpoint
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.delta import IA3, GLoRA, LoraWeights, ModuleDelta, Norm, lora_family, lora_from_tensors
from lib_lora.weights.layers import canonical_key
from lib_lora.weights.names import OTHER_NAMES, from_diffusers, is_diffusers
from lib_lora.weights.options import VerifyConfig
from lib_lora.weights.webui_names import incomplete_attention, is_found, published_layers

ERROR, WARNING = "error", "warning"
_SHOWN = 20  # names per problem
_HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
Problem = dict[str, Any]


def problem(level: str, text: str, names: Iterable[str] = ()) -> Problem:
    """``level`` "error": it does not work, or not as a whole; "warning": it works otherwise than one may think."""
    names = sorted(names)
    return {"level": level, "text": text, "count": len(names), "names": names[:_SHOWN]}


def renamed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[dict[str, Tensor], list[Problem]]:
    """The tensors under kohya's names, and what is wrong with the names that they have."""
    if not is_diffusers(tensors):
        return dict(tensors), []
    foreign = {key: tensor for key, tensor in tensors.items() if not key.startswith(OTHER_NAMES)}
    own = {key: tensor for key, tensor in tensors.items() if key not in foreign}
    found = [problem(ERROR, "names of diffusers: the WebUI finds none of them; `convert` renames them", foreign)]
    try:
        return {**from_diffusers(foreign, metadata), **own}, found
    except StudioError as fault:
        return own, [*found, problem(ERROR, fault.problem, [fault.field])]


def verify(lora: LoraWeights, family: Family | None, base: BaseModel | None = None) -> Iterator[Problem]:
    """Everything but the values and the hashes.

    Args:
        family: that the file is for; None where nobody knows, and then its names are not looked at.
        base: a checkpoint to compare with, in place of the family's published layers.
    """
    if not (lora.modules or lora.unread):
        yield problem(ERROR, "holds no LoRA")
        return
    layers = base.layers.keys() if base is not None else published_layers(family) if family is not None else None
    found = [key for key in (*lora.modules, *lora.unread) if layers is None or is_found(key, family, layers)]
    if family is None:
        yield problem(WARNING, "its family is not known: neither shapes nor metadata tell it")
    else:
        yield from _names(lora, family, found)
    rejected = {f"{key} ({', '.join(suffixes)})" for key, suffixes in lora.unread.items() if key in set(found)}
    rejected |= {f"{key} (w_norm without b_norm)" for key, delta in lora.modules.items() if _is_half_norm(delta)}
    if rejected:
        yield problem(ERROR, "the WebUI rejects the whole file for modules of no type that it knows", rejected)
    yield from _types(lora.modules)
    if base is not None:
        yield from _shapes(lora.modules, base)


def _names(lora: LoraWeights, family: Family, found: list[str]) -> Iterator[Problem]:
    lost = (lora.modules.keys() | lora.unread.keys()) - set(found)
    if lost:
        yield problem(ERROR, f"modules that the WebUI does not find in {family.value} models: no effect", lost)
    skipped = incomplete_attention(found, family)
    if skipped:
        yield problem(
            ERROR, "attention of open_clip without all of query, key, value and output: the WebUI skips it", skipped
        )
    told = lora_family({}, lora.metadata)
    if told is not None and told is not family:
        yield problem(ERROR, f"the metadata say {told.value}, the layers are of {family.value}")
    names = Counter(canonical_key(key, family) for key in lora.modules)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        yield problem(ERROR, "layers that are there twice, under two names", twice)


def _is_half_norm(delta: ModuleDelta) -> bool:
    return isinstance(delta, Norm) and "b_norm" not in delta.tensors


def _types(modules: Mapping[str, ModuleDelta]) -> Iterator[Problem]:
    ignored = {f"{key}.{suffix}" for key, delta in modules.items() for suffix in delta.ignored}
    if ignored:
        yield problem(WARNING, "tensors that the WebUI leaves out", ignored)
    new = [key for key, delta in modules.items() if isinstance(delta, GLoRA) and not delta.is_old]
    if new:
        yield problem(ERROR, "GLoRA as LyCORIS writes it since version 3: the WebUI cannot apply it", new)
    rows = [key for key, delta in modules.items() if isinstance(delta, IA3) and _is_conv_by_rows(delta)]
    if rows:
        yield problem(ERROR, "IA3 of convolutions by output rows: the WebUI cannot apply it", rows)
    dora = [key for key, delta in modules.items() if delta.is_normed_by_rows]
    if dora:
        yield problem(WARNING, "DoRA trained with norms of output rows: the WebUI takes those of input columns", dora)


def _is_conv_by_rows(delta: ModuleDelta) -> bool:
    return delta.tensors["weight"].dim() == 4 and not bool(delta.tensors["on_input"])


def _shapes(modules: Mapping[str, ModuleDelta], base: BaseModel) -> Iterator[Problem]:
    layers = {key: canonical_key(key, base.family) for key in modules}
    known = {key: base.weight(layer) for key, layer in layers.items() if layer in base.layers}
    misfits = [key for key, weight in known.items() if not _fits(modules[key], weight)]
    if misfits:
        yield problem(ERROR, "modules that do not fit the checkpoint's layers", misfits)


def _fits(delta: ModuleDelta, weight: Tensor) -> bool:
    """Whether a module can change the layer's weight; by shapes alone where its change does not depend on it."""
    if not delta.needs_base:
        shapes = {name: tensor.to("meta") if tensor.dim() else tensor for name, tensor in delta.tensors.items()}
        delta, weight = replace(delta, tensors=shapes), weight.to("meta")
    try:
        delta.dense(weight, torch.float32)
    except (StudioError, RuntimeError):  # torch's own word for matrices that do not go together
        return False
    return True


def check_values(tensors: Mapping[str, Tensor]) -> Iterator[Problem]:
    """Values that are no numbers, and modules whose change is zero whatever the strength."""
    # The sum of finite values is finite in float32: one pass, and no mask.
    broken = [key for key, t in tensors.items() if not t.float().sum().isfinite() and not t.float().isfinite().all()]
    if broken:
        yield problem(ERROR, "infinite values or none at all (NaN)", broken)
    ends = ("up.weight", ".lora_B.weight", ".lora_B.default.weight", ".diff")
    ups = [tensor for key, tensor in tensors.items() if key.endswith(ends)]
    if ups and not any(tensor.any() for tensor in ups):
        yield problem(WARNING, "every change is zero: it does nothing")


def check_hashes(path: Path) -> Iterator[Problem]:
    """Hashes in the metadata that are not the file's own; the WebUI believes them without looking."""
    if path.is_dir() or not looks_like_safetensors(path):
        return
    metadata = read_header(path).metadata
    told = {key: metadata[key] for key in _HASHES if key in metadata}
    own = file_hashes(path) if told else {}
    stale = [key for key, value in told.items() if value.removeprefix("0x") != own[key].removeprefix("0x")]
    if stale:
        yield problem(ERROR, "stale hashes: the file was changed, and hosts take it for another one", stale)


def run(config: VerifyConfig, control: Control) -> Iterator[Event]:
    """Look at a file.

    Raises:
        StudioError: it cannot be read at all, or the checkpoint cannot.
    """
    began = time.monotonic()
    file = open_checkpoint(config.model)
    tensors, problems = renamed(file.tensors, file.metadata)
    lora = lora_from_tensors(tensors, file.metadata, config.model)
    base = None if config.base is None else BaseModel(config.base)
    family = lora.family or (base.family if base is not None else None)
    if base is not None and family is not base.family:
        problems.append(problem(ERROR, f"the LoRA is for {family.value}, the checkpoint is {base.family.value}"))
        base = None
    checks = (
        lambda: verify(lora, family, base) if tensors or not problems else (),
        lambda: check_values(file.tensors),
        lambda: check_hashes(config.model),
    )
    for number, check in enumerate(checks, 1):
        if control.stopping:
            yield Note("stopped", "warning")
            return
        problems += check()
        yield Progress("verifying", number, len(checks))
    kinds = Counter(delta.name for delta in lora.modules.values())
    report = {
        "family": None if family is None else family.value,
        "kinds": dict(kinds),
        "modules": len(lora.modules),
        "problems": problems,
        "ok": not any(found["level"] == ERROR for found in problems),
    }
    yield ToolDone("verify", None, report, time.monotonic() - began)


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in report["kinds"].items()) or "no modules"
    lines = [f"{report['family'] or 'unknown family'}: {kinds}"]
    for found in report["problems"]:
        count = f" ({found['count']})" if found["count"] else ""
        lines.append(f"{found['level']}: {found['text']}{count}")
        lines += [f"    {name}" for name in found["names"]]
    return "\n".join([*lines, "no errors" if report["ok"] else "this file does not work as it should"])
