"""Option values from what a LoRA says of its own training, and from sd-scripts' config files.

Read are our own metadata and those of sd-scripts and of the GUIs around it (kohya-ss/sd-scripts 48d368f,
train_network.py): text by ``ss_<name>``, where most names are those of options.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, convert, options_of
from lib_lora.base.protocols import Host, ModelFile
from lib_lora.files.safetensors_file import read_header
from lib_lora.files.toml_file import parse_toml
from lib_lora.jobs.presets import usable_optimizers
from lib_lora.training.config import TrainConfig

NO_OPTION = "there is no such option here"
# What a run was called and found, and what it was not asked for.
_FACTS = frozenset(
    {
        "base_model_version",
        "bucket_info",
        "cache_latents",
        "dataset_dirs",
        "epoch",
        "huber_c",
        "huber_scale",
        "huber_schedule",
        "max_validation_steps",
        "new_sd_model_hash",
        "new_vae_hash",
        "num_batches_per_epoch",
        "num_epochs",
        "num_reg_images",
        "num_train_images",
        "num_validation_images",
        "output_name",
        "reg_dataset_dirs",
        "resize_interpolation",
        "sd_model_hash",
        "sd_scripts_commit_hash",
        "session_id",
        "steps",
        "tag_frequency",
        "total_batch_size",
        "training_comment",
        "training_finished_at",
        "training_started_at",
        "v2",
        "vae_hash",
        "validate_every_n_epochs",
        "validate_every_n_steps",
        "validation_seed",
        "validation_split",
    }
)
# What sd-scripts does where its own option is not set, as far as ours does something else.
_UNSET = {"clip_skip": 1, "max_token_length": 75, "network_dim": 4, "network_alpha": 1.0}
_OFF = ("", "none", "false", "0", "0.0", "[]", "{}")
_DATASET = {"batch_size_per_device": "train_batch_size"}


@dataclass
class Taken:
    """Values of options by name, and what could not be taken: ``(key, why)``."""

    values: dict[str, Any] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        """As JSON can hold it."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in self.values.items()}
        return {
            "values": {name: str(value) if isinstance(value, Path) else value for name, value in values.items()},
            "left_out": [{"key": key, "why": why} for key, why in self.left_out],
        }


def options_from_lora(path: Path, host: Host) -> Taken:
    """What the metadata of a LoRA file say of our options.

    Raises:
        StudioError: it is no .safetensors file, or says nothing of its training.
    """
    header = read_header(path)
    own = {key[3:]: value for key, value in header.metadata.items() if key.startswith("ss_")}
    if not own:
        raise StudioError("says nothing of how it was trained", file=path, allowed="a LoRA with ss_ metadata")
    taken = _Reader(host, "ss_").read(own)
    unet, text = (any(key.startswith(prefix) for key in header.tensors) for prefix in ("lora_unet_", "lora_te"))
    if unet or text:  # the tensors alone say which parts were trained
        taken.values |= {"network_train_unet_only": not text, "network_train_text_encoder_only": not unet}
    return taken


def options_from_toml(text: str, host: Host) -> Taken:
    """What a config file of sd-scripts says of our options.

    Raises:
        StudioError: it is no TOML.
    """
    return _Reader(host, "").read(parse_toml(text))


