"""Every option of a training run, defined once. Names follow sd-scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.options import REQUIRED, option

MODEL, DATA, NETWORK, LEARNING = "Model", "Dataset", "Network", "Learning"
LOSS, OUTPUT, SAMPLES, MACHINE = "Loss and noise", "Output", "Samples", "Machine"


@dataclass(frozen=True)
class TrainConfig:
    """The options of ``train`` and ``plan``."""

    pretrained_model_name_or_path: Path = option(REQUIRED, "checkpoint to train on (.safetensors)", group=MODEL)
    vae: Path | None = option(None, "VAE file that replaces the checkpoint's own", group=MODEL)
    clip_skip: int = option(1, "text encoder layer to take, counted from the end", minimum=1, maximum=12, group=MODEL)

    train_data_dir: Path = option(REQUIRED, "folder of pictures, or of <repeats>_<name> folders", group=DATA)
    reg_data_dir: Path | None = option(None, "folder of regularisation pictures, same layout", group=DATA)
    caption_extension: str = option(
        ".txt", "extension of the caption files that is preferred", choices=(".txt", ".caption"), group=DATA
    )
    resolution: str = option("512", "training resolution, one number or WIDTHxHEIGHT", unit="px", group=DATA)
    enable_bucket: bool = option(True, "keep each picture's shape by sorting pictures into buckets", group=DATA)
    min_bucket_reso: int = option(256, "smallest side of a bucket", unit="px", minimum=64, level="advanced", group=DATA)
    max_bucket_reso: int = option(1024, "largest side of a bucket", unit="px", minimum=64, level="advanced", group=DATA)
    bucket_reso_steps: int = option(
        64,
        "bucket sides are multiples of this, itself a multiple of 8",
        unit="px",
        minimum=8,
        level="advanced",
        group=DATA,
    )
    bucket_no_upscale: bool = option(False, "never enlarge a picture to fill its bucket", level="advanced", group=DATA)
    max_token_length: int = option(
        75, "longest caption, 75, 150 or 225", unit="tokens", minimum=75, maximum=225, level="advanced", group=DATA
    )

    network_type: str = option("LoRA", "kind of network", group=NETWORK)
    network_dim: int = option(16, "rank: how much the LoRA can hold, and its file size", minimum=1, group=NETWORK)
    network_alpha: float = option(
        8.0, "the LoRA is scaled by alpha / rank; 0 means alpha = rank", minimum=0, group=NETWORK
    )
    conv_dim: int | None = option(
        None, "rank of 3x3 convolutions (LoCon); none leaves them out", minimum=1, group=NETWORK
    )
    conv_alpha: float | None = option(
        None, "alpha of 3x3 convolutions; none takes network_alpha, 0 means alpha = rank", minimum=0, group=NETWORK
    )
    network_dropout: float = option(
        0.0,
        "share of the rank's activations dropped at each step",
        minimum=0,
        maximum=0.99,
        level="advanced",
        group=NETWORK,
    )
    rank_dropout: float = option(
        0.0, "share of ranks dropped at each step", minimum=0, maximum=0.99, level="advanced", group=NETWORK
    )
    module_dropout: float = option(
        0.0,
        "share of layers whose LoRA is left out at each step",
        minimum=0,
        maximum=0.99,
        level="advanced",
        group=NETWORK,
    )
    network_targets: str = option(
        "all",
        "layers to train: all, attention, cross-attention, self-attention or a regular expression on names",
        level="advanced",
        group=NETWORK,
    )
    network_train_unet_only: bool = option(False, "leave the text encoder as it is", group=NETWORK)
    network_train_text_encoder_only: bool = option(False, "leave the UNet as it is", level="advanced", group=NETWORK)

    learning_rate: float | None = option(
        None, "learning rate of UNet and text encoder; none takes the optimizer's own advice", minimum=0, group=LEARNING
    )
    unet_lr: float | None = option(
        None,
        "learning rate of the UNet; none takes learning_rate, 0 leaves the UNet as it is",
        minimum=0,
        group=LEARNING,
    )
    text_encoder_lr: float | None = option(
        None,
        "learning rate of the text encoder; none takes learning_rate, 0 leaves it as it is",
        minimum=0,
        group=LEARNING,
    )
    optimizer_type: str = option("AdamW", "optimizer", group=LEARNING)
    optimizer_args: tuple[str, ...] = option(
        (), "further arguments of the optimizer, as name=value", level="advanced", group=LEARNING
    )
    lr_scheduler: str | None = option(
        None, "how the learning rate changes over the run; none takes what suits the optimizer", group=LEARNING
    )
    lr_warmup_steps: float = option(
        0.0, "steps in which the learning rate rises; below 1 a share of the run", minimum=0, group=LEARNING
    )
    lr_scheduler_num_cycles: int = option(
        1, "restarts of cosine_with_restarts", minimum=1, level="advanced", group=LEARNING
    )
    lr_scheduler_power: float = option(1.0, "power of polynomial", above=0, level="advanced", group=LEARNING)
    train_batch_size: int = option(1, "pictures per step", minimum=1, group=LEARNING)
    gradient_accumulation_steps: int = option(
        1, "batches gathered for one step", minimum=1, level="advanced", group=LEARNING
    )
    max_train_epochs: int | None = option(None, "length of the run in epochs", minimum=1, group=LEARNING)
    max_train_steps: int | None = option(
        None, "length of the run in steps; 1600 when neither is given", minimum=1, group=LEARNING
    )
    max_grad_norm: float = option(
        1.0, "longest gradient; 0 switches clipping off", minimum=0, level="advanced", group=LEARNING
    )
    seed: int = option(42, "the same seed gives the same LoRA", minimum=0, group=LEARNING)

    min_snr_gamma: float | None = option(
        None, "less weight on steps with little noise (arXiv 2303.09556); 5 is usual", above=0, group=LOSS
    )
    noise_offset: float = option(
        0.0, "lets pictures become darker and brighter; 0.05 to 0.1 is usual", minimum=0, maximum=1, group=LOSS
    )
    adaptive_noise_scale: float = option(
        0.0, "adds this times the latent's mean to noise_offset", level="advanced", group=LOSS
    )
    prior_loss_weight: float = option(1.0, "weight of regularisation pictures", minimum=0, level="advanced", group=LOSS)
    min_timestep: int = option(0, "smallest timestep trained", minimum=0, maximum=999, level="advanced", group=LOSS)
    max_timestep: int = option(
        1000, "timesteps trained lie below this", minimum=1, maximum=1000, level="advanced", group=LOSS
    )

    output_dir: Path = option(Path("models/Lora"), "folder for the LoRA", group=OUTPUT)
    output_name: str = option(REQUIRED, "name of the LoRA, without extension", group=OUTPUT)
    overwrite: bool = option(False, "replace a LoRA of this name that exists", group=OUTPUT)
    save_precision: str = option("fp16", "number format of the file", choices=("fp16", "bf16", "float"), group=OUTPUT)
    save_every_n_epochs: int | None = option(None, "also save after every n epochs", minimum=1, group=OUTPUT)
    save_every_n_steps: int | None = option(None, "also save after every n steps", minimum=1, group=OUTPUT)
    logging_dir: Path | None = option(
        None, "folder for the loss log; none takes <output_dir>/<output_name>-log", level="advanced", group=OUTPUT
    )
    training_comment: str = option("", "a note written into the file", level="advanced", group=OUTPUT)

    sample_prompts: Path | None = option(
        None,
        "text file, one prompt a line; --n negative --d seed --s steps --l scale --w width --h height may follow",
        group=SAMPLES,
    )
    sample_every_n_epochs: int | None = option(None, "make samples after every n epochs", minimum=1, group=SAMPLES)
    sample_every_n_steps: int | None = option(None, "make samples after every n steps", minimum=1, group=SAMPLES)
    sample_at_first: bool = option(False, "make samples before the first step too", group=SAMPLES)
    sample_sampler: str = option("Euler a", "sampler of the samples", group=SAMPLES)

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", level="advanced", group=MACHINE)
    mixed_precision: str = option(
        "no", "number format of the computation", choices=("no", "bf16"), level="advanced", group=MACHINE
    )
    vae_batch_size: int = option(1, "pictures encoded at once", minimum=1, level="advanced", group=MACHINE)


def check(config: TrainConfig) -> None:
    """What single options cannot know of one another.

    Raises:
        StudioError: naming the option at fault.
    """
    if config.network_train_unet_only and config.network_train_text_encoder_only:
        raise StudioError(
            "excludes network_train_unet_only",
            field="network_train_text_encoder_only",
            came=True,
            allowed="one of the two",
        )
    if not any(trained_parts(config)):
        raise StudioError("leaves nothing to train", field="unet_lr", came=config.unet_lr, allowed="a rate above 0")
    if config.max_train_epochs and config.max_train_steps:
        raise StudioError(
            "both lengths are given",
            field="max_train_steps",
            came=config.max_train_steps,
            allowed="max_train_steps or max_train_epochs, not both",
        )
    if config.min_timestep >= config.max_timestep:
        raise StudioError(
            "leaves no timestep", field="min_timestep", came=config.min_timestep, allowed=f"below {config.max_timestep}"
        )
    if config.max_token_length not in (75, 150, 225):
        raise StudioError("not allowed", field="max_token_length", came=config.max_token_length, allowed=(75, 150, 225))
    if config.bucket_reso_steps % 8:
        raise StudioError(
            "not allowed", field="bucket_reso_steps", came=config.bucket_reso_steps, allowed="multiples of 8"
        )
    if config.min_bucket_reso > config.max_bucket_reso:
        raise StudioError(
            "above max_bucket_reso",
            field="min_bucket_reso",
            came=config.min_bucket_reso,
            allowed=f"at most {config.max_bucket_reso}",
        )
    wants_samples = config.sample_every_n_epochs or config.sample_every_n_steps or config.sample_at_first
    if wants_samples and config.sample_prompts is None:
        raise StudioError("must be given when samples are asked for", field="sample_prompts", allowed="a text file")


def trained_parts(config: TrainConfig) -> tuple[bool, bool]:
    """Whether the UNet and whether the text encoder is trained."""
    unet = not config.network_train_text_encoder_only and config.unet_lr != 0
    text_encoder = not config.network_train_unet_only and config.text_encoder_lr != 0
    return unet, text_encoder


def alpha_warning(config: TrainConfig) -> str | None:
    """The guides' rule: an alpha above the rank burns."""
    for rank, alpha, name in (
        (config.network_dim, config.network_alpha, "network_alpha"),
        (config.conv_dim, config.conv_alpha, "conv_alpha"),
    ):
        if rank and alpha and alpha > rank:
            return (
                f"{name} {alpha:g} is above its rank {rank}: the LoRA is scaled up by {alpha / rank:g} and burns easily"
            )
    return None
