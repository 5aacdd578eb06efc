"""The forms of the tools: what a page shows, what it sends back, and where the result of it would go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, convert, from_mapping, option, options_of
from lib_lora.base.protocols import Host, ModelFile
from lib_lora.files.access import check_inside, check_subfolder
from lib_lora.files.atomic import safe_name
from lib_lora.jobs.forms import in_groups, model_view, option_view, plain, refuse_unknown, subfolders
from lib_lora.weights.blocks import elements, presets
from lib_lora.weights.blocks.words import WORDS
from lib_lora.weights.lora_folder import lora_paths
from lib_lora.weights.options import OUTPUT
from lib_lora.weights.tools import TOOLS, Tool

ENDING = ".safetensors"
CHART = "chart.png"
THUMBNAIL = "thumbnail"
DATA_URL = "data:image/"
_MAX_DATA_URL = 300_000  # of what a page has made small; it is kept with the job
# What the host says, or what only the command line needs.
_NOT_IN_FORMS = ("lora_dir", "models", "ratios", "presets", "elements", "picture")
_SUBFOLDER = "output_subfolder"
_KINDS = {"output": "output", "prompt": "loras", "vae": "vae"}
_KIND_OF_FOLDER = {"models": "checkpoint", "outputs": "lora"}
_LABELS = {"output": "Name", "prompt": "LoRAs", "set": "Set metadata", "remove": "Remove metadata"}
# A form opens with something that works; the command line asks.
_DEFAULTS: dict[str, dict[str, Any]] = {"extract": {"dim": 32}, "resize": {"new_rank": 16}}
_ON_LOADED = {"extract": "model_org", "bake": "checkpoint"}
_IN_PROMPTS = WORDS | {"te", "unet", "dyn"}  # what a LoRA in a prompt may say wrongly, by the engine's own words
_MB = 2**20


@dataclass(frozen=True)
class _Place:
    """What a form asks for beside a tool's own options."""

    output_subfolder: str = option(
        "", "folder of the result below the host's own, such as characters/zorb", group=OUTPUT, label="Subfolder"
    )


def tools_schema(host: Host) -> dict[str, Any]:
    """All that a page needs to show the forms, as JSON can hold it."""
    loaded = next((str(each.path) for each in host.checkpoints() if each.loaded), None)
    places = {"lora": subfolders(host.lora_dir()), "checkpoint": subfolders(host.checkpoint_dir())}
    return {
        "tools": [_tool_view(tool, places, loaded) for tool in TOOLS.values()],
        "loras": lora_list(host.lora_dir()),
        "checkpoints": [model_view(each) for each in host.checkpoints()],
        "vaes": [model_view(each) for each in host.vaes()],
        "subfolders": places,
        "block_weights": [
            {"name": name, "values": values} for name, values in presets.Presets.load(host.data_dir).items()
        ],
    }


def _tool_view(tool: Tool, places: Mapping[str, list[str]], loaded: str | None) -> dict[str, Any]:
    return {
        "name": tool.name,
        "label": (tool.label or tool.name).capitalize(),
        "help": tool.help,
        "groups": in_groups((info.group, _option_view(info, tool, places)) for info in form_options(tool)),
        "defaults": form_defaults(tool, loaded),
        "writes": tool.writes,
    }


def _option_view(info: OptionInfo, tool: Tool, places: Mapping[str, list[str]]) -> dict[str, Any]:
    view = option_view(info, places[tool.writes] if info.name == _SUBFOLDER else None)
    kind = _kind(info)
    return {**view, "kind": kind or view["kind"], "label": _LABELS.get(info.name, view["label"])}


def _kind(info: OptionInfo) -> str | None:
    """What is chosen from: None where it is a plain value or any file."""
    return _KINDS.get(info.name) or (_KIND_OF_FOLDER.get(info.folder) if info.kind is Path else None)


def lora_list(root: Path) -> list[dict[str, Any]]:
    """The LoRAs of a folder, the newest first. ``name`` is the path in it, without the ending where that is usual."""
    return sorted((_lora_view(path, root) for path in lora_paths(root)), key=lambda each: each["mtime"], reverse=True)


def _lora_view(path: Path, root: Path) -> dict[str, Any]:
    file, status = path.relative_to(root).as_posix(), path.stat()
    return {"name": file.removesuffix(ENDING), "file": file, "bytes": status.st_size, "mtime": status.st_mtime}


