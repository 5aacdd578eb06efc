"""The options of ``merge``, ``bake`` and ``verify``. Light: forms and flags are made of them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import REQUIRED, option
from lib_lora.weights.options import INPUT, OUTPUT, PRECISIONS, RANK


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
    presets: Path | None = option(
        None, "file of more block weights, one NAME:1,0,0.5,... a line", group=INPUT, level="advanced"
    )
    reading: str = option(
        "webui",
        "DoRA by output rows, alpha of older GLoRA and of PEFT's names: as WebUI 1.10.1 applies them, or as trained",
        choices=("webui", "trained"),
        group=INPUT,
        level="advanced",
    )


@dataclass(frozen=True)
class MergeConfig(RecipeConfig):
    """``merge``: several LoRAs as one."""

    output: Path = option(REQUIRED, "file to write (.safetensors)", group=OUTPUT, folder="outputs")
    overwrite: bool = option(False, "replace a file of this name", group=OUTPUT)
    save_precision: str | None = option(
        None, "number format of the result; none: that of the LoRAs", choices=PRECISIONS, group=OUTPUT
    )
    base: Path | None = option(
        None,
        "checkpoint that IA3, OFT, BOFT, GLoRA and DoRA are computed on; others need none",
        group=INPUT,
        folder="models",
    )
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
    new_rank: int | None = option(None, "largest rank of the result; none: exact, without loss", minimum=1, group=RANK)
    new_conv_rank: int | None = option(None, "the same for 3x3 convolutions; none: new_rank", minimum=1, group=RANK)
    size_mb: float | None = option(
        None,
        "size of the result; ranks go to the layers where they lower the error most",
        unit="MB",
        above=0,
        group=RANK,
    )
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
    output: Path = option(REQUIRED, "file to write (.safetensors)", group=OUTPUT, folder="models")
    overwrite: bool = option(False, "replace a file of this name", group=OUTPUT)
    save_precision: str | None = option(
        None,
        "number format of the result; none: each tensor keeps its own; fp8 holds the layers' weights, fp16 the rest",
        choices=(*PRECISIONS, "fp8_e4m3", "fp8_e5m2"),
        group=OUTPUT,
    )
    vae: Path | None = option(
        None, "VAE that replaces the checkpoint's own: a file or folder of any format", group=INPUT, folder="models"
    )
    skip_unknown: bool = option(
        False, "leave out layers of the LoRAs that the checkpoint does not have", group=INPUT, level="advanced"
    )


@dataclass(frozen=True)
class VerifyConfig:
    """``verify``: what is wrong with a LoRA file."""

    model: Path = option(REQUIRED, "LoRA file to look at", group=INPUT, label="LoRA", folder="outputs")
    base: Path | None = option(
        None, "checkpoint that it is for; its layers' names and shapes are compared, too", group=INPUT, folder="models"
    )
