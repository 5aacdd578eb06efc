"""TOML files of options."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The file's values by name. Tables only group names, as in sd-scripts' config files: they are flattened.

    Raises:
        StudioError: no such file, no TOML, or a name that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StudioError(f"cannot be read ({error.strerror})", field="config_file", file=path) from error
    except UnicodeDecodeError as error:
        raise StudioError(f"is no TOML ({error})", field="config_file", file=path) from error
    return parse_toml(text, file=path)


def parse_toml(text: str, *, file: Path | None = None) -> dict[str, Any]:
    """The values of a file's ``text``; raises as ``read_toml`` does."""
    values: dict[str, Any] = {}
    for name, value in parse_tables(text, file=file).items():
        for inner, item in (value if isinstance(value, dict) else {name: value}).items():
            if inner in values:
                raise StudioError("stands twice", field=inner, file=file)
            values[inner] = item
    return values


def parse_tables(text: str, *, file: Path | None = None) -> dict[str, Any]:
    """A file's ``text`` with its tables as they are.

    Raises:
        StudioError: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudioError(f"is no TOML ({error})", field="config_file", file=file) from error


def read_tables(path: Path) -> dict[str, Any]:
    """A file of the program's own, with its tables as they are."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def toml_text(values: Mapping[str, Any]) -> str:
    """Flat values (text, numbers, booleans, lists of them) as TOML: ``read_toml`` gives back the same."""
    return "".join(f"{name} = {_value(value)}\n" for name, value in values.items())


def _value(value: Any) -> str:
    """TOML's texts, lists and numbers are written as JSON's, but for the one control character that JSON lets pass."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
