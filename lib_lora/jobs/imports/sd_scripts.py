"""sd-scripts' own ways to say its options: config files, dataset configs, and the flags of a command.

Source: kohya-ss/sd-scripts 48d368f, library/train_util.py (``read_config_from_file``: tables only group names) and
library/config_util.py (``[general]``, ``[[datasets]]``, ``[[datasets.subsets]]``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import options_of
from lib_lora.jobs.imports.reader import gathered
from lib_lora.jobs.imports.taken import Translation
from lib_lora.training.config import TrainConfig

_CONTINUED = re.compile(r"[\\^`][ \t]*\r?\n")  # of a shell, of cmd and of PowerShell
_ANOTHER_FILE = ("config_file", "dataset_config")
# What a run has there without being asked, where ours does something else (train_network.py, networks/lora.py).
_DEFAULTS = {
    "network_dim": 4,
    "network_alpha": 1,
    "learning_rate": 2e-6,
    "lr_scheduler": "constant",
    "enable_bucket": False,
    "save_precision": "float",
}
_DATASET_ALONE = {"general", "datasets"}


def flags(text: str) -> dict[str, Any]:
    """The options of a command such as ``accelerate launch train_network.py --network_dim=8 --flip_aug``.

    Raises:
        StudioError: a quotation mark has no second one.
    """
    words = shlex.shlex(_CONTINUED.sub(" ", text), posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters, words.escape = True, "", ""  # a Windows path holds backslashes
    try:
        parts = list(words)
    except ValueError as error:
        raise StudioError(f"cannot be read as a command: {error}", field="text") from error
    script = next((place for place, word in enumerate(parts) if word.endswith(".py")), -1)
    values: dict[str, Any] = {}
    name, given = "", []
    for word in [*parts[script + 1 :], "--"]:
        if not word.startswith("--"):
            given.append(word)
            continue
        if name:
            values[name] = given[0] if len(given) == 1 else given or True
        name, equals, value = word[2:].partition("=")
        given = [value] if equals else []
    return values


def translate(document: Mapping[str, Any]) -> Translation:
    """A config file or the flags, as they are; of a dataset config what all its parts agree on."""
    translation = Translation()
    for name, value in document.items():
        if name in _ANOTHER_FILE:
            translation.leave_out(name, f"is another file: import {PureWindowsPath(str(value)).name} too")
        elif name == "general" and isinstance(value, Mapping):
            for key, inner in value.items():
                translation.take(f"general.{key}", key, inner)
        elif name == "datasets":
            _datasets(translation, value)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                translation.take(key, key, inner)
        else:
            translation.take(name, name, value)
    known = {info.name for info in options_of(TrainConfig)} | {"network_module"}
    if not set(document) <= _DATASET_ALONE and known & translation.values.keys():
        for name in sorted(_DEFAULTS.keys() - translation.values.keys()):
            translation.take(name, name, _DEFAULTS[name], f"{_DEFAULTS[name]}, sd-scripts' default")
    return translation


def _datasets(translation: Translation, datasets: Sequence[Mapping[str, Any]]) -> None:
    subsets = [subset for dataset in datasets for subset in dataset.get("subsets", [])]
    own = [{key: value for key, value in dataset.items() if key != "subsets"} for dataset in datasets]
    take_agreed(translation, "datasets", own)
    take_subsets(translation, "datasets.subsets", subsets)


def take_agreed(translation: Translation, where: str, tables: list[Mapping[str, Any]]) -> None:
    """What several parts of a dataset say alike."""
    for name, values in gathered(tables).items():
        if len(values) > 1:
            translation.leave_out(f"{where}.{name}", "its parts differ: choose one value for all")
        else:
            translation.take(f"{where}.{name}", name, values[0])


def take_subsets(translation: Translation, where: str, subsets: Sequence[Mapping[str, Any]]) -> None:
    """Folders with their repeats, training data and regularisation apart, and what they agree on.

    Here a dataset is one folder of folders named ``<repeats>_<name>``.
    """
    for regularisation, option in ((False, "train_data_dir"), (True, "reg_data_dir")):
        chosen = [each for each in subsets if bool(each.get("is_reg")) == regularisation and each.get("image_dir")]
        if not chosen:
            continue
        parents = {PureWindowsPath(each["image_dir"]).parent for each in chosen}
        named_right = all(_repeats_of(each["image_dir"]) == each.get("num_repeats", 1) for each in chosen)
        if len(parents) == 1 and named_right:
            parent = re.sub(r"[\\/][^\\/]*[\\/]?$", "", chosen[0]["image_dir"])
            why = "the folder around them; their names say the repeats"
            translation.take(f"{where}.image_dir", option, parent, why)
        else:
            folders = ", ".join(f"{each.get('num_repeats', 1)} x {each['image_dir']}" for each in chosen)
            why = f"{folders}: put them into one folder as <repeats>_<name>, and choose that as {option}"
            translation.leave_out(f"{where}.image_dir", why)
    apart = ("image_dir", "num_repeats", "is_reg", "class_tokens", "name", "id")
    take_agreed(translation, where, [{k: v for k, v in each.items() if k not in apart} for each in subsets])


def _repeats_of(folder: str) -> int | None:
    match = re.match(r"(\d+)_", PureWindowsPath(folder).name)
    return int(match[1]) if match else None
