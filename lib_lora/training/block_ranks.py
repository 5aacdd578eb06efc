"""Ranks and alphas of the UNet's blocks, from lists in sd-scripts' order."""

from __future__ import annotations

from collections.abc import Sequence

from lib_lora.adapters.spec import BlockRank
from lib_lora.arch.blocks import MIDDLE, unet_blocks
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.training.config import TrainConfig

_MIDDLE_PARTS = 3


def block_ranks(config: TrainConfig, family: Family) -> dict[str, BlockRank]:
    """By the block's name, ``M00.1`` for a part of the middle; empty where no list is given.

    What no list says is as for the rest of the network: kohya-ss/sd-scripts 48d368f, networks/lora.py,
    ``get_block_dims_and_alphas``.

    Raises:
        StudioError: a list that the family does not have.
    """
    if not (config.block_dims or config.conv_block_dims):
        return {}
    given = {name: getattr(config, name) for name in ("block_dims", "conv_block_dims") if getattr(config, name)}
    lengths = {len(dims) for dims in given.values()}
    if len(lengths) > 1:
        raise _wrong("conv_block_dims", config.conv_block_dims, "as many numbers as block_dims")
    length = lengths.pop()
    lists = {len(names): names for names in _lists(family)}
    if length not in lists:
        name, dims = next(iter(given.items()))
        raise _wrong(name, dims, f"for {family.value} a list of {' or '.join(map(str, lists))} numbers")
    conv_alpha = config.network_alpha if config.conv_alpha is None else config.conv_alpha
    columns = zip(
        lists[length],
        config.block_dims or [config.network_dim] * length,
        config.block_alphas or [config.network_alpha] * length,
        config.conv_block_dims or [config.conv_dim] * length,
        config.conv_block_alphas or [conv_alpha] * length,
    )
    return {
        name: BlockRank(int(rank), alpha, None if conv is None else int(conv), conv_alpha)
        for name, rank, alpha, conv, conv_alpha in columns
    }


def _lists(family: Family) -> list[tuple[str, ...]]:
    """What the numbers of a list stand for; sd-scripts' list for SDXL begins and ends with what belongs to no block."""
    blocks = unet_blocks(family)
    if family is not Family.SDXL:
        return [blocks]
    middle = blocks.index(MIDDLE)
    parts = tuple(f"{MIDDLE}.{part}" for part in range(_MIDDLE_PARTS))
    return [blocks, ("before", *blocks[:middle], *parts, *blocks[middle + 1 :], "after")]


def _wrong(name: str, came: Sequence[float], allowed: str) -> StudioError:
    return StudioError(
        "no ranks of this model's blocks", field=name, came=", ".join(f"{each:g}" for each in came), allowed=allowed
    )
