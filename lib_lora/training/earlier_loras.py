"""LoRAs that a run begins with: merged into the model first, or trained on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import torch
from torch import nn

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors
from lib_lora.adapters.spec import NetworkSpec, Target
from lib_lora.base.errors import StudioError
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.network_checks import check_types


@torch.no_grad()
def merge_base_weights(config: TrainConfig, model: DiffusionModel) -> None:
    """Merge ``base_weights`` into the model's weights, one after the other, each at its strength.

    Raises:
        StudioError: a file that cannot be read, or does not fit the model.
    """
    for name, strength in zip_longest(config.base_weights, config.base_weights_multiplier, fillvalue=1.0):
        for adapter in _from_file(Path(name), model, None, config.seed, field="base_weights"):
            layer = adapter.target.layer
            weight = adapter.base_weight() + strength * adapter.dense_delta().to(layer.weight.device)
            # A tensor of its own: the checkpoint's file stays as it is mapped.
            layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
            change = adapter.bias_delta()
            if change is not None:
                bias = strength * change.to(layer.weight.device)
                bias = bias if layer.bias is None else layer.bias.float() + bias
                layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)


def network_to_train(
    config: TrainConfig, model: DiffusionModel, spec: NetworkSpec, wants: Callable[[Target], bool]
) -> Network:
    """A fresh network, one with the values of ``network_weights``, or that file's own.

    Raises:
        StudioError: the options leave no layer, or the file is not of the network that they describe.
    """
    path = config.network_weights
    if path is None or not config.dim_from_weights:
        network = Network.create(model.unet, model.text_encoders, spec, config.seed, wants)
        if path is not None:
            try:
                network.load(read_tensors(path)[0])
            except StudioError as error:
                raise _of(path, error, "network_weights") from error
        return network
    network = _from_file(path, model, spec, config.seed, field="network_weights")
    check_types(config, network.types, network.has_dora)
    unwanted = [
        adapter.key for adapter in network if not wants(adapter.target) or not _is_trained(adapter.target, spec)
    ]
    if unwanted:
        raise StudioError(
            f"holds {len(unwanted)} layers that these options leave as they are, the first is {unwanted[0]}",
            field="network_weights",
            file=path,
            allowed="a file of the trained layers alone, or dim_from_weights off",
        )
    return network


def _is_trained(target: Target, spec: NetworkSpec) -> bool:
    return {"unet": spec.train_unet, "text_encoder": spec.train_text_encoder}[target.part]


def _from_file(path: Path, model: DiffusionModel, spec: NetworkSpec | None, seed: int, *, field: str) -> Network:
    tensors, _ = read_tensors(path)
    try:
        return Network.from_file_tensors(model.unet, model.text_encoders, tensors, spec=spec, seed=seed)
    except StudioError as error:
        raise _of(path, error, field) from error


def _of(path: Path, error: StudioError, field: str) -> StudioError:
    where = f"{error.field}: " if error.field else ""
    return StudioError(f"{where}{error.problem}", field=field, file=path, came=error.came, allowed=error.allowed)
