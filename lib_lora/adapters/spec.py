"""What a network is to be, what changes while it is used, and a layer that it changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

from torch import nn

from lib_lora.arch.blocks import MIDDLE, block_of, middle_place
from lib_lora.base.errors import StudioError

UNET = "unet"
TEXT_ENCODER = "text_encoder"


@dataclass(frozen=True)
class BlockRank:
    """Ranks and alphas of one block; ``conv_rank`` None leaves its 3x3 convolutions out, 0 a kind of layer."""

    rank: int
    alpha: float
    conv_rank: int | None
    conv_alpha: float


@dataclass(frozen=True)
class NetworkSpec:
    """What kind of network, and on which layers.

    Args:
        rank: of linear layers and 1x1 convolutions.
        alpha: the change is scaled by alpha / rank; 0 means alpha = rank.
        conv_rank: of 3x3 convolutions; None leaves the residual blocks and samplers out altogether.
        conv_alpha: None takes ``alpha``; 0 means the convolution's rank.
        dropout: probability that an activation of the rank is zeroed; None and 0 are off, for these three.
        rank_dropout: probability that one of the ranks is zeroed, per sample.
        module_dropout: probability that an adapter is left out of a step.
        targets: "all", "attention", "cross-attention", "self-attention", or a regular expression to be found in
            the layer's own name (``down_blocks.0.attentions.0...``, ``text_model.encoder.layers.0...``).
        network_type: a name of ``NETWORKS``.
        block_ranks: by the UNet's block ("IN04", or "M00.1" for a part of the middle) other ranks than these; 0 leaves
            the block's layers out.
        train_norm: change the UNet's normalisation layers too, of those that ``targets`` and ``block_ranks`` choose.
        dora: a magnitude of its own for each input column (DoRA), on LoRA, LoHa and LoKr.
        rs_lora: scale by alpha / sqrt(rank).
        use_tucker: 3x3 convolutions as a small core between two 1x1 ones.
        use_scalar: one more factor for each layer, from 0, in place of a matrix that starts as zero.
        factor: LoKr: the smaller matrix has about this many rows; -1: about the square root.
        decompose_both: LoKr: the smaller matrix is of low rank too.
        full_matrix: LoKr: neither matrix is of low rank.
        unit: DyLoRA: ranks that are trained together.
        constraint: OFT and BOFT: the longest turn is this times the layer's outputs; 0 is no limit.
    """

    rank: int
    alpha: float
    conv_rank: int | None = None
    conv_alpha: float | None = None
    dropout: float | None = None
    rank_dropout: float | None = None
    module_dropout: float | None = None
    targets: str = "all"
    train_unet: bool = True
    train_text_encoder: bool = True
    network_type: str = "LoRA"
    block_ranks: Mapping[str, BlockRank] = field(default_factory=dict)
    train_norm: bool = False
    dora: bool = False
    rs_lora: bool = False
    use_tucker: bool = False
    use_scalar: bool = False
    factor: int = -1
    decompose_both: bool = False
    full_matrix: bool = False
    unit: int = 4
    constraint: float = 0.0

    def __post_init__(self) -> None:
        for name, rank in (("network_dim", self.rank), ("conv_dim", self.conv_rank)):
            if rank is not None and rank < 1:
                raise StudioError("not allowed", field=name, came=rank, allowed="a whole number, at least 1")
        for name, alpha in (("network_alpha", self.alpha), ("conv_alpha", self.conv_alpha)):
            if alpha is not None and alpha < 0:
                raise StudioError("not allowed", field=name, came=alpha, allowed="a number, at least 0")
        for name in ("dropout", "rank_dropout", "module_dropout"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                name = "network_dropout" if name == "dropout" else name
                raise StudioError("not allowed", field=name, came=share, allowed="a number from 0 to below 1")

    def rank_of(self, target: Target) -> tuple[int, float] | None:
        """The rank of a layer and its alpha, None where it gets none."""
        own = self._block_rank(target)
        rank, alpha = (own.conv_rank, own.conv_alpha) if target.is_spatial else (own.rank, own.alpha)
        if not rank:
            return None
        alpha = float(alpha) or float(rank)
        return rank, alpha * math.sqrt(rank) if self.rs_lora else alpha

    def leaves_out_block(self, target: Target) -> bool:
        """Whether no layer of the target's block has a rank."""
        own = self._block_rank(target)
        return not own.rank and not own.conv_rank

    def _block_rank(self, target: Target) -> BlockRank:
        own = BlockRank(
            self.rank, self.alpha, self.conv_rank, self.alpha if self.conv_alpha is None else self.conv_alpha
        )
        if target.part != UNET or not self.block_ranks:
            return own
        part = f"{MIDDLE}.{middle_place(target.module_name)}"
        return self.block_ranks.get(part) or self.block_ranks.get(block_of(target.module_name) or "", own)


@dataclass
class NetworkState:
    """What changes while a network is used; its adapters look here at every forward.

    ``step`` and ``samples``, the pictures of the batch, own the dropout draws: a forward that is repeated under the
    same numbers, as gradient checkpointing does, draws the same, and so does a picture in another batch. Without
    ``samples`` the batch's rows count as pictures.
    """

    seed: int = 0
    step: int = 0
    samples: tuple[int, ...] = ()
    multiplier: float = 1.0
    strengths: dict[str, float] = field(default_factory=lambda: {UNET: 1.0, TEXT_ENCODER: 1.0})

    def strength(self, part: str) -> float:
        return self.multiplier * self.strengths[part]

    def repeat(self) -> AbstractContextManager[None]:
        """A context in which this state is once more what it is now, for a forward that is repeated later."""
        return self._as(replace(self, strengths=dict(self.strengths)))

    @contextmanager
    def _as(self, past: NetworkState) -> Iterator[None]:
        now = dict(vars(self))
        vars(self).update(vars(past))
        try:
            yield
        finally:
            vars(self).update(now)


@dataclass(frozen=True)
class Target:
    """A frozen layer to adapt: its names in files and in the model, its part ("unet" or "text_encoder")."""

    key: str
    module_name: str
    part: str
    layer: nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm

    @property
    def is_norm(self) -> bool:
        return isinstance(self.layer, (nn.LayerNorm, nn.GroupNorm))

    @property
    def is_conv(self) -> bool:
        return isinstance(self.layer, nn.Conv2d)

    @property
    def kernel(self) -> tuple[int, ...]:
        """(kh, kw) of a convolution, () of a linear layer."""
        return tuple(self.layer.kernel_size) if self.is_conv else ()

    @property
    def is_spatial(self) -> bool:
        """A convolution that looks at neighbours, 3x3 in Stable Diffusion."""
        return self.kernel not in ((), (1, 1))

    @property
    def positions(self) -> int:
        """kh * kw."""
        return math.prod(self.kernel)

    @property
    def in_size(self) -> int:
        return self.layer.in_channels if self.is_conv else self.layer.in_features

    @property
    def out_size(self) -> int:
        return self.layer.out_channels if self.is_conv else self.layer.out_features
