"""What the WebUI shows with a LoRA: the user metadata ``<name>.json`` and the picture beside the file.

Written against AUTOMATIC1111 v1.10.1: modules/ui_extra_networks_user_metadata.py, its built-in Lora extension, and
``find_preview`` of modules/ui_extra_networks.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import write_bytes, write_text
from lib_lora.jobs.options import TrainJobOptions

TEXTS = ("description", "sd version", "activation text", "negative text", "notes")
WEIGHT = "preferred weight"
_PICTURES = ("png", "jpg", "jpeg", "webp", "gif")
_PNG = b"\x89PNG\r\n\x1a\n"


def read_card(lora: Path) -> dict[str, Any]:
    """All that is written of the LoRA; empty where there is nothing.

    Raises:
        StudioError: the file is there and cannot be read.
    """
    path = card_path(lora)
    try:
        card = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as fault:
        raise StudioError(f"cannot be read ({fault})", file=path, allowed="the WebUI's user metadata") from fault
    if not isinstance(card, dict):
        raise StudioError("is no table of user metadata", file=path, allowed="the WebUI's user metadata")
    return card


def write_card(lora: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Change the fields that are given, and leave all others, also those that others have written; all of them.

    Raises:
        StudioError: an unknown field, a value that is not allowed, or a file that cannot be read or written.
    """
    card = {**read_card(lora), **{name: _checked(name, value) for name, value in fields.items()}}
    write_text(card_path(lora), json.dumps(card, indent=4, ensure_ascii=False))
    return card


def write_job_card(lora: Path, options: TrainJobOptions, family: str) -> None:
    """What a job knows of its LoRA; a field that was left empty stays what it is.

    Args:
        family: "SD1", "SD2" or "SDXL".
    """
    given = {
        "activation text": options.activation_text,
        WEIGHT: options.preferred_weight,
        "notes": options.notes,
    }
    write_card(lora, {"sd version": family, **{name: value for name, value in given.items() if value}})


def card_path(lora: Path) -> Path:
    return lora.with_suffix(".json")


def picture_of(lora: Path) -> Path | None:
    """The picture that the WebUI shows: ``<name>.<ending>``, else ``<name>.preview.<ending>``.

    Where there are several endings the WebUI takes any: it looks them up in no fixed order.
    """
    return next(iter(_pictures(lora)), None)


def write_picture(lora: Path, picture: Path, *, replace: bool = False) -> Path:
    """Make ``picture``, a PNG file, the LoRA's.

    Args:
        replace: in place of those that are there, which are deleted: else the WebUI might go on showing one of them.

    Raises:
        StudioError: there is one already and ``replace`` was not said; or ``picture`` is no PNG.
    """
    there = _pictures(lora)
    if there and not replace:
        raise StudioError("the LoRA has a picture already", field="replace", file=there[0], allowed="replace")
    try:
        data = picture.read_bytes()
    except OSError as fault:
        raise StudioError(f"cannot be read ({fault.strerror})", file=picture) from fault
    if not data.startswith(_PNG):
        raise StudioError("is no PNG picture", file=picture)
    target = lora.with_suffix(".png")
    write_bytes(target, data)
    for path in there:
        if path != target:
            path.unlink(missing_ok=True)
    return target


def _pictures(lora: Path) -> list[Path]:
    stem = lora.with_suffix("")
    names = [f"{stem.name}{middle}.{ending}" for middle in ("", ".preview") for ending in _PICTURES]
    return [path for name in names if (path := lora.with_name(name)).is_file()]


def _checked(name: str, value: Any) -> Any:
    if name in TEXTS and isinstance(value, str):
        return value
    if name == WEIGHT and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if name in TEXTS or name == WEIGHT:
        raise StudioError("not allowed", field=name, came=value, allowed="text" if name in TEXTS else "a number")
    raise StudioError("unknown field", field=name, came=value, allowed=(*TEXTS, WEIGHT))
