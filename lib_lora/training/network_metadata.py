"""What a LoRA says of its network and of the LoRAs that it began with: kohya's keys, and ``ss_*`` keys of our own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lib_lora.adapters.base import Adapter
from lib_lora.adapters.dora import DoraAdapter
from lib_lora.adapters.network import Network
from lib_lora.adapters.ranked import RankedAdapter
from lib_lora.training.config import TrainConfig

# What is said of the layers and of their rates, whoever made the network.
_OF_TRAINING = (
    "down_lr_weight",
    "mid_lr_weight",
    "up_lr_weight",
    "block_lr_zero_threshold",
    "block_lr_weight",
    "loraplus_lr_ratio",
    "loraplus_unet_lr_ratio",
    "loraplus_text_encoder_lr_ratio",
)
_OF_TYPE = (
    "block_dims",
    "block_alphas",
    "conv_block_dims",
    "conv_block_alphas",
    "train_norm",
    "dora_wd",
    "rs_lora",
    "use_tucker",
    "use_scalar",
    "decompose_both",
    "full_matrix",
    "constraint",
)
# Of these sd-scripts' own networks.lora knows nothing.
_BEYOND_LORA = ("dora_wd", "rs_lora", "use_tucker", "use_scalar", "train_norm")
# LyCORIS' words for the types, by which kohya's files name them.
_ALGORITHMS = {"LoHa": "loha", "LoKr": "lokr", "IA3": "ia3", "GLoRA": "glora", "Diag-OFT": "diag-oft", "BOFT": "boft"}
_ALGORITHMS |= {"Full": "full", "DyLoRA": "dylora"}


@dataclass(frozen=True)
class _Made:
    """A network type, its rank and alpha, and its ``arguments`` beside the type's name."""

    kind: str
    rank: int | str
    alpha: float | str
    arguments: dict[str, Any]


def network_metadata(config: TrainConfig, network: Network) -> dict[str, Any]:
    """The network as it is: of ``dim_from_weights`` the file knows, and not the options."""
    made = _of_file(network) if config.dim_from_weights else _of_options(config)
    dropouts = {name: getattr(config, name) for name in ("rank_dropout", "module_dropout")}
    algorithm = {"algo": _ALGORITHMS[made.kind]} if made.kind in _ALGORITHMS else {}
    return {
        "ss_network_module": _module(made),
        "ss_network_dim": made.rank,
        "ss_network_alpha": made.alpha,
        "ss_network_args": algorithm | made.arguments | _given(dropouts) | _given(_options(config, _OF_TRAINING)),
        **_earlier_loras(config),
    }


def _module(made: _Made) -> str:
    if made.kind == "DyLoRA":
        return "networks.dylora"
    is_plain = made.kind == "LoRA" and not any(name in made.arguments for name in _BEYOND_LORA)
    return "networks.lora" if is_plain else "lycoris.kohya"


def _of_options(config: TrainConfig) -> _Made:
    arguments: dict[str, Any] = {}
    if config.network_type == "LoKr":
        arguments["factor"] = config.factor
    if config.network_type == "DyLoRA":
        arguments["unit"] = config.unit
    if config.conv_dim:
        # Where it is not given, sd-scripts takes 1.
        alpha = config.network_alpha if config.conv_alpha is None else config.conv_alpha
        arguments |= {"conv_dim": config.conv_dim, "conv_alpha": alpha}
    arguments |= _given(_options(config, _OF_TYPE))
    return _Made(config.network_type, config.network_dim, config.network_alpha, arguments)


def _of_file(network: Network) -> _Made:
    """By its adapters; the most usual type of a file of several, "Dynamic" where ranks or alphas differ."""
    own = [adapter.inner if isinstance(adapter, DoraAdapter) else adapter for adapter in network]
    arguments = {
        "train_norm": any(adapter.target.is_norm for adapter in network),
        "dora_wd": network.has_dora,
        "use_tucker": any(_has_core(adapter) for adapter in own),
    }
    points, spatial = _ranks(own, spatial=False), _ranks(own, spatial=True)
    if spatial:
        arguments |= {"conv_dim": _one(rank for rank, _ in spatial), "conv_alpha": _one(alpha for _, alpha in spatial)}
    usual = network.types.most_common(1)
    kind = usual[0][0] if usual else "LoRA"  # of normalisation layers alone
    return _Made(kind, _one(rank for rank, _ in points), _one(alpha for _, alpha in points), _given(arguments))


def _ranks(adapters: Collection[Adapter], *, spatial: bool) -> set[tuple[int, float]]:
    return {
        (adapter.rank, adapter.alpha)
        for adapter in adapters
        if isinstance(adapter, RankedAdapter) and adapter.target.is_spatial == spatial
    }


def _has_core(adapter: Adapter) -> bool:
    return any(name in ("lora_mid.weight", "hada_t1", "lokr_t2") for name in adapter.parts())


def _one(values: Any) -> Any:
    """The value, "Dynamic" where they differ (sd-scripts, networks/resize_lora.py), None where there is none."""
    found = set(values)
    return found.pop() if len(found) == 1 else "Dynamic" if found else None


def _options(config: TrainConfig, names: Collection[str]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value}
    return {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}


def _earlier_loras(config: TrainConfig) -> dict[str, Any]:
    """By their names alone: where they lie is nobody's business."""
    merged = zip_longest(config.base_weights, config.base_weights_multiplier, fillvalue=1.0)
    found = {"ss_merged_first": [[Path(name).name, strength] for name, strength in merged]}
    if config.network_weights:
        found["ss_trained_on_from"] = config.network_weights.name
    return {key: value for key, value in found.items() if value}
