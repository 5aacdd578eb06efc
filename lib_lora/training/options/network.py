"""Options: what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import option

GROUP = "Network"


@dataclass(frozen=True)
class NetworkOptions:
    """The group "Network"."""

    network_type: str = option(
        "LoRA",
        "kind of network; docs/networks.md says what each is for",
        choices=("LoRA", "LoHa", "LoKr", "IA3", "DyLoRA", "GLoRA", "Diag-OFT", "BOFT", "Full"),
        group=GROUP,
    )
    network_dim: int = option(
        16,
        "rank: how much the LoRA can hold, and its file size; of Diag-OFT and BOFT the largest block",
        minimum=1,
        group=GROUP,
        label="Rank",
    )
    network_alpha: float = option(
        8.0, "the LoRA is scaled by alpha / rank; 0 means alpha = rank", minimum=0, group=GROUP, label="Alpha"
    )
    conv_dim: int | None = option(
        None,
        "rank of 3x3 convolutions (LoCon; for types without a rank any number); none leaves them out",
        minimum=1,
        group=GROUP,
        label="Convolution rank",
    )
    conv_alpha: float | None = option(
        None,
        "alpha of 3x3 convolutions; none takes network_alpha, 0 means alpha = rank",
        minimum=0,
        group=GROUP,
        label="Convolution alpha",
    )
    network_dropout: float = option(
        0.0,
        "share of the rank's activations dropped at each step",
        minimum=0,
        maximum=0.99,
        level="advanced",
        group=GROUP,
    )
    rank_dropout: float = option(
        0.0, "share of ranks dropped at each step", minimum=0, maximum=0.99, level="advanced", group=GROUP
    )
    module_dropout: float = option(
        0.0,
        "share of layers whose LoRA is left out at each step",
        minimum=0,
        maximum=0.99,
        level="advanced",
        group=GROUP,
    )
    network_targets: str = option(
        "all",
        "layers to train: all, attention, cross-attention, self-attention or a regular expression on names",
        level="advanced",
        group=GROUP,
        label="Layers",
    )
    block_dims: tuple[float, ...] = option(
        (),
        "ranks of the UNet's blocks IN00 to OUT11 (25; SDXL 19, or sd-scripts' 23), 0 leaves a block out",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Rank of each block",
    )
    block_alphas: tuple[float, ...] = option(
        (),
        "alphas beside block_dims; none takes network_alpha for all",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Alpha of each block",
    )
    conv_block_dims: tuple[float, ...] = option(
        (),
        "as block_dims, of 3x3 convolutions; none takes conv_dim for all",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Convolution rank of each block",
    )
    conv_block_alphas: tuple[float, ...] = option(
        (),
        "alphas beside conv_block_dims; none takes conv_alpha for all",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Convolution alpha of each block",
    )
    train_norm: bool = option(
        False,
        "train the UNet's normalisation layers too, of those that network_targets and block_dims choose",
        level="advanced",
        group=GROUP,
        label="Normalisation layers",
    )
    dora_wd: bool = option(
        False,
        "DoRA (arXiv 2402.09353): directions and magnitudes learn apart; with LoRA, LoHa and LoKr",
        level="advanced",
        group=GROUP,
        label="DoRA",
    )
    rs_lora: bool = option(
        False,
        "scale by alpha / sqrt(rank) in place of alpha / rank (arXiv 2312.03732)",
        level="advanced",
        group=GROUP,
        label="Rank-stabilised scale",
    )
    use_tucker: bool = option(
        False,
        "smaller 3x3 convolutions of LoRA, LoHa and LoKr: a core between two 1x1 ones",
        level="advanced",
        group=GROUP,
        label="Tucker decomposition",
    )
    use_scalar: bool = option(
        False,
        "each layer learns one more factor, which starts at 0 in place of a matrix",
        level="advanced",
        group=GROUP,
        label="Learnt factor",
    )
    factor: int = option(
        -1,
        "LoKr: size of the smaller matrix, the larger the number the smaller the file; -1 is the smallest file",
        minimum=-1,
        level="advanced",
        group=GROUP,
        label="LoKr factor",
    )
    decompose_both: bool = option(
        False, "LoKr: the smaller matrix is of low rank too", level="advanced", group=GROUP, label="LoKr, both of rank"
    )
    full_matrix: bool = option(
        False, "LoKr: neither matrix is of low rank", level="advanced", group=GROUP, label="LoKr, whole matrices"
    )
    unit: int = option(
        4, "DyLoRA: ranks that are trained together", minimum=1, level="advanced", group=GROUP, label="DyLoRA unit"
    )
    constraint: float = option(
        0.0,
        "Diag-OFT and BOFT: the longest turn, as a share of a layer's outputs; 0 is no limit",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="OFT constraint",
    )
    network_weights: Path | None = option(
        None,
        "LoRA file to train on from: its layers and its type must be those of these options",
        level="advanced",
        group=GROUP,
        label="Train on from a LoRA",
        folder="outputs",
    )
    dim_from_weights: bool = option(
        False,
        "layers, types, ranks and alphas are those of network_weights",
        level="advanced",
        group=GROUP,
        label="Ranks from that LoRA",
    )
    base_weights: tuple[str, ...] = option(
        (),
        "LoRA files that are merged into the checkpoint before training",
        level="advanced",
        group=GROUP,
        label="LoRAs merged first",
        way="child",
    )
    base_weights_multiplier: tuple[float, ...] = option(
        (),
        "strengths of base_weights, one for each; 1 where none is given",
        level="advanced",
        group=GROUP,
        label="Strengths of LoRAs merged first",
    )
    network_train_unet_only: bool = option(False, "leave the text encoder as it is", group=GROUP, label="UNet only")
    network_train_text_encoder_only: bool = option(
        False, "leave the UNet as it is", level="advanced", group=GROUP, label="Text encoder only"
    )
