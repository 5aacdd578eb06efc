"""The forms of grids, analyses and looks at what a checkpoint knows, and how their values are read."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping, options_of
from lib_lora.base.protocols import Host
from lib_lora.evaluate.layout import stem
from lib_lora.evaluate.options import AnalyseConfig, GridConfig, KnowledgeConfig, PictureOptions, check_pictures
from lib_lora.evaluate.prompt_lists import PromptLists
from lib_lora.files.safetensors_file import read_header
from lib_lora.jobs.forms import in_groups, option_view, plain
from lib_lora.jobs.tool_form import checkpoint_file, lora_file
from lib_lora.text.extra_networks import split_tags
from lib_lora.weights.blocks.presets import Presets
from lib_lora.weights.blocks.vector import parse_vector
from lib_lora.weights.blocks.words import tag_name
from lib_lora.weights.lora_folder import lora_paths

CONFIGS: Mapping[str, type[PictureOptions]] = {
    "grid": GridConfig,
    "analyse": AnalyseConfig,
    "knowledge": KnowledgeConfig,
}


def evaluate_forms() -> dict[str, Any]:
    """``{kind: {"groups", "defaults"}}``."""
    return {kind: _form(config) for kind, config in CONFIGS.items()}


def _form(config: type) -> dict[str, Any]:
    infos = options_of(config)
    return {
        "groups": in_groups((info.group, option_view(info)) for info in infos),
        "defaults": {info.name: None if info.required else plain(info.default) for info in infos},
    }


def prompt_lists(host: Host) -> PromptLists:
    return PromptLists(host.data_dir / "prompts")


def read_form(kind: str, values: Mapping[str, Any], host: Host) -> Any:
    """The config of a kind, its saved list's prompts among the others. All files that it names are there.

    Raises:
        StudioError: naming the option at fault.
    """
    config = from_mapping(CONFIGS[kind], values)
    listed = prompt_lists(host).read(config.prompt_list) if config.prompt_list else ()
    prompts = tuple(dict.fromkeys([*config.prompts, *listed]))
    config = dataclasses.replace(config, prompts=prompts, prompt_list=None)
    if not prompts and kind != "knowledge":
        raise StudioError("must be given", field="prompts", allowed="what to draw")
    check_pictures(config)
    known = host.samplers()
    if not any(config.sampler.lower().startswith(name.lower()) for name in known):
        raise StudioError("unknown name", field="sampler", came=config.sampler, allowed=known)
    loras = lora_files(config, host)
    _check_prompts(config, loras)
    presets = Presets.load(host.data_dir)
    for text in getattr(config, "weights", ()):
        parse_vector(text, None, presets=presets, draw=random.uniform)
    for checkpoint in checkpoints_of(config):
        _check_families(loras, find_checkpoint(checkpoint, loras.values(), host), host)
    return config


def _check_families(loras: Mapping[str, Path], checkpoint: Path | None, host: Host) -> None:
    """That LoRAs are made for a checkpoint's family; None is the loaded one. Nobody knows of some whose they are.

    Raises:
        StudioError: one is made for another.
    """
    from lib_lora.weights.modules import read_whole

    family = checkpoint_family(checkpoint, host) if loras else None
    for name, path in loras.items() if family else ():
        its = read_whole(path).family
        if its not in (None, family):
            problem = f"is made for {its.value}, and the checkpoint is {family.value}"
            raise StudioError(problem, field="lora", came=name, allowed=f"a LoRA for {family.value}")


def checkpoint_family(checkpoint: Path | None, host: Host) -> Family | None:
    """Of a checkpoint, or of the loaded one; None where its file does not tell."""
    from lib_lora.weights.base_model import BaseModel

    checkpoint = checkpoint or next((each.path for each in host.checkpoints() if each.loaded), None)
    try:
        return checkpoint and BaseModel(checkpoint).family
    except StudioError:  # whoever draws with it says so, if it is at fault
        return None


def checkpoints_of(config: Any) -> tuple[str | None, ...]:
    """Those that pictures are made with; None is the usual one."""
    several = getattr(config, "checkpoints", None)
    return (several or (None,)) if several is not None else (config.checkpoint,)


def lora_files(config: Any, host: Host) -> dict[str, Path]:
    """The files of the LoRAs that a config names, by these names.

    Raises:
        StudioError: there is none, or a prompt could not tell it from another.
    """
    field = "loras" if hasattr(config, "loras") else "lora"
    named = getattr(config, field, ())  # a look at what a checkpoint knows has none
    names = (named,) if isinstance(named, str) else named
    if field == "loras" and not names:
        raise StudioError("must be given", field=field, allowed="names of LoRAs")
    found = {name: lora_file(Path(name), host, field) for name in names}
    for name, path in found.items():
        same = [each for each in lora_paths(host.lora_dir()) if each.stem == stem(name)]
        if len(same) != 1 or os.path.realpath(same[0]) != os.path.realpath(path):
            others = [str(each) for each in same] or [str(host.lora_dir())]
            raise StudioError(
                "a prompt names LoRAs by their files' names, and this one cannot be told by it",
                field=field,
                came=name,
                allowed=f"one of its name in the LoRA folder, where there is: {', '.join(others)}",
            )
    return found


def _check_prompts(config: Any, loras: Iterable[str]) -> None:
    stems = {stem(name) for name in loras}
    for prompt in config.prompts:
        if any(tag_name(items) in stems for items in split_tags(prompt)[1]):
            raise StudioError(
                "names the LoRA that is put in by itself, which would act twice", field="prompts", came=prompt
            )


def find_checkpoint(name: str | None, loras: Iterable[Path], host: Host) -> Path | None:
    """The file of a checkpoint; None for the host's loaded one.

    Args:
        name: None for the loaded one, or, where the host has none, for what the first of the LoRAs was trained on.

    Raises:
        StudioError: there is none.
    """
    if name is not None:
        return checkpoint_file(Path(name), host, "checkpoint")
    return None if host.lends() else base_of(next(iter(loras), None), host)


def base_of(lora: Path | None, host: Host) -> Path:
    """The checkpoint that a LoRA was trained on, by the file name in its metadata.

    Raises:
        StudioError: it is not known here.
    """
    known = host.checkpoints()
    name = lora and read_header(lora).metadata.get("ss_sd_model_name")
    for each in known:
        if name in (each.path.name, each.path.resolve().name):
            return each.path
    names = [each.name for each in known]
    if lora is None:
        raise StudioError("must be given", field="checkpoint", allowed=names)
    raise StudioError(
        "the LoRA's own is not among those known here: one must be named",
        field="checkpoint",
        file=lora,
        came=name,
        allowed=names,
    )
