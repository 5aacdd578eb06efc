"""What the forms of all kinds of jobs have in common: options as a page shows them, and how its values are read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo
from lib_lora.base.protocols import ModelFile
from lib_lora.files.walk import walk

_KINDS = {bool: "bool", int: "int", float: "float", str: "text", Path: "path"}
_WORDS = {"lora": "LoRA", "lr": "learning rate", "unet": "UNet", "vae": "VAE"}


def option_view(info: OptionInfo, suggestions: list[str] | None = None) -> dict[str, Any]:
    """An option as JSON can hold it."""
    return {
        "name": info.name,
        "label": label_of(info),
        "kind": "list" if info.is_list else _KINDS[info.kind],
        "optional": info.optional,
        "required": info.required,
        "default": None if info.required else plain(info.default),
        "help": info.help,
        "unit": info.unit,
        "choices": list(info.choices) if info.choices else None,
        "minimum": info.minimum,
        "maximum": info.maximum,
        "above": info.above,
        "level": info.level,
        "way": info.way,
        "folder": info.folder,
        "suggestions": suggestions,
    }


def label_of(info: OptionInfo) -> str:
    """What forms call an option: its own label, or its name in words."""
    return info.label or _in_words(info.name)


def _in_words(name: str) -> str:
    text = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return text[:1].upper() + text[1:]


def in_groups(options: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Options, each with its group's name, as the list of groups in the order in which they come."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for group, view in options:
        groups.setdefault(group, []).append(view)
    return [{"name": name, "options": views} for name, views in groups.items()]


def refuse_unknown(values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises StudioError for the first value that is no option's, with the nearest name that is."""
    names = list(names)
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}"
            raise StudioError("unknown option", field=name, came=value, allowed=hint)


def subfolders(root: Path) -> list[str]:
    """All folders below a folder, by their names in it; hidden ones are none."""
    return sorted((place / name).relative_to(root).as_posix() for place, inner, _ in walk(root) for name in inner)


def model_view(file: ModelFile) -> dict[str, Any]:
    return {"name": file.name, "path": str(file.path), "loaded": file.loaded}


def plain(value: Any) -> Any:
    """A value of an option as JSON can hold it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
