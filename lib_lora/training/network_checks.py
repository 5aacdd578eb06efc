"""What the options of a network cannot know of one another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lib_lora.base.errors import StudioError

_RANKED = ("LoRA", "LoHa", "LoKr", "GLoRA", "DyLoRA")
WITHOUT_ALPHA = ("IA3", "Diag-OFT", "BOFT", "Full")
WITHOUT_RANK = ("IA3", "Full")
_LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
# What goes with some types alone.
_TYPES_OF = {
    "network_dropout": ("LoRA", "GLoRA", "DyLoRA"),
    "rank_dropout": ("LoRA", "GLoRA", "DyLoRA"),
    "dora_wd": ("LoRA", "LoHa", "LoKr"),
    "rs_lora": _RANKED,
    "use_tucker": ("LoRA", "LoHa", "LoKr"),
    "use_scalar": ("LoRA", "LoHa", "LoKr", "GLoRA"),
    "decompose_both": ("LoKr",),
    "full_matrix": ("LoKr",),
    "constraint": ("Diag-OFT", "BOFT"),
    **dict.fromkeys(_LORA_PLUS, ("LoRA", "DyLoRA")),
}
# Those of them that act on a network whatever made it.
_OF_TRAINING = ("network_dropout", "rank_dropout", *_LORA_PLUS)

# What makes a network, unless ``dim_from_weights`` takes one from a file.
MAKING = (
    "network_type",
    "network_dim",
    "network_alpha",
    "conv_dim",
    "conv_alpha",
    "network_targets",
    "block_dims",
    "block_alphas",
    "conv_block_dims",
    "conv_block_alphas",
    "train_norm",
    "dora_wd",
    "rs_lora",
    "use_tucker",
    "use_scalar",
    "factor",
    "decompose_both",
    "full_matrix",
    "unit",
    "constraint",
)


def check_network(config: Any) -> None:
    """Refuse what means nothing together.

    Raises:
        StudioError: naming the option at fault.
    """
    kind = config.network_type
    for name, types in _TYPES_OF.items():
        if getattr(config, name) and kind not in types and not (config.dim_from_weights and name in _OF_TRAINING):
            raise _refused(name, config, f"means nothing for network_type {kind}", f"network_type {', '.join(types)}")
    if kind == "LoKr" and config.factor == 0:
        raise _refused("factor", config, "not allowed", "-1, or a whole number above 0")
    if kind != "LoKr" and config.factor != -1:
        raise _refused("factor", config, f"means nothing for network_type {kind}", "-1, or network_type LoKr")
    if config.full_matrix and config.decompose_both:
        raise _refused("decompose_both", config, "excludes full_matrix", "one of the two")
    if config.dora_wd:
        _check_dora(config)
    if config.use_tucker and not (config.conv_dim or any(config.conv_block_dims)):
        raise _refused("use_tucker", config, "is of 3x3 convolutions, and these have no rank", "conv_dim")
    for rank, name in ((config.network_dim, "network_dim"), (config.conv_dim, "conv_dim")):
        if kind == "DyLoRA" and rank and rank % config.unit:
            raise _refused("unit", config, f"does not divide {name} {rank}", "a divisor of every rank")
    _check_blocks(config)
    _check_files(config)


def check_types(config: Any, types: Collection[str], has_dora: bool) -> None:
    """Refuse what means nothing for the network that ``dim_from_weights`` has found.

    Raises:
        StudioError: naming the option at fault.
    """
    for name in _OF_TRAINING:
        if getattr(config, name) and not set(types) & set(_TYPES_OF[name]):
            problem = f"means nothing for network_weights of type {', '.join(types)}"
            raise _refused(name, config, problem, f"a file of type {', '.join(_TYPES_OF[name])}")
    if has_dora:
        _check_dora(config)


def _check_dora(config: Any) -> None:
    for name in ("network_dropout", "rank_dropout"):
        if getattr(config, name):
            raise _refused(name, config, "is not for DoRA, whose norm is of the whole change", "0, or no DoRA")


def _check_blocks(config: Any) -> None:
    for name in ("block_dims", "conv_block_dims"):
        for rank in getattr(config, name):
            if rank != int(rank):
                raise _refused(name, config, "not allowed", "whole numbers")
    for alphas, dims in (("block_alphas", "block_dims"), ("conv_block_alphas", "conv_block_dims")):
        if getattr(config, alphas) and not getattr(config, dims):
            raise _refused(alphas, config, f"belongs to {dims}, which is not given", dims)
        if getattr(config, alphas) and len(getattr(config, alphas)) != len(getattr(config, dims)):
            raise _refused(alphas, config, f"has another length than {dims}", f"{len(getattr(config, dims))} numbers")
    if config.network_type not in (*_RANKED, "Diag-OFT", "BOFT") and (config.block_dims or config.conv_block_dims):
        raise _refused("block_dims", config, f"{config.network_type} has no rank", "none")


def _check_files(config: Any) -> None:
    if config.dim_from_weights and not config.network_weights:
        raise _refused("dim_from_weights", config, "belongs to network_weights, which is not given", "network_weights")
    if config.network_weights and not config.network_weights.is_file():
        raise StudioError("no such file", field="network_weights", file=config.network_weights)
    strengths = config.base_weights_multiplier
    if strengths and len(strengths) != len(config.base_weights):
        raise _refused("base_weights_multiplier", config, "has another length than base_weights", "one for each file")


def _refused(name: str, config: Any, problem: str, allowed: str) -> StudioError:
    came = getattr(config, name)
    came = ", ".join(map(str, came)) if isinstance(came, tuple) else came
    return StudioError(problem, field=name, came=came, allowed=allowed)
