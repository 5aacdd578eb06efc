"""TOML files of options."""

from __future__ import annotations

import sys
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
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StudioError(f"cannot be read ({error.strerror})", field="config_file", file=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudioError(f"is no TOML ({error})", field="config_file", file=path) from error
    values: dict[str, Any] = {}
    for name, value in document.items():
        for inner, item in (value if isinstance(value, dict) else {name: value}).items():
            if inner in values:
                raise StudioError("stands twice", field=inner, file=path)
            values[inner] = item
    return values
