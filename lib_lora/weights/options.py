"""The options of the tools. Light: forms and flags are made of them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import REQUIRED, option

INPUT, BLOCKS, RANK, OUTPUT = "Input", "Blocks", "Rank", "Output"
PRECISIONS = ("fp16", "bf16", "float")
LORA_ENDINGS = (".safetensors", ".pt", ".ckpt")  # where the WebUI looks for LoRAs

# What several tools ask for, in the same words.
_LORA = {"default": REQUIRED, "group": INPUT, "folder": "outputs"}
_BASE = {
    "default": None,
    "help": "checkpoint that IA3, OFT, BOFT, GLoRA and DoRA are computed on; others need none",
    "group": INPUT,
    "folder": "models",
}
_READING = {
    "default": "webui",
    "help": "DoRA by output rows, alpha of older GLoRA and PEFT names: as WebUI 1.10.1 applies them, or as trained",
    "choices": ("webui", "trained"),
    "group": INPUT,
    "level": "advanced",
}
_SIZE_MB = {
    "default": None,
    "help": "size of the result; ranks go to the layers where they lower the error most",
    "unit": "MB",
    "label": "Size",
    "above": 0,
    "group": RANK,
}
_OUTPUT = {"default": REQUIRED, "help": "file to write (.safetensors)", "group": OUTPUT}
_OVERWRITE = {"default": False, "group": OUTPUT}
_PRECISION = {
    "default": None,
    "help": "number format of the result; none: the input's",
    "label": "Precision",
    "choices": PRECISIONS,
    "group": OUTPUT,
}


@dataclass(frozen=True)
class ResizeConfig:
    """``resize``: a LoRA with smaller ranks."""

    model: Path = option(help="LoRA file to resize", label="LoRA", **_LORA)
    reading: str = option(**_READING)
    output: Path = option(folder="outputs", **_OUTPUT)
    overwrite: bool = option(help="replace a file of this name", **_OVERWRITE)
    new_rank: int | None = option(
        None, "rank of the result; with dynamic_method or size_mb the largest rank", minimum=1, group=RANK, label="Rank"
    )
    new_conv_rank: int | None = option(
        None, "the same for 3x3 convolutions; none: new_rank", minimum=1, group=RANK, label="Conv rank"
    )
    dynamic_method: str | None = option(
        None,
        "choose each layer's rank by its singular values: their ratio, their sum, the root of the sum of squares",
        choices=("sv_ratio", "sv_cumulative", "sv_fro"),
        group=RANK,
        label="Rank by",
    )
    dynamic_param: float | None = option(
        None,
        "what dynamic_method aims at: a ratio such as 10, a share such as 0.9",
        minimum=0,
        group=RANK,
        label="Value",
    )
    size_mb: float | None = option(**_SIZE_MB)
    save_precision: str | None = option(**_PRECISION)


@dataclass(frozen=True)
class ExtractConfig:
    """``extract``: the difference of two checkpoints as a LoRA."""

    model_org: Path = option(
        REQUIRED, "checkpoint that the LoRA is to be used on", group=INPUT, label="Original", folder="models"
    )
    model_tuned: Path = option(
        REQUIRED, "checkpoint that the original is to become", group=INPUT, label="Tuned", folder="models"
    )
    output: Path = option(folder="outputs", **_OUTPUT)
    overwrite: bool = option(help="replace a file of this name", **_OVERWRITE)
    unet: bool = option(True, "the UNet's layers", group=INPUT, label="UNet")
    text_encoder: bool = option(True, "the text encoders' layers", group=INPUT)
    min_diff: float = option(
        0.0, "leave out layers whose weights all differ by less than this", minimum=0, group=INPUT, level="advanced"
    )
    network_type: str = option(
        "LoRA", "type of the result; LoKr: one Kronecker product per layer", choices=("LoRA", "LoKr"), group=RANK
    )
    mode: str = option(
        "fixed",
        "choose ranks: all the same, S > mode_param, S > mode_param * S_1, the sum of S below a share, the root of the"
        " sum of squares at least a share",
        choices=("fixed", "threshold", "ratio", "quantile", "sv_fro"),
        group=RANK,
        label="Rank by",
    )
    mode_param: float | None = option(
        None,
        "what mode aims at: a singular value, or a share such as 0.9",
        minimum=0,
        group=RANK,
        label="Value",
    )
    dim: int | None = option(
        None,
        "rank; with another mode the largest rank (none: no limit), with size_mb the largest rank (none: 128)",
        minimum=1,
        group=RANK,
        label="Rank",
    )
    conv_dim: int | None = option(
        None,
        "the same for 3x3 convolutions, and residual blocks and samplers are extracted, too; none: transformers alone",
        minimum=1,
        group=RANK,
        label="Conv rank",
    )
    size_mb: float | None = option(**_SIZE_MB)
    exact: bool = option(
        False, "the best approximation to the last digit; without, within 1 % of it and faster", group=RANK
    )
    lokr_factor: int = option(8, "LoKr: the largest side of the small matrix", minimum=2, group=RANK, level="advanced")
    full: bool = option(
        True, "keep a layer's difference whole where its ranks would take as much room", group=RANK, level="advanced"
    )
    norms: bool = option(False, "the norms' differences, too", group=RANK, level="advanced")
    biases: bool = option(
        False,
        "the biases' differences, too; the WebUI applies them only beside a whole difference, so their layers are kept"
        " whole",
        group=RANK,
        level="advanced",
    )
    clamp_quantile: float | None = option(
        None,
        "cut the factors' largest values off at this quantile, as sd-scripts does at 0.99; it weakens the LoRA",
        above=0,
        maximum=1,
        group=RANK,
        level="advanced",
    )
    save_precision: str = option(
        "fp16", "number format of the result", choices=PRECISIONS, group=OUTPUT, label="Precision"
    )


@dataclass(frozen=True)
class ConvertConfig:
    """``convert``: other names, another network type, another precision."""

    model: Path = option(
        help="LoRA file to convert, in kohya's, LDM's, diffusers' or PEFT's names", label="LoRA", **_LORA
    )
    output: Path = option(folder="outputs", **_OUTPUT)
    overwrite: bool = option(help="replace a file of this name", **_OVERWRITE)
    names: str = option(
        "kohya",
        "names in the result: sd-scripts' own, which every WebUI takes, diffusers', or LDM's for the UNet",
        choices=("kohya", "diffusers", "ldm"),
        group=OUTPUT,
    )
    network_type: str | None = option(
        None, "LoRA: make plain LoRA of every type; none: leave types as they are", choices=("LoRA",), group=OUTPUT
    )
    save_precision: str | None = option(**_PRECISION)
    base: Path | None = option(**_BASE)
    reading: str = option(**_READING)
    dim: int | None = option(
        None,
        "largest rank of what becomes LoRA; none: exact where the type has a low rank",
        minimum=1,
        group=RANK,
        label="Rank",
    )
    conv_dim: int | None = option(
        None, "the same for 3x3 convolutions; none: dim", minimum=1, group=RANK, label="Conv rank"
    )
    max_loss: float | None = option(
        None,
        "share of a layer's change that may be lost, for the smallest rank that holds it",
        minimum=0,
        maximum=1,
        group=RANK,
    )
    exact: bool = option(
        False, "the best approximation to the last digit; without, within 1 % of it and faster", group=RANK
    )
    first_ranks: int | None = option(
        None, "keep the first ranks alone, which a DyLoRA is trained for", minimum=1, group=RANK, level="advanced"
    )


@dataclass(frozen=True)
class InspectConfig:
    """``inspect``: what a LoRA file is, and edits of its metadata."""

    model: Path = option(help="LoRA file to look at", label="LoRA", **_LORA)
    base: Path | None = option(**_BASE)
    picture: Path | None = option(
        None, "file for a bar chart of the blocks' norms (.png)", group=OUTPUT, folder="outputs"
    )
    overwrite: bool = option(help="replace a picture of this name", **_OVERWRITE)
    set: tuple[str, ...] = option(
        (), "metadata to write into the file: modelspec.title=My LoRA, modelspec.trigger_phrase=zorb", group="Metadata"
    )
    remove: tuple[str, ...] = option((), "metadata to take out of the file, by name", group="Metadata")
    thumbnail: Path | None = option(
        None, "picture that becomes the file's modelspec.thumbnail", group="Metadata", folder="datasets"
    )


@dataclass(frozen=True)
class CompareConfig:
    """``compare``: how alike two LoRAs are, block by block."""

    first: Path = option(help="LoRA file", **_LORA, label="First LoRA")
    second: Path = option(help="LoRA file to compare it with", **_LORA, label="Second LoRA")
    base: Path | None = option(**_BASE)
    directions: int = option(
        8, "of each layer's change, how many of the strongest directions are compared", minimum=1, group=INPUT
    )
    picture: Path | None = option(
        None, "file for a bar chart of cosine and overlap per block (.png)", group=OUTPUT, folder="outputs"
    )
    overwrite: bool = option(help="replace a picture of this name", **_OVERWRITE)


_PRESETS = {
    "default": None,
    "help": "file of more block weights, one NAME:1,0,0.5,... a line",
    "group": INPUT,
    "level": "advanced",
}
_ELEMENTS = {
    "default": None,
    "help": "file of more elemental filters, NAME:blocks:elements:weight each",
    "group": INPUT,
    "level": "advanced",
}


@dataclass(frozen=True)
class RecipeConfig:
    """Which LoRAs, how strongly."""

    prompt: str | None = option(
        None, "LoRAs as a prompt has them: <lora:a:0.7> <lora:b:1:0.5:lbw=OUTD>", group=INPUT, label="Prompt"
    )
    lora_dir: Path | None = option(
        None, "folder in which the prompt's names are looked for", group=INPUT, folder="outputs"
    )
    models: tuple[str, ...] = option((), "LoRA files, in place of a prompt", group=INPUT, folder="outputs")
    ratios: tuple[float, ...] = option((), "strength of each of models; none: 1 each", group=INPUT)
    presets: Path | None = option(**_PRESETS)
    elements: Path | None = option(**_ELEMENTS)
    reading: str = option(**_READING)


@dataclass(frozen=True)
class MergeConfig(RecipeConfig):
    """``merge``: several LoRAs as one."""

    output: Path = option(folder="outputs", **_OUTPUT)
    overwrite: bool = option(help="replace a file of this name", **_OVERWRITE)
    save_precision: str | None = option(**_PRECISION)
    base: Path | None = option(**_BASE)
    mode: str = option(
        "sum",
        "sum: what the prompt does; average: the same by shares; ties and dare: fewer conflicts between LoRAs",
        choices=("sum", "average", "ties", "dare", "dare_ties"),
        group="Merge",
    )
    density: float = option(
        0.5, "ties and dare: share of the values that is kept", above=0, maximum=1, group="Merge", level="advanced"
    )
    seed: int = option(0, "dare: seed of what is dropped", minimum=0, group="Merge", level="advanced")
    new_rank: int | None = option(
        None, "largest rank of the result; none: exact, without loss", minimum=1, group=RANK, label="Rank"
    )
    new_conv_rank: int | None = option(
        None, "the same for 3x3 convolutions; none: new_rank", minimum=1, group=RANK, label="Conv rank"
    )
    size_mb: float | None = option(**_SIZE_MB)
    exact: bool = option(
        False, "find the best approximation of full differences to the last digit, slowly", group=RANK, level="advanced"
    )
    only_lora: bool = option(
        False, "write no whole difference where it would be smaller than low ranks", group=OUTPUT, level="advanced"
    )


@dataclass(frozen=True)
class BakeConfig(RecipeConfig):
    """``bake``: LoRAs written into a checkpoint."""

    checkpoint: Path = option(REQUIRED, "checkpoint that the LoRAs go into, one file", group=INPUT, folder="models")
    output: Path = option(folder="models", **_OUTPUT)
    overwrite: bool = option(help="replace a file of this name", **_OVERWRITE)
    save_precision: str | None = option(
        None,
        "number format of the result; none: each tensor keeps its own; fp8 holds the layers' weights, fp16 the rest",
        choices=(*PRECISIONS, "fp8_e4m3", "fp8_e5m2"),
        group=OUTPUT,
        label="Precision",
    )
    vae: Path | None = option(
        None, "VAE that replaces the checkpoint's own: a file or folder of any format", group=INPUT, folder="models"
    )
    skip_unknown: bool = option(
        False, "leave out layers of the LoRAs that the checkpoint does not have", group=INPUT, level="advanced"
    )


@dataclass(frozen=True)
class ApplyBlocksConfig:
    """``blocks apply``: a LoRA with block weights as a file of its own."""

    model: Path = option(help="LoRA file to weigh", label="LoRA", **_LORA)
    output: Path = option(folder="outputs", **_OUTPUT)
    overwrite: bool = option(help="replace a file of this name", **_OVERWRITE)
    lbw: str = option(
        "",
        "block weights as in a prompt: a preset's name such as OUTD, or a list 1,0,0.5,...",
        label="Block weights",
        group=BLOCKS,
    )
    x: float = option(1.0, "what X in the block weights stands for", label="X", group=BLOCKS)
    lbwe: str = option(
        "", "elemental filter by name, as in a prompt; empty: none", level="advanced", label="Filter", group=BLOCKS
    )
    base: Path | None = option(
        None, "checkpoint that DoRA and BOFT are weighed on; others need none", group=INPUT, folder="models"
    )
    presets: Path | None = option(**_PRESETS)
    elements: Path | None = option(**_ELEMENTS)
    save_precision: str | None = option(**_PRECISION)


@dataclass(frozen=True)
class VerifyConfig:
    """``verify``: what is wrong with a LoRA file."""

    model: Path = option(help="LoRA file to look at", label="LoRA", **_LORA)
    base: Path | None = option(
        None, "checkpoint that it is for; its layers' names and shapes are compared, too", group=INPUT, folder="models"
    )
