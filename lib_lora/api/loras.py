"""The LoRAs in the host's folder, their pictures, and the cards that the WebUI shows of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_lora.api.call import Call, not_found
from lib_lora.api.jobs import find_job
from lib_lora.api.pictures import file_response, preview_file
from lib_lora.api.studio import Studio
from lib_lora.base.protocols import Host
from lib_lora.files.access import check_inside, check_subfolder
from lib_lora.files.walk import walk
from lib_lora.jobs import sidecar

_ENDING = ".safetensors"
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
_STEP = re.compile(r"-step(\d{8})$")


def all_loras(studio: Studio, call: Call) -> Any:
    """The newest first. ``name`` is what cards are asked for by: the path below the folder without its ending."""
    root = studio.host.lora_dir()
    paths = [place / name for place, _, files in walk(root) for name in files if name.endswith(_ENDING)]
    # A link may lead nowhere.
    found = [_view(path, root) for path in paths if not path.name.startswith(".") and path.is_file()]
    return sorted(found, key=lambda each: each["mtime"], reverse=True)


def card(studio: Studio, call: Call) -> Any:
    return sidecar.read_card(find_lora(studio.host, call.path["name"]))


def write_card(studio: Studio, call: Call) -> Any:
    """Change a card's texts, and its picture where a job's preview is named: ``{"job", "name"}``."""
    path, fields = find_lora(studio.host, call.path["name"]), dict(call.body)
    preview = _preview(studio, call.given("picture", dict)) if fields.pop("picture", None) is not None else None
    written = sidecar.write_card(path, fields)
    if preview is not None:
        sidecar.write_picture(path, preview, replace=True)
    studio.host.lora_written(path)
    return written


def picture(studio: Studio, call: Call) -> Any:
    """The picture that the WebUI shows of a LoRA."""
    path = sidecar.picture_of(find_lora(studio.host, call.path["name"]))
    if path is None:
        raise not_found("the LoRA has no picture", field="name", came=call.path["name"])
    return file_response(call, path, (studio.host.lora_dir(),), _MEDIA_TYPES[path.suffix.lower()])


def _preview(studio: Studio, chosen: Mapping[str, Any]) -> Path:
    return preview_file(find_job(studio, str(chosen.get("job"))), str(chosen.get("name")))


def find_lora(host: Host, name: str) -> Path:
    """The file of the LoRA of this name, which is its path below the host's folder without its ending.

    Raises:
        Refusal: there is none.
        StudioError: the name leads elsewhere.
    """
    root = host.lora_dir()
    path = root / check_subfolder(f"{name}{_ENDING}", field="name")
    path = check_inside(path, (root,), field="name") if host.exposed() else path
    if not os.path.isfile(path):  # Path.is_file raises where the name is too long
        raise not_found("no such LoRA", field="name", came=name)
    return path


def _view(path: Path, root: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    status, step, shown = path.stat(), _STEP.search(path.stem), sidecar.picture_of(path)
    return {
        "name": name.removesuffix(_ENDING),
        "file": name,
        "step": int(step[1]) if step else None,
        "mtime": status.st_mtime,
        "bytes": status.st_size,
        "picture": None if shown is None else shown.name,
    }
