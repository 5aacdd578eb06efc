"""An option is defined once, as a field of a frozen dataclass; flags, TOML, forms and docs come from it.

    @dataclass(frozen=True)
    class Example:
        network_dim: int = option(8, "rank of the LoRA's matrices", minimum=1)

Types are those that a flag, a TOML file and a form can all hold: ``bool``, ``int``, ``float``, ``str``,
``Path``, ``tuple[str, ...]``, ``tuple[float, ...]``, and each of them ``| None``.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lib_lora.base.errors import StudioError

C = TypeVar("C")
REQUIRED = dataclasses.MISSING


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    level: str = "basic",
    group: str = "",
    label: str = "",
    folder: str | None = None,
    way: str | None = None,
) -> Any:
    """A dataclass field that knows all about itself.

    Args:
        default: the default, or ``REQUIRED``.
        help: one line without a full stop.
        unit: of a number: "px", "steps", "epochs", "tokens"; empty for none.
        minimum, maximum: inclusive limits of a number.
        above: exclusive lower limit of a number.
        choices: the only texts allowed (compared without case).
        level: "basic" or "advanced".
        group: the heading under which forms and docs show it.
        label: what forms call it; made of the name where it is not given.
        folder: of a path, which of the host's folders it must lie in where others can reach the page: "datasets",
            "models" or "outputs" (``base.protocols.Folders``).
        way: "child" where a value other than the default needs a process of its own: it would copy or change what a
            host has lent.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "choices": choices,
        "level": level,
        "group": group,
        "label": label,
        "folder": folder,
        "way": way,
    }
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata, kw_only=True)
    return dataclasses.field(default=default, metadata=metadata, kw_only=True)


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """One option, as forms, flags and docs want it. ``kind`` is the type without ``| None``."""

    name: str
    kind: Any
    optional: bool
    default: Any
    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    above: float | None
    choices: tuple[str, ...] | None
    level: str
    group: str
    label: str
    folder: str | None
    way: str | None

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.kind) is tuple

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return ", ".join(self.choices)
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
        if self.is_list:
            words = (
                "a list of "
                + {"str": "texts", "float": "numbers", "int": "whole numbers"}[typing.get_args(self.kind)[0].__name__]
            )
        else:
            words = names[self.kind]
        if self.above is not None:
            words += f" above {self.above:g}"
        if self.minimum is not None and self.maximum is not None:
            words += f" from {self.minimum:g} to {self.maximum:g}"
        elif self.minimum is not None:
            words += f", at least {self.minimum:g}"
        elif self.maximum is not None:
            words += f", at most {self.maximum:g}"
        return words


def options_of(config: type) -> list[OptionInfo]:
    """The options of a config class, in the order of their definition."""
    hints = typing.get_type_hints(config)
    infos = []
    for field in dataclasses.fields(config):
        kind, optional = _without_none(hints[field.name])
        infos.append(OptionInfo(field.name, kind, optional, field.default, **field.metadata))
    return infos


def from_mapping(config: type[C], values: Mapping[str, Any]) -> C:
    """A checked config from names and values (a TOML table, a form, flags).

    Raises:
        StudioError: an unknown name (with the nearest known one), a missing required one,
            a value of the wrong type or out of range. Nothing is corrected silently.
    """
    infos = {info.name: info for info in options_of(config)}
    for name in values:
        if name not in infos:
            near = difflib.get_close_matches(name, infos, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(infos)}"
            raise StudioError("unknown option", field=name, came=values[name], allowed=hint)
    for info in infos.values():
        if info.required and values.get(info.name) is None:
            raise StudioError("must be given", field=info.name, allowed=f"{info.allowed} ({info.help})")
    return config(**{name: convert(infos[name], value) for name, value in values.items()})