def form_options(tool: Tool) -> list[OptionInfo]:
    """The options of a tool's form, in its order."""
    hidden = _NOT_IN_FORMS if tool.writes else (*_NOT_IN_FORMS, "overwrite")
    infos = [info for info in options_of(tool.config) if info.name not in hidden]
    if tool.writes:
        place = next(index for index, info in enumerate(infos) if info.name == "output")
        infos[place + 1 : place + 1] = options_of(_Place)
    return infos


def form_defaults(tool: Tool, loaded: str | None) -> dict[str, Any]:
    """What the form opens with.

    Args:
        loaded: the checkpoint that the host has loaded.
    """
    values = {info.name: None if info.required else plain(info.default) for info in form_options(tool)}
    on_loaded = {_ON_LOADED[tool.name]: loaded} if tool.name in _ON_LOADED else {}
    return {**values, **_DEFAULTS.get(tool.name, {}), **on_loaded}


def read_form(tool: Tool, values: Mapping[str, Any], host: Host, folder: Path) -> Any:
    """The tool's checked config of a form's values; what is missing has the option's own default.

    Args:
        folder: the job's own, for charts.

    Raises:
        StudioError: naming the option at fault. Of files headers are read.
    """
    infos = {info.name: info for info in form_options(tool)}
    refuse_unknown(values, infos)
    # An empty text in a field that must be filled in is a missing value, not a wrong one.
    given = {name: None if infos[name].required and value == "" else value for name, value in values.items()}
    given = {**given, **_files(infos, given, host, folder), **_host_values(tool, host, folder)}
    if tool.writes:
        given["output"] = _output(tool, given.get("output"), given.pop(_SUBFOLDER, ""), host)
    config = from_mapping(tool.config, given)
    _check(tool, config, host)
    return config


def _host_values(tool: Tool, host: Host, folder: Path) -> dict[str, Any]:
    named = {"presets": presets.own_path(host.data_dir), "elements": elements.own_path(host.data_dir)}
    own = {"lora_dir": host.lora_dir(), "picture": folder / CHART}
    own |= {name: path for name, path in named.items() if path.is_file()}
    values = {info.name: own[info.name] for info in options_of(tool.config) if info.name in own}
    return values if tool.writes or "picture" not in values else {**values, "overwrite": True}


def _files(
    infos: Mapping[str, OptionInfo], given: Mapping[str, Any], host: Host, folder: Path
) -> dict[str, Path | None]:
    """The files that the values name."""
    finders = {"lora": lora_file, "checkpoint": checkpoint_file, "vae": _vae}
    found = {}
    for name, info in infos.items():
        if info.kind is not Path or name == "output":
            continue
        value = given.get(name)
        if name == THUMBNAIL and str(value).startswith(DATA_URL):
            found[name] = _thumbnail(value, folder)
        elif value is not None:
            path = convert(info, value)
            found[name] = path and finders.get(_kind(info), _picture)(path, host, name)
    return found


def lora_file(path: Path, host: Host, field: str) -> Path:
    """The file of a LoRA by its name in the host's folder, or where it lies."""
    root = host.lora_dir()
    if path.is_absolute():
        found = path
    else:
        name = check_subfolder(path.as_posix(), field=field)
        found = next((file for file in (root / f"{name}{ENDING}", root / name) if os.path.isfile(file)), root / name)
    if host.exposed():
        check_inside(found, (root,), field=field)
    if not os.path.isfile(found):  # Path.is_file raises where the name is too long
        raise StudioError("no such LoRA", field=field, came=str(path), allowed="one of the list")
    return found


def checkpoint_file(path: Path, host: Host, field: str) -> Path:
    return _model(path, host.checkpoints(), host, field)


def _vae(path: Path, host: Host, field: str) -> Path:
    return _model(path, host.vaes(), host, field)


def _model(path: Path, known: Sequence[ModelFile], host: Host, field: str) -> Path:
    """A checkpoint or VAE by its name in the host's list, or where it lies."""
    named = next((each.path for each in known if str(path) in (each.name, str(each.path))), path)
    found = Path(os.path.abspath(named))
    if host.exposed():
        check_inside(found, host.folders().models, field=field)
    if not os.path.exists(found):
        raise StudioError("no such file", field=field, came=str(path), allowed="one of the list")
    return found


