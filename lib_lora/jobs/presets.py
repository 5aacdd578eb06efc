"""Presets of a training run: those of the guides, and a person's own, each a TOML file that may be shared.

    name = "Character, simple"
    help = "what it is for"
    source = "where its numbers come from"
    total_steps = 1000                      # about so many; a page makes whole epochs of them

    [options]
    network_dim = 8
    min_snr_gamma = "none"

"none" is an option that is not set.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, convert, options_of
from lib_lora.base.protocols import Host
from lib_lora.files.atomic import safe_name, write_text
from lib_lora.files.toml_file import parse_toml, toml_text
from lib_lora.jobs.options import RESULT, TrainJobOptions
from lib_lora.training.config import TrainConfig

GUIDES = Path(__file__).parent / "preset_files"
OWN = "own:"  # begins the id of a person's own preset
_ABOUT = ("name", "help", "source", "total_steps")
_MOST_CHARACTERS = 100_000
# What one run is of, and no other.
_NOT_SHARED = ("output_name", "overwrite", "sample_prompts_text", "training_comment", "model_source", "way")


@dataclass(frozen=True)
class Preset:
    """Values of some options.

    Attributes:
        values: by option name, of the options' own types.
        total_steps: about how many steps the run should have, to be divided into whole epochs.
        fault: why a person's own file cannot be used; it has no values then.
    """

    id: str
    name: str
    help: str = ""
    source: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    total_steps: int | None = None
    fault: str | None = None

    @property
    def own(self) -> bool:
        return self.id.startswith(OWN)

    def view(self) -> dict[str, Any]:
        """As JSON can hold it."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in self.values.items()}
        return {
            "id": self.id,
            "name": self.name,
            "help": self.help,
            "source": self.source,
            "values": values,
            "total_steps": self.total_steps,
            "own": self.own,
            "fault": self.fault,
        }

    def toml(self) -> str:
        """The file that makes this preset."""
        about = {"name": self.name, "help": self.help, "source": self.source}
        if self.total_steps:
            about["total_steps"] = self.total_steps
        options = {name: "none" if value is None else value for name, value in self.values.items()}
        return f"{toml_text(about)}\n[options]\n{toml_text(options)}"


def presets_view(host: Host) -> list[dict[str, Any]]:
    """All presets to choose from, the guides' first."""
    usable = {name.lower() for name in usable_optimizers()}
    shown = [preset for preset in guide_presets() if preset.values.get("optimizer_type", "AdamW").lower() in usable]
    return [preset.view() for preset in (*shown, *own_presets(host))]


def usable_optimizers() -> list[str]:
    """The optimizers that a run could begin with now: their card is there, and their package."""
    from lib_lora.training.optimizer_table import OPTIMIZERS

    names = optimizers_of_this_machine()
    return [name for name in names if importlib.util.find_spec(OPTIMIZERS.get(name).module.partition(".")[0])]


def optimizers_of_this_machine() -> list[str]:
    """The optimizers whose card is there; choosing one whose package is not says how to add it."""
    import torch

    from lib_lora.training.optimizer_table import OPTIMIZERS

    return [name for name in OPTIMIZERS if torch.cuda.is_available() or not OPTIMIZERS.get(name).needs_cuda]


@lru_cache(maxsize=1)
def guide_presets() -> tuple[Preset, ...]:
    """Those that come with the program, in the order of their files' names, also such as cannot be used here."""
    files = sorted(GUIDES.glob("*.toml"))
    return tuple(_read(file.read_text(encoding="utf-8"), file.stem.partition("-")[2], file) for file in files)


def own_presets(host: Host) -> list[Preset]:
    """The person's own, by name; one whose file is broken has a ``fault``."""
    return [_read_own(file) for file in sorted(_folder(host).glob("*.toml"), key=lambda file: file.name.lower())]


def find_preset(host: Host, id: str) -> Preset:
    """The preset with this id.

    Raises:
        StudioError: there is none.
    """
    for preset in (*guide_presets(), *own_presets(host)):
        if preset.id == id:
            return preset
    raise StudioError("no such preset", field="name", came=id)


def save_preset(host: Host, name: str, values: Mapping[str, Any], help: str = "") -> Preset:
    """Keep the values of a form under ``name``, in place of an own preset of this name. What concerns one run alone,
    its folders and its name say, is left out.

    Raises:
        StudioError: the name cannot name a file, or a value is not allowed.
    """
    infos = _options()
    kept = {option: value for option, value in values.items() if option not in infos or _is_shared(infos[option])}
    return _keep(host, Preset("", safe_name(name, field="name"), help, "", _checked(kept)))


def import_preset(host: Host, text: str) -> Preset:
    """Keep the preset of somebody's file; what concerns one run alone is left out.

    Raises:
        StudioError: it is no preset, or one of its name is there already.
    """
    if len(text) > _MOST_CHARACTERS:
        raise StudioError(
            "too long for a preset",
            field="toml",
            came=f"{len(text)} characters",
            allowed=f"at most {_MOST_CHARACTERS} characters",
        )
    read = _read(text, "", None)
    if _file(host, safe_name(read.name, field="name")).exists():
        raise StudioError("a preset of this name exists", field="name", came=read.name, allowed="another name")
    return _keep(host, read)


def _keep(host: Host, preset: Preset) -> Preset:
    infos = _options()
    values = {name: value for name, value in preset.values.items() if _is_shared(infos[name])}
    own = replace(preset, id=OWN + preset.name, values=values)
    _folder(host).mkdir(parents=True, exist_ok=True)
    write_text(_file(host, preset.name), own.toml())
    return own


def delete_preset(host: Host, name: str) -> None:
    """Delete an own preset.

    Raises:
        StudioError: there is none of this name.
    """
    path = _file(host, safe_name(name, field="name"))
    if not path.is_file():
        raise StudioError("no such preset", field="name", came=name)
    path.unlink()


def _folder(host: Host) -> Path:
    return host.data_dir / "presets"


def _file(host: Host, name: str) -> Path:
    return _folder(host) / f"{name}.toml"


def _read_own(file: Path) -> Preset:
    try:
        read = _read(file.read_text(encoding="utf-8-sig"), OWN + file.stem, file)
    except (StudioError, OSError, UnicodeDecodeError) as fault:
        return Preset(OWN + file.stem, file.stem, fault=str(fault))
    # The file's name is what it is found by, also after somebody has renamed the file.
    return replace(read, name=file.stem, values={n: v for n, v in read.values.items() if _is_shared(_options()[n])})


def _read(text: str, id: str, file: Path | None) -> Preset:
    document = parse_toml(text, file=file)
    about = {name: document.pop(name) for name in _ABOUT if name in document}
    name, steps = about.get("name"), about.get("total_steps")
    if not isinstance(name, str) or not name.strip():
        raise StudioError("a preset has a name", field="name", file=file, came=name, allowed="text")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise StudioError("not allowed", field="total_steps", file=file, came=steps, allowed="a whole number above 0")
    texts = {key: str(about.get(key, "")) for key in ("help", "source")}
    return Preset(id, name, **texts, values=_checked(document), total_steps=steps)


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    infos = _options()
    for name, value in values.items():
        if name not in infos:
            raise StudioError("unknown option", field=name, came=value)
    return {name: convert(infos[name], value) for name, value in values.items()}


@lru_cache(maxsize=1)
def _options() -> Mapping[str, OptionInfo]:
    return {info.name: info for kind in (TrainConfig, TrainJobOptions) for info in options_of(kind)}


def _is_shared(info: OptionInfo) -> bool:
    return info.kind is not Path and info.group != RESULT and info.name not in _NOT_SHARED