def convert(info: OptionInfo, value: Any) -> Any:
    """``value``, which may be text from a flag or a form, as the option's own type, checked."""
    if value is None or (info.optional and isinstance(value, str) and value.strip().lower() in ("", "none")):
        if info.optional:
            return None
        raise _bad(info, value)
    if info.is_list:
        (item_kind, *_) = typing.get_args(info.kind)
        if isinstance(value, str):
            # Numbers may also stand apart by spaces alone, as sd-scripts' users write them.
            parts = value.split(",") if item_kind is str else value.replace(",", " ").split()
            value = [part.strip() for part in parts if part.strip()]
        elif item_kind is not str and isinstance(value, (int, float)):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise _bad(info, value)
        return tuple(_scalar(info, item_kind, item) for item in value)
    return _scalar(info, info.kind, value)


def _scalar(info: OptionInfo, kind: Any, value: Any) -> Any:
    try:
        result = _CASTS[kind](value)
    except (TypeError, ValueError, KeyError):
        raise _bad(info, value) from None
    if info.choices:
        matches = [choice for choice in info.choices if choice.lower() == str(result).lower()]
        if not matches:
            raise _bad(info, value)
        return matches[0]
    if isinstance(result, float) and not math.isfinite(result):
        raise _bad(info, value)
    if not isinstance(result, bool) and isinstance(result, (int, float)) and not _in_range(info, result):
        raise _bad(info, value)
    return result


def _in_range(info: OptionInfo, number: float) -> bool:
    return (
        (info.minimum is None or number >= info.minimum)
        and (info.maximum is None or number <= info.maximum)
        and (info.above is None or number > info.above)
    )


def _bad(info: OptionInfo, value: Any) -> StudioError:
    return StudioError("not allowed", field=info.name, came=value, allowed=info.allowed)


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).strip().lower()]


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _to_str(value: Any) -> str:
    # Resolution may be a bare number and a device index 0: both are text to us.
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError
    return str(value)


def _to_path(value: Any) -> Path:
    text = str(value).strip()
    if not text or not isinstance(value, (str, Path)):
        raise ValueError
    return Path(text)


_CASTS = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str, Path: _to_path}


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0], True
    return hint, False


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """One ``--name`` per option. An unset flag is absent from the parsed namespace.

    Values stay text here and are checked by ``from_mapping``, so that a flag, a TOML file and a form
    give the same error for the same mistake.
    """
    groups: dict[str, Any] = {}
    for info in options_of(config):
        target = parser
        if info.group:
            target = groups.setdefault(info.group, parser.add_argument_group(info.group))
        text = describe(info).replace("%", "%%")
        flag = f"--{info.name}"
        if info.kind is bool:
            target.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            nargs = "*" if info.is_list else None
            target.add_argument(flag, nargs=nargs, default=argparse.SUPPRESS, metavar=_metavar(info), help=text)


def _metavar(info: OptionInfo) -> str:
    if info.choices:
        return "NAME"
    if info.is_list:
        return "VALUE"
    return {int: "N", float: "X", str: "TEXT", Path: "PATH"}[info.kind]


def describe(info: OptionInfo) -> str:
    """Help, unit, allowed values and default in one line."""
    unit = f", in {info.unit}" if info.unit else ""
    default = "required" if info.required else f"default: {default_text(info)}"
    allowed = f"; {info.allowed}" if info.choices else ""
    return f"{info.help}{unit} ({default}{allowed})"


def default_text(info: OptionInfo) -> str:
    """The default as a person would type it."""
    if info.default is None:
        return "none"
    if isinstance(info.default, bool):
        return str(info.default).lower()
    if isinstance(info.default, tuple):
        return ",".join(str(item) for item in info.default) or "none"
    return str(info.default)


def to_mapping(config: Any) -> dict[str, Any]:
    """The config's values as TOML and JSON can hold them; unset ones are left out."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        values[field.name] = (
            list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        )
    return values


def docs_table(config: type) -> str:
    """A Markdown table of the options, for the docs."""
    lines = ["| option | default | allowed | what it does |", "|---|---|---|---|"]
    for info in options_of(config):
        default = "required" if info.required else f"`{default_text(info)}`"
        unit = f" ({info.unit})" if info.unit else ""
        lines.append(f"| `{info.name}` | {default} | {info.allowed}{unit} | {_escaped(info.help)} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Markdown would take ``<name>`` for a tag, and ``|`` for the end of a table's cell."""
    return text.replace("<", "\\<").replace("|", "\\|")
