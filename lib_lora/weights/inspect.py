"""``inspect``: what a LoRA file is and what it says of itself, and edits of the latter in place."""

from __future__ import annotations

import base64
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, Saved, ToolDone
from lib_lora.base.signals import Control
from lib_lora.files.lora_file import file_hashes
from lib_lora.files.safetensors_file import looks_like_safetensors, read_header, replace_metadata
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.blocks.norms import module_norms, rows_of_blocks
from lib_lora.weights.chart import bar_chart, check_picture, save_chart, text_bars
from lib_lora.weights.delta import LoraWeights
from lib_lora.weights.modules import MB, read_whole
from lib_lora.weights.options import InspectConfig

_THUMBNAIL_PX = 256
_THUMBNAIL = "modelspec.thumbnail"
_LEGACY_HASH = "sshs_legacy_hash"
_MOST_TAGS = 50


def describe(weights: LoraWeights) -> dict[str, Any]:
    """Family, types, ranks, precision and size of a file, as JSON can hold it; no tensor is read."""
    deltas = list(weights.modules.values())
    tensors = [tensor for delta in deltas for tensor in delta.tensors.values()]
    return {
        "family": weights.family.value if weights.family else None,
        "modules": len(deltas),
        "types": dict(Counter(delta.name for delta in deltas)),
        "ranks": {str(rank): count for rank, count in sorted(Counter(d.rank for d in deltas if d.rank).items())},
        "scales": sorted({round(delta.scale, 6) for delta in deltas}),
        "precisions": dict(Counter(str(tensor.dtype).replace("torch.", "") for tensor in tensors)),
        "parameters": sum(tensor.numel() for tensor in tensors),
        "embeddings": len(weights.embeddings),
    }


def tags(metadata: Mapping[str, str]) -> list[tuple[str, int]]:
    """The tags of all folders together with how often they were trained, the most frequent first."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter = Counter()
        for folder in folders.values():
            counts.update({tag.strip(): int(count) for tag, count in folder.items()})
    except (ValueError, AttributeError, TypeError):
        return []
    return counts.most_common()


def edited(metadata: Mapping[str, str], changes: Sequence[str], removed: Sequence[str]) -> dict[str, str]:
    """Metadata with ``name=value`` set and names taken out.

    Raises:
        StudioError: a change without ``=``, or a name to be taken out that is not there.
    """
    values = dict(metadata)
    for name in removed:
        if name not in values:
            raise StudioError("the file has no such metadata", field="remove", came=name, allowed=sorted(values))
        del values[name]
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise StudioError("not allowed", field="set", came=change, allowed="name=value")
        values[name.strip()] = value
    return values


def thumbnail(path: Path) -> str:
    """A picture of at most 256 px as ModelSpec keeps it: a data URL with a JPEG.

    Raises:
        StudioError: it is no picture.
    """
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise StudioError(f"is no picture: {error}", field="thumbnail", file=path) from error
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def edit_metadata(path: Path, changes: Sequence[str], removed: Sequence[str], picture: Path | None) -> None:
    """Change a file's metadata in place: its tensors' bytes stay as they are. The one hash that depends on metadata,
    on the ``ss_*`` ones, is worked out anew where they change.

    Raises:
        StudioError: as ``edited`` and ``thumbnail``, or the file holds no metadata at all (.pt).
    """
    values = _edited_file(path, changes, removed)
    if picture is not None:
        values[_THUMBNAIL] = thumbnail(picture)
    if _LEGACY_HASH in values and any(name.startswith("ss_") for name in _changed(read_header(path).metadata, values)):
        values[_LEGACY_HASH] = file_hashes(path, values)[_LEGACY_HASH]
    replace_metadata(path, values)


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _edited_file(path: Path, changes: Sequence[str], removed: Sequence[str]) -> dict[str, str]:
    if not looks_like_safetensors(path):
        raise StudioError("only .safetensors files hold metadata", file=path)
    return edited(read_header(path).metadata, changes, removed)


def check(config: InspectConfig) -> None:
    """Whether the edits can be made.

    Raises:
        StudioError: as ``edit_metadata``.
    """
    if config.set or config.remove:
        _edited_file(config.model, config.set, config.remove)


def run(config: InspectConfig, control: Control) -> Iterator[Event]:
    """Edit the metadata where that is asked for, then look at the file.

    Raises:
        StudioError: a file that cannot be read or written.
    """
    began = time.monotonic()
    check_picture(config.picture, config.overwrite)
    if config.set or config.remove or config.thumbnail:
        read_whole(config.model)  # whether it is a LoRA; a file that stays mapped could not be replaced on Windows
        edit_metadata(config.model, config.set, config.remove, config.thumbnail)
        yield Saved(config.model, 0, final=True)
    weights = read_whole(config.model)
    norms: dict[str, float | None] = {}
    base = BaseModel(config.base) if config.base else None
    for key, norm in zip(weights.modules, module_norms(weights, base)):
        if control.stopping:
            yield Note("stopped", "warning")
            return
        norms[key] = norm
        yield Progress("norms", len(norms), len(weights.modules))
    report = {
        **describe(weights),
        "bytes": config.model.stat().st_size,
        "blocks": rows_of_blocks(norms, weights.family),
        "tags": [list(pair) for pair in tags(weights.metadata)],
        "metadata": dict(weights.metadata),
    }
    if config.picture:
        blocks = report["blocks"]
        series = {"norm": [row["norm"] for row in blocks]}
        title = f"{config.model.stem}: norm of the change per block"
        save_chart(config.picture, bar_chart(title, [row["block"] for row in blocks], series))
        yield Saved(config.picture, 0)
    yield ToolDone("inspect", config.picture, report, time.monotonic() - began)


def report_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    parts = [
        ("family", report["family"] or "unknown"),
        ("types", ", ".join(f"{name} ({count})" for name, count in report["types"].items())),
        ("ranks", ", ".join(f"{rank} ({count})" for rank, count in report["ranks"].items()) or "none"),
        ("alpha / rank", ", ".join(f"{scale:g}" for scale in report["scales"][:8])),
        ("precision", ", ".join(report["precisions"])),
        ("size", f"{report['bytes'] / MB:.1f} MB, {report['parameters']} numbers in {report['modules']} modules"),
    ]
    lines = [f"{name:14}{words}" for name, words in parts]
    blocks = report["blocks"]
    lines += ["norm of the change per block:"]
    lines += [f"  {bar}" for bar in text_bars([row["block"] for row in blocks], [row["norm"] for row in blocks])]
    if report["tags"]:
        lines += ["tags: " + ", ".join(f"{tag} ({count})" for tag, count in report["tags"][:_MOST_TAGS])]
    return "\n".join([*lines, *(f"{name} = {_short(value)}" for name, value in sorted(report["metadata"].items()))])


def _short(value: str) -> str:
    return value if len(value) <= 120 else f"{value[:117]}..."
