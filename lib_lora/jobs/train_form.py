"""The form of a training run: what a page shows, what it sends back, and what a run of it would do."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, convert, from_mapping, options_of
from lib_lora.base.protocols import Host
from lib_lora.dataset.plan import Plan
from lib_lora.files.access import check_inside, check_subfolder
from lib_lora.files.atomic import safe_name, write_text
from lib_lora.jobs.caches import cache_view
from lib_lora.jobs.forms import in_groups, model_view, option_view, plain, refuse_unknown, subfolders
from lib_lora.jobs.options import TrainJobOptions, way_needed
from lib_lora.jobs.presets import optimizers_of_this_machine, presets_view, usable_optimizers
from lib_lora.jobs.scan_cache import ScanCache
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.planning import bytes_needed, make_plan
from lib_lora.training.remarks import remarks

# What the host says, and not the form.
FROM_HOST = ("output_dir", "state_dir", "logging_dir", "cache_dir")
# A job that was killed goes on from its last state; the command line saves none unless it is asked to.
_JOB_DEFAULTS = {"save_state_every_n_steps": 250}
_PROMPTS_FILE = "prompts.txt"
_MOST_LEFT_OUT = 200
_MB = 2**20
_scans = ScanCache()


def form_schema(host: Host) -> dict[str, Any]:
    """All that a page needs to show the form, as JSON can hold it: ``host``, ``checkpoints``, ``vaes``, ``samplers``,
    ``groups``, ``defaults``, ``presets``, ``optimizers`` and ``cache``.

    Loads torch, for the names of optimizers and networks: to be asked for when the form is first shown.
    """
    suggestions = _suggestions(host)
    return {
        "host": _host_view(host),
        "checkpoints": [model_view(each) for each in host.checkpoints()],
        "vaes": [model_view(each) for each in host.vaes()],
        "samplers": host.samplers(),
        "groups": in_groups((info.group, option_view(info, suggestions.get(info.name))) for info in form_options()),
        "defaults": form_defaults(host),
        "presets": presets_view(host),
        "optimizers": [_optimizer_view(name) for name in optimizers_of_this_machine()],
        "cache": cache_view(host),
    }


def form_options() -> list[OptionInfo]:
    """The options of the form, in its order."""
    return [info for kind in (TrainConfig, TrainJobOptions) for info in options_of(kind) if info.name not in FROM_HOST]


def form_defaults(host: Host) -> dict[str, Any]:
    """What the form opens with: the options' own defaults, a job's, and what the host's settings say."""
    values = {info.name: None if info.required else plain(info.default) for info in form_options()}
    checkpoints = host.checkpoints()
    first = next((each for each in checkpoints if each.loaded), checkpoints[0] if checkpoints else None)
    if first:
        values["pretrained_model_name_or_path"] = str(first.path)
    own = {**_JOB_DEFAULTS, **host.train_defaults()}
    infos = {info.name: info for info in form_options()}
    return values | {name: plain(convert(infos[name], value)) for name, value in own.items()}


def read_form(
    values: Mapping[str, Any], host: Host, job_folder: Path | None = None
) -> tuple[TrainConfig, TrainJobOptions]:
    """The checked options of a form's values; what is missing has the form's default.

    Args:
        values: by option name, those of both classes in one mapping. The form has none of ``FROM_HOST``.
        job_folder: where the job keeps its own files: the loss log in ``log`` below it, states in ``state``; and
            ``write_prompts`` writes the form's prompts there.

    Raises:
        StudioError: naming the option at fault.
    """
    names = {info.name: info for info in form_options()}
    _refuse_unknown(values, names)
    filled = {**form_defaults(host), **_without_other_length(values), **values}
    # An empty text in a field that must be filled in is a missing value, not a wrong one.
    filled = {name: None if names[name].required and value == "" else value for name, value in filled.items()}
    own_names = {info.name for info in options_of(TrainJobOptions)}
    options = from_mapping(TrainJobOptions, {name: value for name, value in filled.items() if name in own_names})
    config_values = {name: value for name, value in filled.items() if name not in own_names}
    if options.model_source == "loaded":
        config_values["pretrained_model_name_or_path"] = _loaded_checkpoint(host)
    config_values |= _host_folders(options, host, job_folder)
    config = from_mapping(TrainConfig, config_values)
    safe_name(config.output_name, field="output_name")
    prompts = _prompts_file(config, options, job_folder or host.data_dir / "jobs")
    config = replace(config, **{**_checked_paths(config, host), **prompts})
    if host.exposed() and "." in config.optimizer_type:
        raise StudioError(
            "a class is taken by its module's name from this machine's user alone",
            field="optimizer_type",
            came=config.optimizer_type,
            allowed="an optimizer of the list",
        )
    check(config)
    _check_choices(config)
    return config, options


