"""sd-scripts' names and values as options of ours: what metadata, config files and the GUIs around it all speak.

Most names are those of options; what is not an option by itself has a method of its own. Source: kohya-ss/sd-scripts
48d368f (train_network.py, library/train_util.py).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, convert, options_of
from lib_lora.base.protocols import Host, ModelFile
from lib_lora.jobs.imports.taken import Taken, Translation, is_off
from lib_lora.jobs.presets import usable_optimizers
from lib_lora.training.config import TrainConfig

NO_OPTION = "there is no such option here"
# What a run was called and found: in metadata, where it is no wish for another run.
_FACTS = frozenset(
    {
        "cache_latents", "epoch", "num_batches_per_epoch", "num_epochs", "num_reg_images", "num_train_images",
        "num_validation_images", "output_name", "reg_dataset_dirs", "dataset_dirs", "sd_model_hash",
        "new_sd_model_hash", "vae_hash", "new_vae_hash", "session_id", "steps", "sd_scripts_commit_hash",
        "tag_frequency", "total_batch_size", "training_comment", "training_finished_at", "training_started_at",
        "base_model_version", "bucket_info",
    }
)  # fmt: skip
# What counts for nothing where there is no option of its name: it is found by itself, or says how to do something that
# another setting asks for.
_QUIET = frozenset(
    {
        "v2", "sdxl", "huber_c", "huber_scale", "huber_schedule", "max_validation_steps", "validate_every_n_epochs",
        "validate_every_n_steps", "validation_seed", "validation_split", "resize_interpolation",
        "multires_noise_discount", "noise_offset_type", "highvram", "lowvram", "output_config", "dataset_class",
        "max_data_loader_n_workers", "persistent_data_loader_workers", "lowram", "mem_eff_attn", "console_log_level",
        "console_log_file", "console_log_simple", "log_with", "log_prefix", "skip_cache_check",
    }
)  # fmt: skip
# What sd-scripts does where its own option is not set, as far as ours does something else.
_UNSET = {"clip_skip": 1, "max_token_length": 75, "network_dim": 4, "network_alpha": 1.0}
_OTHER_NAMES = {
    "batch_size": "train_batch_size",
    "batch_size_per_device": "train_batch_size",
    "debiased_estimation": "debiased_estimation_loss",
    "learning_rate_te": "text_encoder_lr",
    "optimizer": "optimizer_type",
}
_MODULES = {"networks.lora": "LoRA", "networks.dylora": "DyLoRA", "networks.loha": "LoHa", "networks.lokr": "LoKr"}
# LyCORIS calls LoRA with convolutions "lora" or "locon".
_ALGORITHMS = {"lora": "LoRA", "locon": "LoRA", "ia3": "IA3", "diag-oft": "Diag-OFT", "oft": "Diag-OFT"}
# LyCORIS' words for options of a network; its block size is DyLoRA's unit.
_ARGUMENTS = {"dropout": "network_dropout", "block_size": "unit", "use_cp": "use_tucker", "use_conv_cp": "use_tucker"}


class Reader:
    """Takes one key after the other.

    Args:
        prefix: what stands before each name: "ss_" in metadata, where a value is text.
    """

    def __init__(self, host: Host, prefix: str = "") -> None:
        self._host = host
        self._prefix = prefix
        self._key = ""
        self._infos = {info.name: info for info in options_of(TrainConfig)}
        self._taken = Taken()
        self._special: dict[str, Callable[[Any], None]] = {
            "optimizer_type": self._optimizer,
            "optimizer_args": self._optimizer_args,
            "network_module": self._network_module,
            "network_args": self._network_args,
            "lr_scheduler": self._lr_scheduler,
            "resolution": self._resolution,
            "pretrained_model_name_or_path": self._checkpoint,
            "sd_model_name": self._checkpoint,
            "vae": self._vae,
            "vae_name": self._vae,
            "zero_terminal_snr": self._zero_terminal_snr,
            "v_parameterization": self._v_parameterization,
            "datasets": self._datasets,
            "loss_type": self._loss_type,
            "xformers": lambda value: self._attention("xformers", value),
            "sdpa": lambda value: self._attention("sdpa", value),
            "save_model_as": self._save_model_as,
            "sample_sampler": self._sampler,
        }

    def read(self, values: Mapping[str, Any], translation: Translation | None = None) -> Taken:
        """The options that ``values`` mean.

        Args:
            translation: what is known of values that come from another program.
        """
        keys = translation.keys if translation else {}
        if translation:
            self._taken.changed += translation.changed
            self._taken.left_out += translation.left_out
        values = dict(values)
        self._length(values)
        for key, value in values.items():
            self._key = keys.get(key, self._prefix + key)
            try:
                self._take(_OTHER_NAMES.get(key, key), value)
            except StudioError as fault:
                self._leave_out(str(fault))
        return self._taken

    def _take(self, key: str, value: Any) -> None:
        if self._prefix and key in _FACTS:
            return
        if key in self._special:
            self._special[key](value)
        elif key in self._infos and self._infos[key].kind is Path:
            self._path(key, value)
        elif key in self._infos:
            self._option(key, value)
        elif key not in _QUIET and not is_off(value):
            self._leave_out(NO_OPTION)

    def _option(self, name: str, value: Any) -> None:
        if is_off(value) and str(value).lower() in ("", "none"):
            if name not in _UNSET:
                return  # not set there, and its default here
            value = _UNSET[name]
        self._set(name, convert(self._infos[name], _as_list(self._infos[name], value)))

    def _set(self, name: str, value: Any) -> None:
        self._taken.values[name] = value
        self._taken.keys[name] = self._key

    def _leave_out(self, why: str) -> None:
        self._taken.left_out.append((self._key, why))

    # What is no option by itself

    def _length(self, values: dict[str, Any]) -> None:
        """Epochs go before steps, as there. Of a finished run whole epochs are taken where it had them: they fit
        another dataset, a number of steps does not."""
        if not self._prefix:
            if not is_off(values.get("max_train_epochs")) and not is_off(values.get("max_train_steps")):
                self._taken.changed.append(("max_train_steps", "max_train_epochs goes before it"))
                del values["max_train_steps"]
            return
        numbers = [values.get(key) for key in ("max_train_steps", "num_epochs", "num_batches_per_epoch")]
        if not all(str(number).isdigit() for number in numbers):
            return
        steps, epochs, batches = map(int, numbers)
        gathered = str(values.get("gradient_accumulation_steps", 1))
        per_epoch = -(-batches // max(1, int(gathered) if gathered.isdigit() else 1))
        if steps and epochs and steps == epochs * per_epoch:
            self._key = f"{self._prefix}num_epochs"
            self._set("max_train_epochs", epochs)
            del values["max_train_steps"]

    def _optimizer(self, value: Any) -> None:
        """``prodigyopt.prodigy.Prodigy(decouple=True,betas=(0.9, 0.99))``, or ``Prodigy`` alone."""
        from lib_lora.training.optimizer_args import parse_args
        from lib_lora.training.optimizer_table import OPTIMIZERS

        match = re.fullmatch(r"\s*([\w.]+)\s*(?:\((.*)\))?\s*", str(value), re.DOTALL)
        name = match[1].rpartition(".")[2] if match else ""
        entries = [OPTIMIZERS.get(each) for each in OPTIMIZERS]
        entry = next((each for each in entries if name.lower() in (each.name.lower(), each.attribute.lower())), None)
        if entry is None:
            return self._leave_out(f"the optimizer {value} is not known here")
        if entry.name not in usable_optimizers():
            return self._leave_out(f"the optimizer {entry.name} cannot be used on this machine")
        self._set("optimizer_type", entry.name)
        if self._prefix or match[2]:
            arguments = parse_args([match[2]]) if match[2] else {}
            kept = {key: argument for key, argument in arguments.items() if key not in entry.hidden}
            self._set("optimizer_args", tuple(f"{key}={argument!r}" for key, argument in kept.items()))

    def _optimizer_args(self, value: Any) -> None:
        self._option("optimizer_args", [f"{name}={argument}" for name, argument in _arguments(value).items()])

    def _network_module(self, value: Any) -> None:
        module = str(value)
        if module == "lycoris.kohya":
            return  # its type is in network_args
        if module not in _MODULES:
            return self._leave_out(f"the network {value} is not there")
        self._network_type(_MODULES[module], f"the network {value} is not there")

    def _network_args(self, value: Any) -> None:
        arguments = _arguments(value)
        key = self._key
        for name, argument in arguments.items():
            self._key = f"{key}.{name}"
            if name == "algo":
                self._algorithm(str(argument))
            elif name in _ARGUMENTS:
                self._option(_ARGUMENTS[name], argument)
            elif name in self._infos:
                self._option(name, argument)
            elif name == "preset":
                self._preset(str(argument))
            elif not is_off(argument):
                self._leave_out(NO_OPTION)
        self._key = key

    def _algorithm(self, name: str) -> None:
        self._network_type(_ALGORITHMS.get(name.lower(), name), f"the network type {name} is not there")

    def _network_type(self, name: str, absent: str) -> None:
        from lib_lora.adapters.base import NETWORKS

        known = next((each for each in NETWORKS if each.lower() == name.lower()), None)
        if known is None:
            return self._leave_out(absent)
        self._set("network_type", known)

    def _preset(self, name: str) -> None:
        """LyCORIS' choice of layers."""
        if name.lower() not in ("full", "default", "none", ""):
            self._leave_out(f"the choice of layers {name} is not there; network_targets has others")

    def _lr_scheduler(self, value: Any) -> None:
        from lib_lora.training.schedules import SCHEDULES

        name = str(value).partition(":")[0]  # sd-scripts appends AdaFactor's first rate
        if name not in SCHEDULES:
            return self._leave_out(f"the schedule {name} is not there")
        self._set("lr_scheduler", name)

    def _resolution(self, value: Any) -> None:
        numbers = re.findall(r"\d+", str(value))
        if len(numbers) not in (1, 2):
            return self._leave_out(f"not a resolution: {value}")
        self._set("resolution", numbers[0] if len(set(numbers)) == 1 else "x".join(numbers))

    def _checkpoint(self, value: Any) -> None:
        self._file("pretrained_model_name_or_path", value, self._host.checkpoints())

    def _vae(self, value: Any) -> None:
        self._file("vae", value, self._host.vaes())

    def _file(self, option: str, value: Any, known: list[ModelFile]) -> None:
        if is_off(value):
            return
        name = PureWindowsPath(str(value)).name  # splits at both kinds of slashes
        found = next((each.path for each in known if each.path.name == name), None)
        if found is None and not self._host.exposed() and not self._prefix and Path(str(value)).exists():
            found = Path(str(value))
        if found is None:
            return self._leave_out(f"{name} is not among the files here")
        self._set(option, found)

    def _path(self, name: str, value: Any) -> None:
        """Folders and files of another machine are of no use here, and others than this machine's user ask for none."""
        if is_off(value):
            return
        if self._host.exposed() or not Path(str(value)).exists():
            return self._leave_out(f"{value} is not there")
        self._option(name, value)

    def _zero_terminal_snr(self, value: Any) -> None:
        if not is_off(value):
            self._set("zero_terminal_snr", "on")

    def _v_parameterization(self, value: Any) -> None:
        if not is_off(value):
            self._set("prediction_type", "v_prediction")

    def _loss_type(self, value: Any) -> None:
        if "loss_type" in self._infos:
            self._option("loss_type", value)
        elif str(value) not in ("l2", "None"):
            self._leave_out(NO_OPTION)

    def _attention(self, kind: str, value: Any) -> None:
        if not is_off(value):
            self._set("attention", kind)

    def _save_model_as(self, value: Any) -> None:
        if not is_off(value) and str(value) != "safetensors":
            self._taken.changed.append((self._key, "LoRAs are written as .safetensors"))

    def _sampler(self, value: Any) -> None:
        """sd-scripts' ``euler_a`` is the WebUI's ``Euler a``."""
        wanted = re.sub(r"\W|_", "", str(value)).lower()
        found = next((each for each in self._host.samplers() if re.sub(r"\W", "", each).lower() == wanted), None)
        if found is None:
            return self._leave_out(f"the sampler {value} is not there")
        self._set("sample_sampler", found)

    def _datasets(self, value: Any) -> None:
        """What sd-scripts writes of a dataset config: taken where all datasets and their subsets say the same."""
        datasets = json.loads(value) if isinstance(value, str) else value
        key = self._key
        subsets = [subset for dataset in datasets for subset in dataset.get("subsets", [])]
        for name, values in gathered([*datasets, *subsets]).items():
            option = _OTHER_NAMES.get(name, name)
            if option not in self._infos:
                continue
            self._key = f"{key}.{name}"
            if len(values) > 1:
                self._leave_out("its datasets differ here")
            else:
                self._take(option, values[0])
        self._key = key


def gathered(tables: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each name's different values."""
    found: dict[str, list[Any]] = {}
    for table in tables:
        for name, value in table.items():
            known = found.setdefault(name, [])
            if value not in known:
                known.append(value)
    return found


def _arguments(value: Any) -> dict[str, Any]:
    """``network_args`` as JSON's table, as a list of ``name=value`` or as one of these."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise StudioError("cannot be read", came=value, allowed="a table in JSON") from None
    if isinstance(value, Mapping):
        return dict(value)
    words = [value] if isinstance(value, str) and value.lower() != "none" else value if isinstance(value, list) else []
    return {name.strip(): argument for name, _, argument in (str(each).partition("=") for each in words)}


def _as_list(info: OptionInfo, value: Any) -> Any:
    """``"[5e-05, 1e-05]"`` as a list, where the option is one."""
    if info.is_list and isinstance(value, str) and value.strip()[:1] in "[(":
        try:
            return list(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError):
            return value
    return value
