"""The form of a run, and what helps to fill it in."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse

from lib_lora.api.call import Call, not_found
from lib_lora.api.loras import find_lora
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Host
from lib_lora.files.image_header import PICTURE_EXTENSIONS
from lib_lora.jobs import caches, train_form
from lib_lora.jobs import presets as own
from lib_lora.jobs.dataset_access import allowed_folder
from lib_lora.jobs.imports.lora import options_from_lora
from lib_lora.jobs.imports.text import options_from_text
from lib_lora.jobs.state import ACTIVE

_REPEATS = re.compile(r"\d+_")


def form(studio: Studio, call: Call) -> Any:
    return {**train_form.form_schema(studio.host), "when_done": studio.queue.when_done}


def plan(studio: Studio, call: Call) -> Any:
    return train_form.plan_summary(call.given("values", dict), studio.host)


def metadata(studio: Studio, call: Call) -> Any:
    """What a LoRA of the host's says of its training, as the form's values."""
    path = find_lora(studio.host, call.given("file", str).removesuffix(".safetensors"))
    return options_from_lora(path, studio.host).view()


def settings(studio: Studio, call: Call) -> Any:
    """What the settings of another program say, as the form's values."""
    return options_from_text(call.given("text", str), studio.host).view()


def limit_cache(studio: Studio, call: Call) -> Any:
    caches.set_limit(studio.host, call.given("limit_bytes", int))
    return caches.cache_view(studio.host)


def clear_cache(studio: Studio, call: Call) -> Any:
    """Delete what no running job uses; what is left."""
    started = [job.state.started for job in studio.queue.jobs() if job.status in ACTIVE]
    caches.clear_cache(studio.host, in_use_since=min(started, default=None))
    return caches.cache_view(studio.host)


# Presets


def presets(studio: Studio, call: Call) -> Any:
    return {"presets": own.presets_view(studio.host)}


def preset(studio: Studio, call: Call) -> Any:
    return _preset(studio, call).view()


def preset_toml(studio: Studio, call: Call) -> Any:
    return PlainTextResponse(_preset(studio, call).toml(), media_type="application/toml")


def save_preset(studio: Studio, call: Call) -> Any:
    """A new one by its name and values, or the text of somebody's file."""
    if "toml" in call.body:
        return own.import_preset(studio.host, call.given("toml", str)).view()
    name = call.path.get("name") or call.given("name", str)
    help = call.given("help", str) if "help" in call.body else ""
    return own.save_preset(studio.host, name.removeprefix(own.OWN), call.given("values", dict), help).view()


def delete_preset(studio: Studio, call: Call) -> Any:
    own.delete_preset(studio.host, call.path["name"].removeprefix(own.OWN))
    return presets(studio, call)


def _preset(studio: Studio, call: Call) -> own.Preset:
    try:
        return own.find_preset(studio.host, call.path["name"])
    except StudioError as error:
        raise not_found(error.problem, field=error.field, came=error.came) from error


# Folders


def folder(studio: Studio, call: Call) -> Any:
    """The folders in a folder, each with the number of its pictures; without a path those to begin with.

    ``parent`` is the folder above, "" where those to begin with lie above, None above these.
    """
    text, host = call.query.get("path", ""), studio.host
    if not text:
        return {"path": None, "parent": None, "folders": [_folder_view(each) for each in _beginnings(host)]}
    path = allowed_folder(text, host, field="path")
    try:
        inner = sorted((each for each in path.iterdir() if _is_shown(each)), key=lambda each: each.name.lower())
    except OSError as error:
        raise StudioError(f"cannot be read ({error.strerror})", field="path", came=text) from error
    parent = "" if path.parent == path or _is_top(path, host) else str(path.parent)
    return {"path": str(path), "parent": parent, "folders": [_folder_view(each) for each in inner]}


def _beginnings(host: Host) -> Iterator[Path]:
    """The host's folders of datasets; this machine's user may look everywhere."""
    yield from (each for each in host.folders().datasets if each.is_dir())
    if not host.exposed():
        yield Path.home()
        yield from _drives()


def _drives() -> list[Path]:
    if os.name != "nt":
        return [Path("/")]
    return [drive for letter in string.ascii_uppercase if (drive := Path(f"{letter}:\\")).exists()]


def _is_top(path: Path, host: Host) -> bool:
    return host.exposed() and path in [Path(os.path.realpath(each)) for each in host.folders().datasets]


def _is_shown(path: Path) -> bool:
    try:
        return path.is_dir() and not path.name.startswith(".")
    except OSError:
        return False


def _folder_view(path: Path) -> dict[str, Any]:
    return {"name": path.name or str(path), "path": str(path), "pictures": _pictures(path)}


def _pictures(path: Path) -> int:
    """How many pictures lie in a folder and in its folders of repeats (``10_zorbi``)."""
    try:
        names = os.listdir(path)
    except OSError:
        return 0
    own = sum(os.path.splitext(name)[1].lower() in PICTURE_EXTENSIONS for name in names)
    return own + sum(_pictures(path / name) for name in names if _REPEATS.match(name))