def write_prompts(config: TrainConfig, options: TrainJobOptions) -> None:
    """Write ``sample_prompts_text`` to the file that ``read_form`` has named for it; nothing where there is none."""
    if options.sample_prompts_text.strip():
        write_text(config.sample_prompts, options.sample_prompts_text)


def plan_summary(values: Mapping[str, Any], host: Host) -> dict[str, Any]:
    """What a run of these values would do, as JSON can hold it: the answer of the route ``lora-studio/plan``.

    Name and checkpoint may still be missing; what follows from them is None then.

    Raises:
        StudioError: naming the option at fault.
    """
    defaults = form_defaults(host)
    anywhere = next(iter(host.folders().models), host.data_dir)
    stand_ins = {"output_name": "unnamed", "pretrained_model_name_or_path": str(anywhere)}
    missing = {name: text for name, text in stand_ins.items() if not {**defaults, **values}[name]}
    config, options = read_form({**values, **missing}, host)
    plan = make_plan(config, options.num_processes, _scans)
    way, why = (None, None) if missing else way_needed(config, options, host)
    return {
        **_plan_view(plan),
        **(_no_size() if "pretrained_model_name_or_path" in missing else _size_view(config, plan)),
        "alpha_over_rank": config.network_alpha / config.network_dim if config.network_alpha else 1.0,
        "exists": None if "output_name" in missing else _existing(config),
        "free_mb": round(shutil.disk_usage(_nearest_folder(config.output_dir)).free / _MB),
        "way": way,
        "way_why": why,
        "warnings": [*_warnings(plan), *remarks(config)],
    }


# The schema's parts


def _suggestions(host: Host) -> dict[str, list[str]]:
    from lib_lora.adapters.base import NETWORKS
    from lib_lora.training.schedules import SCHEDULES

    return {
        "network_type": NETWORKS.names(),
        "optimizer_type": optimizers_of_this_machine(),
        "lr_scheduler": SCHEDULES.names(),
        "sample_sampler": host.samplers(),
    }


def _optimizer_view(name: str) -> dict[str, Any]:
    from lib_lora.training.optimizer_table import ARGUMENTS, OPTIMIZERS

    entry = OPTIMIZERS.get(name)
    usual = entry.default_args
    return {
        "name": name,
        "help": entry.help,
        "rate": entry.default_lr,
        "schedule": entry.schedule,
        "arguments": [
            {"name": each, "default": repr(usual[each]) if each in usual else None, "help": ARGUMENTS[each]}
            for each in entry.arguments
        ],
    }


def _host_view(host: Host) -> dict[str, Any]:
    return {
        "name": host.name,
        "version": host.version,
        "exposed": host.exposed(),
        "lora_dir": str(host.lora_dir()),
        "dataset_dirs": [str(folder) for folder in host.folders().datasets],
        "can_lend": host.lends(),
        "subfolders": subfolders(host.lora_dir()),
    }


# What a form's values become


def _refuse_unknown(values: Mapping[str, Any], names: Mapping[str, OptionInfo]) -> None:
    for name in FROM_HOST:
        if name in values:
            raise StudioError(
                "follows from the host's folders", field=name, came=values[name], allowed="output_subfolder"
            )
    refuse_unknown(values, names)


def _loaded_checkpoint(host: Host) -> Path:
    for each in host.checkpoints():
        if each.loaded:
            return each.path
    raise StudioError("no checkpoint is loaded", field="model_source", came="loaded", allowed="auto, file, switch")


