"""Options: where and how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import option

GROUP = "Machine"


@dataclass(frozen=True)
class MachineOptions:
    """The group "Machine"."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", level="advanced", group=GROUP)
    mixed_precision: str = option(
        "no", "number format of the computation", choices=("no", "fp16", "bf16"), level="advanced", group=GROUP
    )
    gradient_checkpointing: bool = option(
        False, "much less memory, a quarter to a third more time: compute activations again", group=GROUP
    )
    gradient_checkpointing_depth: int | None = option(
        None,
        "only so many of the UNet's levels, counted from the finest, are computed again; none takes all and the text "
        "encoders",
        minimum=1,
        level="advanced",
        group=GROUP,
        label="Checkpointed levels",
    )
    attention: str = option(
        "sdpa", "kernels of the UNet's attention", choices=("sdpa", "xformers"), level="advanced", group=GROUP
    )
    torch_compile: bool = option(
        False,
        "compile each layer first (CUDA only, not yet proven): slow to start",
        level="advanced",
        group=GROUP,
        label="Compile",
        way="child",
    )
    vae_batch_size: int = option(
        1, "pictures encoded at once", minimum=1, level="advanced", group=GROUP, label="Pictures encoded at once"
    )
    no_half_vae: bool = option(
        False,
        "encode pictures in single precision although mixed_precision is bf16 (with fp16 it always is)",
        level="advanced",
        group=GROUP,
        label="VAE in single precision",
    )
    cache_latents: bool = option(
        True,
        "encode pictures once; otherwise anew at each step, with the VAE on the card",
        level="advanced",
        group=GROUP,
        label="Encode pictures once",
    )
    cache_latents_to_disk: bool = option(
        False,
        "keep encoded pictures in cache_dir, for further runs and for less memory",
        group=GROUP,
        label="Keep encoded pictures on disk",
    )
    cache_text_encoder_outputs: bool = option(
        True,
        "encode captions once, where no text encoder is trained and tags are neither shuffled nor dropped",
        level="advanced",
        group=GROUP,
        label="Encode captions once",
    )
    cache_text_encoder_outputs_to_disk: bool = option(
        False,
        "keep encoded captions in cache_dir, for further runs and for less memory",
        level="advanced",
        group=GROUP,
        label="Keep encoded captions on disk",
    )
    cache_dir: Path | None = option(
        None,
        "folder of what is kept on disk, for all runs; none takes .lora_studio_cache beside train_data_dir",
        level="advanced",
        group=GROUP,
        folder="outputs",
    )
