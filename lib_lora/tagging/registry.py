"""Which taggers there are: the hub's, those in the folder of models, plug-ins, and the host's own."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping, to_mapping
from lib_lora.base.protocols import Host, Tagger
from lib_lora.base.registry import Registry
from lib_lora.files.toml_file import read_toml
from lib_lora.tagging import hub, plugins
from lib_lora.tagging.form import Form
from lib_lora.tagging.hub import HUB_MODELS, HubModel
from lib_lora.tagging.onnx_tagger import OnnxTagger
from lib_lora.tagging.options import TagConfig
from lib_lora.tagging.table import Own

TAGGERS: Registry[Callable[[], Tagger]] = Registry("taggers")
"""Plug-ins: classes that fulfil ``Tagger`` and are made without arguments."""

_FORM_FILE = "tagger.toml"
# The lists of tags that lie beside local models, and what models with such a list want.
_LISTS = {
    "selected_tags.csv": Form(),
    "tag_mapping.json": hub.CL_TAGGER,
    "model_vocabulary.json": hub.CL_TAGGER_2,
    "classes.json": hub.ML_DANBOORU,
}


@dataclass(frozen=True)
class TaggerInfo:
    """A tagger as a person chooses it.

    Attributes:
        source: "hub", "local", "plugin" or "host".
        present: its weights are here, or are the host's to fetch; else they are downloaded on first use.
        general, character: its own thresholds.
        sentence: it gives prose.
        problem: why it cannot be used.
    """

    name: str
    help: str
    source: str
    present: bool
    general: float
    character: float
    sentence: bool = False
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Offer:
    """Attributes:
    make: the tagger itself, nothing loaded yet.
    hub: where it comes from, of a hub's model.
    """

    info: TaggerInfo
    make: Callable[[TagConfig], Tagger]
    hub: HubModel | None = None


def model_folder(host: Host) -> Path:
    """Where taggers' weights lie, a folder for each."""
    return host.data_dir / "taggers"


def available(folder: Path, host: Host | None = None) -> list[TaggerInfo]:
    """All taggers, those of the hub first."""
    return [offer.info for offer in offers(folder, host).values()]


def own_thresholds(folder: Path, host: Host | None = None) -> dict[str, Own]:
    """By name."""
    return {info.name: Own(info.general, info.character) for info in available(folder, host)}


def find_offer(name: str, folder: Path, host: Host | None = None) -> Offer:
    """The tagger called ``name``, which is compared with the known ones and never becomes a path.

    Raises:
        StudioError: there is none, or it cannot be used.
    """
    found = {known.lower(): offer for known, offer in offers(folder, host).items()}
    offer = found.get(name.lower())
    if offer is None:
        names = ", ".join(each.info.name for each in found.values())
        raise StudioError(
            "unknown tagger",
            field="taggers",
            came=name,
            allowed=f"{names}; or a folder of your own in {folder} with a .onnx file and its list of tags",
        )
    if offer.info.problem:
        raise StudioError(offer.info.problem, field="taggers", came=name)
    return offer


def offers(folder: Path, host: Host | None = None) -> dict[str, Offer]:
    """All taggers by name. A name that comes twice is the first's."""
    found: dict[str, Offer] = {}
    known = set()
    for offer in (*_hub(folder), *_local(folder), *_plugins(), *_hosts(host)):
        if offer.info.name.lower() not in known:
            known.add(offer.info.name.lower())
            found[offer.info.name] = offer
    return found


def _hub(folder: Path) -> Iterator[Offer]:
    for name, model in HUB_MODELS.items():
        place, form = folder / name, model.form
        info = TaggerInfo(name, model.help, "hub", model.is_in(place), form.general, form.character)
        make = functools.partial(_onnx, name, place / model.model, place / model.labels, form)
        yield Offer(info, make, model)


def _local(folder: Path) -> Iterator[Offer]:
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        models = sorted(place.glob("*.onnx")) if place.is_dir() and not place.name.startswith(".") else []
        if models and place.name not in HUB_MODELS:
            yield _local_offer(place, models)


def _local_offer(place: Path, models: list[Path]) -> Offer:
    try:
        model, labels, form = _local_files(place, models)
    except StudioError as fault:
        info = TaggerInfo(place.name, "a model of your own", "local", False, 0.0, 0.0, problem=str(fault))
        return Offer(info, functools.partial(_refuse, fault))
    info = TaggerInfo(place.name, "a model of your own", "local", True, form.general, form.character)
    return Offer(info, functools.partial(_onnx, place.name, model, labels, form))


def _local_files(place: Path, models: list[Path]) -> tuple[Path, Path, Form]:
    if len(models) > 1:
        raise StudioError(f"several models lie in its folder: {', '.join(each.name for each in models)}", file=place)
    lists = [place / name for name in _LISTS if (place / name).is_file()] or sorted(place.glob("*.csv"))
    if len(lists) != 1:
        raise StudioError(
            f"beside its model lies {'no list' if not lists else 'more than one list'} of tags "
            f"({', '.join(_LISTS)}, or another csv)",
            file=place,
        )
    form = _LISTS.get(lists[0].name, Form())
    if (place / _FORM_FILE).is_file():
        form = from_mapping(Form, {**to_mapping(form), **read_toml(place / _FORM_FILE)})
    return models[0], lists[0], form


def _plugins() -> Iterator[Offer]:
    for name, fault in _load_plugins().items():
        info = TaggerInfo(name, "a plug-in", "plugin", False, 0.0, 0.0, problem=str(fault))
        yield Offer(info, functools.partial(_refuse, fault))
    for name in TAGGERS:
        tagger = TAGGERS.get(name)
        yield Offer(_info(name, tagger, "plugin"), functools.partial(_make_plugin, name))


def _hosts(host: Host | None) -> Iterator[Offer]:
    for tagger in host.taggers() if host is not None else ():
        yield Offer(_info(tagger.name, tagger, "host"), lambda config, tagger=tagger: tagger)


def _info(name: str, tagger: Any, source: str) -> TaggerInfo:
    return TaggerInfo(name, tagger.help, source, True, tagger.general, tagger.character, tagger.sentence)


@functools.cache
def _load_plugins() -> dict[str, StudioError]:
    """Load them once; what is wrong with those that cannot be loaded, by their names."""
    faults = {}
    for module in pkgutil.iter_modules(plugins.__path__):
        try:
            importlib.import_module(f"{plugins.__name__}.{module.name}")
        except Exception as fault:  # it is somebody else's program
            why = f"this plug-in cannot be loaded ({type(fault).__name__}: {fault})"
            faults[module.name] = StudioError(why, field="taggers", came=module.name)
    return faults


def _make_plugin(name: str, config: TagConfig) -> Tagger:
    tagger = TAGGERS.get(name)()
    tagger.name = name
    return tagger


def _onnx(name: str, model: Path, labels: Path, form: Form, config: TagConfig) -> Tagger:
    return OnnxTagger(name, model, labels, form, device=config.device, threads=config.cpu_threads)


def _refuse(fault: StudioError, config: TagConfig) -> Tagger:
    raise fault