class _Reader:
    """Takes one key after the other; what is not an option by itself has a method of its own."""

    def __init__(self, host: Host, prefix: str) -> None:
        self._host = host
        self._prefix = prefix
        self._infos = {info.name: info for info in options_of(TrainConfig)}
        self._taken = Taken()
        self._special: dict[str, Callable[[Any], None]] = {
            "optimizer": self._optimizer,
            "network_module": self._network_module,
            "network_args": self._network_args,
            "lr_scheduler": self._lr_scheduler,
            "resolution": self._resolution,
            "batch_size_per_device": lambda value: self._option("train_batch_size", value),
            "sd_model_name": lambda value: self._file("pretrained_model_name_or_path", value, self._host.checkpoints()),
            "vae_name": lambda value: self._file("vae", value, self._host.vaes()),
            "zero_terminal_snr": self._zero_terminal_snr,
            "datasets": self._datasets,
            "loss_type": self._loss_type,
            "xformers": lambda value: self._attention("xformers", value),
            "sdpa": lambda value: self._attention("sdpa", value),
        }

    def read(self, values: Mapping[str, Any]) -> Taken:
        values = dict(values)
        if self._prefix:
            self._length(values)
        for key, value in values.items():
            self._key = self._prefix + key
            try:
                self._take(key, value)
            except StudioError as fault:
                self._leave_out(str(fault))
        return self._taken

    def _take(self, key: str, value: Any) -> None:
        if key in self._special:
            self._special[key](value)
        elif key in self._infos and key not in _FACTS:
            self._option(key, value)
        elif key not in _FACTS and not _is_off(value):
            self._leave_out(NO_OPTION)

    def _option(self, name: str, value: Any) -> None:
        if _is_off(value) and str(value).lower() == "none":
            if name not in _UNSET:
                return  # not set there, and its default here
            value = _UNSET[name]
        self._taken.values[name] = convert(self._infos[name], _as_list(self._infos[name], value))

    def _leave_out(self, why: str) -> None:
        self._taken.left_out.append((self._key, why))

    # What is no option by itself

    def _length(self, values: dict[str, Any]) -> None:
        """Whole epochs where the run had them: they fit another dataset, a number of steps does not."""
        numbers = [values.get(key) for key in ("max_train_steps", "num_epochs", "num_batches_per_epoch")]
        if not all(str(number).isdigit() for number in numbers):
            return
        steps, epochs, batches = map(int, numbers)
        gathered = str(values.get("gradient_accumulation_steps", 1))
        per_epoch = -(-batches // max(1, int(gathered) if gathered.isdigit() else 1))
        if steps and epochs and steps == epochs * per_epoch:
            self._taken.values["max_train_epochs"] = epochs
            del values["max_train_steps"]

    def _optimizer(self, value: Any) -> None:
        """``prodigyopt.prodigy.Prodigy(decouple=True,betas=(0.9, 0.99))``, or ``Prodigy`` alone."""
        from lib_lora.training.optimizers import OPTIMIZERS, parse_args

        match = re.fullmatch(r"\s*([\w.]+)\s*(?:\((.*)\))?\s*", str(value), re.DOTALL)
        name = match[1].rpartition(".")[2] if match else ""
        entries = [OPTIMIZERS.get(each) for each in OPTIMIZERS]
        entry = next((each for each in entries if name in (each.name, each.attribute)), None)
        if entry is None:
            return self._leave_out(f"the optimizer {value} is not known here")
        if entry.name not in usable_optimizers():
            return self._leave_out(f"the optimizer {entry.name} cannot be used on this machine")
        self._taken.values["optimizer_type"] = entry.name
        arguments = parse_args([match[2]]) if match[2] else {}
        kept = {key: argument for key, argument in arguments.items() if key not in entry.hidden}
        self._taken.values["optimizer_args"] = tuple(f"{key}={argument!r}" for key, argument in kept.items())

    def _network_module(self, value: Any) -> None:
        if str(value) == "networks.lora":
            self._taken.values["network_type"] = "LoRA"
        elif str(value) != "lycoris.kohya":  # whose type is in network_args
            self._leave_out(f"the network {value} is not there")

    def _network_args(self, value: Any) -> None:
        arguments = _arguments(value)
        key = self._key
        for name, argument in arguments.items():
            self._key = f"{key}.{name}"
            if name == "algo":
                self._algorithm(str(argument))
            elif name in self._infos:
                self._option(name, argument)
            elif name == "dropout":
                self._option("network_dropout", argument)
            elif not _is_off(argument):
                self._leave_out(NO_OPTION)
        self._key = key

    def _algorithm(self, name: str) -> None:
        from lib_lora.adapters.base import NETWORKS

        # LyCORIS calls LoRA with convolutions "lora" or "locon".
        name = "LoRA" if name.lower() in ("lora", "locon") else name
        if name not in NETWORKS:
            return self._leave_out(f"the network type {name} is not there")
        self._taken.values["network_type"] = next(each for each in NETWORKS if each.lower() == name.lower())

    def _lr_scheduler(self, value: Any) -> None:
        from lib_lora.training.schedules import SCHEDULES

        name = str(value).partition(":")[0]  # sd-scripts appends AdaFactor's first rate
        if name not in SCHEDULES:
            return self._leave_out(f"the schedule {name} is not there")
        self._taken.values["lr_scheduler"] = name

    def _resolution(self, value: Any) -> None:
        numbers = re.findall(r"\d+", str(value))
        if len(numbers) not in (1, 2):
            return self._leave_out(f"not a resolution: {value}")
        self._taken.values["resolution"] = numbers[0] if len(set(numbers)) == 1 else "x".join(numbers)

    def _file(self, option: str, value: Any, known: list[ModelFile]) -> None:
        if _is_off(value):
            return
        name = PureWindowsPath(str(value)).name  # splits at both kinds of slashes
        found = next((each.path for each in known if each.path.name == name), None)
        if found is None:
            return self._leave_out(f"{name} is not among the files here")
        self._taken.values[option] = found

    def _zero_terminal_snr(self, value: Any) -> None:
        if not _is_off(value):
            self._taken.values["zero_terminal_snr"] = "on"

    def _loss_type(self, value: Any) -> None:
        if str(value) not in ("l2", "None"):
            self._leave_out(NO_OPTION)

    def _attention(self, kind: str, value: Any) -> None:
        if not _is_off(value):
            self._taken.values["attention"] = kind

    def _datasets(self, value: Any) -> None:
        """What sd-scripts writes of a dataset config: taken where all datasets and their subsets say the same."""
        datasets = json.loads(value) if isinstance(value, str) else value
        key = self._key
        subsets = [subset for dataset in datasets for subset in dataset.get("subsets", [])]
        for name, values in _gathered([*datasets, *subsets]).items():
            option = _DATASET.get(name, name)
            if option not in self._infos and option != "resolution":
                continue
            self._key = f"{key}.{name}"
            if len(values) > 1:
                self._leave_out("its datasets differ here")
            else:
                self._take(option, values[0])
        self._key = key


def _gathered(tables: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each name's different values."""
    found: dict[str, list[Any]] = {}
    for table in tables:
        for name, value in table.items():
            known = found.setdefault(name, [])
            if value not in known:
                known.append(value)
    return found


def _arguments(value: Any) -> dict[str, Any]:
    """``network_args`` as JSON's table or as a list of ``name=value``."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise StudioError("cannot be read", came=value, allowed="a table in JSON") from None
    if isinstance(value, Mapping):
        return dict(value)
    return {name: argument for name, _, argument in (str(each).partition("=") for each in value or ())}


def _as_list(info: OptionInfo, value: Any) -> Any:
    """``"[5e-05, 1e-05]"`` as a list, where the option is one."""
    if info.is_list and isinstance(value, str) and value.strip()[:1] in "[(":
        try:
            return list(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError):
            return value
    return value


def _is_off(value: Any) -> bool:
    return value is None or str(value).strip().lower() in _OFF