def _prompts_file(config: TrainConfig, options: TrainJobOptions, folder: Path) -> dict[str, Path]:
    """The file that the form's prompts will be in, once they have been read without a fault."""
    lines = [line for line in options.sample_prompts_text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return {}
    if config.sample_prompts:
        raise StudioError(
            "excludes sample_prompts", field="sample_prompts_text", allowed="a file of prompts or their text, not both"
        )
    from lib_lora.training.samples import parse_sample_prompt

    for line in lines:
        try:
            parse_sample_prompt(line)
        except StudioError as fault:
            raise StudioError(
                fault.problem, field="sample_prompts_text", came=fault.came, allowed=fault.allowed
            ) from None
    return {"sample_prompts": folder / _PROMPTS_FILE}


def _host_folders(options: TrainJobOptions, host: Host, job_folder: Path | None) -> dict[str, Path]:
    folders = {
        "output_dir": host.lora_dir() / check_subfolder(options.output_subfolder, field="output_subfolder"),
        "cache_dir": host.data_dir / "cache",
    }
    if job_folder:
        folders |= {"logging_dir": job_folder / "log", "state_dir": job_folder / "state"}
    return folders


def _check_choices(config: TrainConfig) -> None:
    """Names that are looked up in a table of code, which a run would do after it has waited for its turn."""
    from lib_lora.adapters.base import NETWORKS
    from lib_lora.training.optimizer_table import find_optimizer
    from lib_lora.training.schedules import SCHEDULES

    NETWORKS.get(config.network_type)
    if config.lr_scheduler:
        SCHEDULES.get(config.lr_scheduler)
    optimizer = find_optimizer(config.optimizer_type)
    if optimizer.name not in usable_optimizers():
        optimizer.load()


def _without_other_length(values: Mapping[str, Any]) -> dict[str, None]:
    """A length that is given stands in for the other one's default: a run has one of the two."""
    lengths = ("max_train_epochs", "max_train_steps")
    given = [name for name in lengths if values.get(name)]
    return dict.fromkeys(lengths) if given else {}


def _checked_paths(config: TrainConfig, host: Host) -> dict[str, Path]:
    """Every path that is given, whole; inside the host's folders where others can reach the page."""
    infos = {info.name: info for info in options_of(TrainConfig) if info.kind is Path}
    given = {name: Path(os.path.abspath(path)) for name in infos if (path := getattr(config, name)) is not None}
    if not host.exposed():
        return given
    folders = host.folders()
    fields = {"output_dir": "output_subfolder"}
    for name, path in given.items():
        check_inside(path, getattr(folders, infos[name].folder), field=fields.get(name, name))
    for path in config.base_weights:
        check_inside(path, folders.outputs, field="base_weights")
    # As they were given: a folder that is a link has its repeats in its own name.
    return given


# What a run would do


def _plan_view(plan: Plan) -> dict[str, Any]:
    images = () if plan.noise else plan.images
    in_bucket = Counter(image.bucket.resolution for image in images)
    left_out = [*plan.train.left_out, *(plan.reg.left_out if plan.reg else ())]
    return {
        "pictures": sum(not image.record.regularisation for image in images),
        "repeats_total": sum(image.repeats for image in images if not image.record.regularisation),
        "regularisation": plan.reg_samples,
        "held_out": plan.validation.train_samples if plan.validation else 0,
        "buckets": [
            {"width": width, "height": height, "pictures": in_bucket[width, height]}
            for width, height in plan.buckets
            if in_bucket
        ],
        "steps": plan.total_steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "epochs": plan.epochs,
        # The guides count a step for each: about so many steps as a preset wants are this times the epochs.
        "samples_per_epoch": len(plan.entries),
        "left_out": [{"file": str(each.path), "why": each.reason} for each in left_out[:_MOST_LEFT_OUT]],
        "left_out_count": len(left_out),
        "text": plan.describe(),
    }


def _size_view(config: TrainConfig, plan: Plan) -> dict[str, Any]:
    from lib_lora.training.sizes import network_size

    try:
        size = network_size(config)
    except StudioError as fault:
        if fault.field:
            raise
        raise StudioError(
            fault.problem,
            field="pretrained_model_name_or_path",
            file=fault.file,
            came=fault.came,
            allowed=fault.allowed,
        ) from fault
    return {
        "parameters": size.parameters,
        "file_mb": round(size.file_bytes / _MB, 2),
        "needed_mb": math.ceil(bytes_needed(config, plan, size.parameters) / _MB),
        "rates": _rates_view(config, plan, size.rates),
    }


def _rates_view(config: TrainConfig, plan: Plan, base_rates: Mapping[str, float | None]) -> dict[str, Any]:
    from lib_lora.training.rate_curve import rate_curves

    curves = rate_curves(config, plan.total_steps, base_rates)
    return {"steps": list(curves.steps), "groups": {k: list(v) for k, v in curves.rates.items()}, "note": curves.note}


def _no_size() -> dict[str, Any]:
    return dict.fromkeys(("parameters", "file_mb", "needed_mb", "rates"))


def _existing(config: TrainConfig) -> str | None:
    path = config.output_dir / f"{config.output_name}.safetensors"
    return str(path) if path.exists() else None


def _nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _warnings(plan: Plan) -> list[str]:
    return [note.removeprefix("warning: ") for note in plan.notes if note.startswith("warning: ")]
