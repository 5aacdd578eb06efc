"""Settings of LoRA_Easy_Training_Scripts (TOML): tables ``<part>_args`` with ``args`` and ``dataset_args``.

Source: derrian-distro/LoRA_Easy_Training_Scripts ae5ce07, main_ui_files/*UI.py, and its backend for what the names
mean in sd-scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_lora.jobs.imports.sd_scripts import take_subsets
from lib_lora.jobs.imports.taken import Translation, is_off

# What it does with its own files.
_ITS_OWN = frozenset(
    {
        "save_toml", "save_toml_location", "tag_occurrence", "tag_file_location", "easy_name", "sdxl",
    }
)  # fmt: skip


def knows(document: Mapping[str, Any]) -> bool:
    tables = [value for name, value in document.items() if name.endswith("_args") and isinstance(value, Mapping)]
    return any("args" in table or "dataset_args" in table for table in tables)


def translate(document: Mapping[str, Any]) -> Translation:
    translation = Translation()
    for part, table in document.items():
        if not isinstance(table, Mapping):
            continue
        for kind in ("args", "dataset_args"):
            for key, value in (table.get(kind) or {}).items():
                if key not in _ITS_OWN:
                    _take(translation, f"{part}.{key}", key, value)
    take_subsets(translation, "subsets", document.get("subsets", []))
    mode = (document.get("train_mode") or {}).get("train_mode", "lora")
    if mode != "lora":
        translation.leave_out("train_mode", f"{mode} is not trained here")
    return translation


def _take(translation: Translation, key: str, name: str, value: Any) -> None:
    if name == "warmup_ratio":
        translation.take(key, "lr_warmup_steps", value, "a share of the steps here, too: below 1")
    elif name == "save_n_epoch_ratio":
        translation.leave_out(key, "there is no number of saves here: give save_every_n_epochs")
    elif name == "optimizer_type":
        translation.take(key, name, str(value).rpartition(".")[2])
    elif name == "network_args" and isinstance(value, Mapping):
        kind = "lycoris.kohya" if "algo" in value else "networks.lora"
        translation.take(key, "network_module", kind)
        translation.take(key, name, dict(value))
    elif name == "fa":
        if not is_off(value):
            translation.leave_out(key, "LoRA-FA is not there")
    elif name == "resolution" and isinstance(value, list):
        translation.take(key, name, ",".join(map(str, value)))
    else:
        translation.take(key, name, value)
