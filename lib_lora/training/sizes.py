"""How large a run's LoRA will be, from the checkpoint's header alone: no weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from lib_lora.adapters.network import Network
from lib_lora.base.options import options_of
from lib_lora.files.safetensors_file import TensorData, byte_count, header_bytes
from lib_lora.files.stamps import Stamp, stamp_of
from lib_lora.models.checkpoint_file import open_checkpoint
from lib_lora.models.config_yaml import folder_config, yaml_beside
from lib_lora.models.loader import build_model
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.options.learning import GROUP as LEARNING
from lib_lora.training.options.network import GROUP as NETWORK
from lib_lora.training.parts import network_spec
from lib_lora.training.rates import LearningRates

_DTYPES = {"fp16": "F16", "bf16": "BF16", "float": "F32"}
# Often changed, and of no matter to the size.
_OF_LENGTH = ("max_train_epochs", "max_train_steps", "train_batch_size", "seed")
# Of the metadata in the file's header, which hold the dataset's tags too: a usual size.
_METADATA_BYTES = 6000


@dataclass(frozen=True)
class NetworkSize:
    """``layers`` that are adapted, ``parameters`` that are trained, about how many bytes the file will have, and the
    learning ``rates`` of the parameters' groups.
    """

    layers: int
    parameters: int
    file_bytes: int
    rates: Mapping[str, float | None]


def network_size(config: TrainConfig) -> NetworkSize:
    """The size of the LoRA that these options train. The first time a checkpoint costs a second or two.

    Raises:
        StudioError: the checkpoint cannot be used, or the options leave no layer.
    """
    path = config.pretrained_model_name_or_path
    return _size(_relevant(config), stamp_of(path))


def _relevant(config: TrainConfig) -> TrainConfig:
    """The config without what does not matter to the size, so that equal ones are equal."""
    names = [info.name for info in options_of(TrainConfig) if info.group in (NETWORK, LEARNING)]
    names = [name for name in names if name not in _OF_LENGTH]
    return TrainConfig(
        pretrained_model_name_or_path=config.pretrained_model_name_or_path,
        train_data_dir=Path(),
        output_name="",
        save_precision=config.save_precision,
        **{name: getattr(config, name) for name in names},
    )


@lru_cache(maxsize=64)
def _size(config: TrainConfig, stamp: Stamp | None) -> NetworkSize:
    model = _skeleton(config.pretrained_model_name_or_path, stamp)
    rates = LearningRates(config, model.family)
    spec = network_spec(config, model.family)
    network = Network.create(model.unet, model.text_encoders, spec, config.seed, rates.wants)
    dtype = _DTYPES[config.save_precision]
    tensors = {
        f"{adapter.key}.{suffix}": TensorData(dtype, tuple(tensor.shape), b"")
        for adapter in network
        for suffix, tensor in adapter.state_tensors().items()
    }
    data = sum(byte_count(tensor.dtype, tensor.shape) for tensor in tensors.values())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    file_bytes = data + len(header_bytes(tensors, {})) + _METADATA_BYTES
    return NetworkSize(len(network), parameters, file_bytes, rates.groups(network))


@lru_cache(maxsize=2)
def _skeleton(path: Path, stamp: Stamp | None) -> DiffusionModel:
    """The checkpoint's modules on the meta device; its tokenizers are left out."""
    checkpoint = open_checkpoint(path)
    facts = checkpoint.facts
    model = build_model(
        checkpoint.tensors,
        yaml_beside(path) if facts is None else folder_config(facts),
        name=checkpoint.name,
        file=path,
        family=None if facts is None else facts.family,
        tokenizers=[],
    )
    for module in model.modules():
        torch.nn.Module.to(module, "meta")
    return model