def _picture(path: Path, host: Host, field: str) -> Path:
    found = Path(os.path.abspath(path))
    if host.exposed():
        check_inside(found, host.folders().datasets, field=field)
    return found


def _thumbnail(url: str, folder: Path) -> Path:
    """Where the job will write the picture that came with the form."""
    if len(url) > _MAX_DATA_URL:
        raise StudioError("too large", field=THUMBNAIL, came=f"{len(url)} letters", allowed=f"{_MAX_DATA_URL} letters")
    return folder / THUMBNAIL


def _output(tool: Tool, name: Any, subfolder: Any, host: Host) -> Path | None:
    """Where the result goes: always into the host's own folder."""
    if name is None:
        return None
    for field, value in (("output", name), (_SUBFOLDER, subfolder)):
        if not isinstance(value, str):
            raise StudioError("not allowed", field=field, came=value, allowed="text")
    name = safe_name(name.strip().removesuffix(ENDING), field="output")
    root = host.lora_dir() if tool.writes == "lora" else host.checkpoint_dir()
    path = root / check_subfolder(subfolder.strip(), field=_SUBFOLDER) / f"{name}{ENDING}"
    if host.exposed():
        check_inside(path, (root,), field=_SUBFOLDER)
    return path


def _check(tool: Tool, config: Any, host: Host) -> None:
    """What the options say together, and the LoRAs that a prompt names."""
    prompt = getattr(config, "prompt", "")
    if prompt is None and getattr(config, "vae", None) is None:
        raise StudioError("must be given", field="prompt", allowed="<lora:name:strength> ...")
    if tool.writes and os.path.realpath(config.output) in {os.path.realpath(path) for path in _inputs(config)}:
        raise StudioError("is one of the inputs, which stay as they are", field="output", came=config.output.stem)
    try:
        if prompt and host.exposed():
            _check_prompt(config, host)
        tool.check(config)
    except StudioError as fault:
        if fault.field not in _IN_PROMPTS or hasattr(config, fault.field):
            raise
        problem = f"{fault.field}: {fault.problem}"
        raise StudioError(problem, field="prompt", file=fault.file, came=fault.came, allowed=fault.allowed) from fault


def _inputs(config: Any) -> Iterable[Path]:
    return (value for name, value in vars(config).items() if isinstance(value, Path) and name != "output")


def _check_prompt(config: Any, host: Host) -> None:
    """A link in the LoRA folder may lead out of it."""
    from lib_lora.weights.recipe import lora_files

    for path in lora_files(config.prompt, config.lora_dir):
        check_inside(path, (host.lora_dir(),), field="prompt")


def plan_view(tool: Tool, values: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """What a run of these values would do, as JSON can hold it: the answer of the route ``tools/{name}/plan``.

    Raises:
        StudioError: naming the option at fault.
    """
    config = read_form(tool, values, host, host.data_dir / "jobs")
    if not tool.writes:
        return {"output": None, "exists": False, "needed_mb": None, "free_mb": None, "warnings": []}
    exists = config.output.exists()
    free = shutil.disk_usage(_nearest_folder(config.output.parent)).free
    needed = config.checkpoint.stat().st_size if tool.writes == "checkpoint" else None
    warnings = []
    if needed is not None and needed > free:
        warnings.append(f"the disk has {free // _MB} MB free, and the result takes some {needed // _MB} MB")
    if exists and is_loaded(config.output, host):
        warnings.append(f"{host.name} has the checkpoint of this name loaded, and will load it anew")
    return {
        "output": str(config.output),
        "exists": exists,
        "needed_mb": needed and needed // _MB,
        "free_mb": free // _MB,
        "warnings": warnings,
    }


def is_loaded(checkpoint: Path, host: Host) -> bool:
    real = os.path.realpath(checkpoint)
    return any(each.loaded and os.path.realpath(each.path) == real for each in host.checkpoints())


def _nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def lora_name(path: Path, host: Host) -> str | None:
    """A LoRA by its name in the host's folder; None for one that lies elsewhere."""
    try:
        name = path.relative_to(host.lora_dir())
    except ValueError:
        return None
    return PurePosixPath(name).as_posix().removesuffix(ENDING)
