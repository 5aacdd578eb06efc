"""Whether a saved state belongs to the run that wants to go on with it, and what has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lib_lora.base.errors import StudioError
from lib_lora.dataset.plan import Plan, PlannedImage
from lib_lora.models.model import DiffusionModel
from lib_lora.training.cache import file_identity
from lib_lora.training.config import TrainConfig
from lib_lora.training.options import machine, output, samples

# May change between a run and its resumption: what is made of the weights, where and how fast, and for how long.
_FREE_GROUPS = {output.GROUP, samples.GROUP, machine.GROUP}
_FREE = {
    "max_train_steps",
    "max_train_epochs",
    "nan_guard",
    "nan_guard_factor",
    "nan_guard_tries",
    "validate_every_n_epochs",
    "validate_every_n_steps",
    "save_best",
    "early_stop_patience",
}
# The exceptions: an option of these groups that changes what is computed.
_HELD = {"mixed_precision", "no_half_vae"}
# Compared by what they lead to, so that files may be moved.
_BY_CONTENT = {
    "pretrained_model_name_or_path",
    "vae",
    "train_data_dir",
    "reg_data_dir",
    "caption_extension",
    "base_weights",
    "gradient_accumulation_steps",
}
_MANY = 5


def describe_run(
    config: TrainConfig, plan: Plan, model: DiffusionModel, metadata: Mapping[str, str], pictures: Mapping[str, Any]
) -> dict[str, Any]:
    """What a state says of its run, as JSON.

    Args:
        metadata: the LoRA's, which hold the checkpoint's hashes.
        pictures: from ``describe_pictures``.
    """
    fields = {each.name: each for each in dataclasses.fields(config)}
    names = [name for name in fields if name not in _BY_CONTENT and name != "resume"]
    held = {name: _text(getattr(config, name)) for name in names if not _is_free(fields[name])}
    held["pictures of a step"] = str(plan.batch_size * plan.processes * plan.gradient_accumulation_steps)
    keys = {"checkpoint": "ss_new_sd_model_hash", "VAE": "ss_new_vae_hash"}
    files = {name: metadata[key] for name, key in keys.items() if key in metadata} or {"checkpoint": model.name}
    if config.base_weights:
        files["base_weights"] = [file_identity(Path(file)) for file in config.base_weights]
    return {
        "held": held,
        "free": {name: _text(getattr(config, name)) for name in names if _is_free(fields[name])},
        "files": files,
        "pictures": dict(pictures),
        "computed_with": {
            "torch": torch.__version__,
            "device": _device_name(model.device),
            "threads": str(torch.get_num_threads()),
            "processes": str(plan.processes),
        },
    }


def _is_free(option: dataclasses.Field) -> bool:
    return option.name in _FREE or (option.metadata["group"] in _FREE_GROUPS and option.name not in _HELD)


def _text(value: Any) -> str:
    return value.as_posix() if isinstance(value, Path) else repr(value)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def describe_pictures(plan: Plan, *, masks: bool = False) -> dict[str, list[Any]]:
    """By the path within the dataset, in the plan's order: hashes of picture and caption, repeats, bucket, and hashes
    of the mask, where ``masks`` count, and of the folder's own options. Of pairs both pictures; held-out ones, too."""
    if plan.noise:
        return {}
    own = {_name(image, plan): _picture(image, masks) for image in plan.images}
    own |= describe_pictures(plan.targets, masks=masks) if plan.targets else {}
    held_out = describe_pictures(plan.validation, masks=masks) if plan.validation else {}
    return own | {f"{name} (held out)": picture for name, picture in held_out.items()}


def _name(image: PlannedImage, plan: Plan) -> str:
    scan = plan.reg if image.record.regularisation else plan.train
    name = Path(os.path.relpath(image.record.path, scan.folder)).as_posix()
    return f"{name} (regularisation)" if image.record.regularisation else name


def _picture(image: PlannedImage, masks: bool) -> list[Any]:
    bucket, mask = image.bucket, image.record.mask if masks else None
    return [
        file_identity(image.record.path),
        hashlib.blake2b(image.record.caption.encode(), digest_size=20).hexdigest(),
        image.repeats,
        [*bucket.resolution, *bucket.resized],
        file_identity(mask) if mask else None,
        file_identity(image.record.settings) if image.record.settings else None,
    ]


_PICTURE_PARTS = ("picture", "caption", "repeats", "bucket", "mask", "folder's options")


def check_same_run(then: Mapping[str, Any], now: Mapping[str, Any], state: Path) -> list[str]:
    """What has changed and may, one sentence each.

    Raises:
        StudioError: something has changed that the weights depend on; every difference is named.
    """
    differences = _changes(then["held"], now["held"])
    differences += [f"another {name}" for name in _different(then["files"], now["files"])]
    differences += _picture_changes(then["pictures"], now["pictures"])
    if differences:
        raise StudioError(
            "the state is of a run with other settings: " + "; ".join(differences),
            field="resume",
            file=state,
            allowed="the same settings; the run's length and the options of outputs, samples and machine may change",
        )
    notes = [f"resumed with another {change}" for change in _changes(then["free"], now["free"])]
    machine = _changes(then["computed_with"], now["computed_with"])
    if machine:
        notes.append(f"this is not bit for bit what the run would have been: {'; '.join(machine)}")
    return notes


def _different(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in {**then, **now} if then.get(name) != now.get(name)]


def _changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Options that one of the two programs' versions does not have are no change."""
    both = {name: value for name, value in now.items() if name in then}
    return [f"{name} was {then[name]} and is {value}" for name, value in both.items() if then[name] != value]


def _picture_changes(then: Mapping[str, list], now: Mapping[str, list]) -> list[str]:
    changes = []
    for word, names in (
        ("missing", [name for name in then if name not in now]),
        ("new", [name for name in now if name not in then]),
    ):
        if names:
            changes.append(f"{word}: {_some(names)}")
    both = [name for name in then if name in now]
    for index, part in enumerate(_PICTURE_PARTS):
        names = [name for name in both if then[name][index] != now[name][index]]
        if names:
            changes.append(f"another {part}: {_some(names)}")
    if not changes and list(then) != list(now):
        changes.append("the pictures come in another order")
    return changes


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more
