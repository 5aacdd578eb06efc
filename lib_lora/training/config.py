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

    pretrained_model_name_or_path: Path = option(
        REQUIRED,
        "checkpoint to train on: .safetensors, .ckpt, .pt, or a folder in diffusers' layout",
        group=MODEL,
        label="Checkpoint",
        folder="models",
    )
    vae: Path | None = option(
        None,
        "VAE that replaces the checkpoint's own: .safetensors, .ckpt, .pt, .bin, or diffusers' folder",
        group=MODEL,
        label="VAE",
        folder="models",
    )
    clip_skip: int = option(
        1,
        "text encoder layer to take, counted from the end (SD1; the others have theirs)",
        minimum=1,
        maximum=12,
        group=MODEL,
        label="CLIP skip",
    )
    prediction_type: str = option(
        "auto",
        "what the UNet predicts; auto finds out",
        choices=("auto", "epsilon", "v_prediction"),
        level="advanced",
        group=MODEL,
    )
    zero_terminal_snr: str = option(
        "auto",
        "noise schedule that ends in noise alone (arXiv 2305.08891); auto finds out",
        choices=("auto", "on", "off"),
        level="advanced",
        group=MODEL,
        label="Zero terminal SNR",
    )

    train_data_dir: Path = option(
        REQUIRED, "folder of pictures, or of <repeats>_<name> folders", group=DATA, label="Pictures", folder="datasets"
    )
    reg_data_dir: Path | None = option(
        None,
        "folder of regularisation pictures, same layout",
        group=DATA,
        label="Regularisation pictures",
        folder="datasets",
    )
    caption_extension: str = option(
        ".txt",
        "extension of the caption files that is preferred",
        choices=(".txt", ".caption"),
        group=DATA,
        label="Caption files",
    )
    resolution: str = option("512", "training resolution, one number or WIDTHxHEIGHT", unit="px", group=DATA)
    enable_bucket: bool = option(
        True, "keep each picture's shape by sorting pictures into buckets", group=DATA, label="Buckets"
    )
    min_bucket_reso: int = option(
        256,
        "smallest side of a bucket",
        unit="px",
        minimum=64,
        level="advanced",
        group=DATA,
        label="Smallest bucket side",
    )
    max_bucket_reso: int = option(
        1024,
        "largest side of a bucket",
        unit="px",
        minimum=64,
        level="advanced",
        group=DATA,
        label="Largest bucket side",
    )
    bucket_reso_steps: int = option(
        64,
        "bucket sides are multiples of this, itself a multiple of 8",
        unit="px",
        minimum=8,
        level="advanced",
        group=DATA,
        label="Bucket side steps",
    )
    bucket_no_upscale: bool = option(
        False, "never enlarge a picture to fill its bucket", level="advanced", group=DATA, label="Never enlarge"
    )
    caption_separator: str = option(",", "what stands between two tags of a caption", level="advanced", group=DATA)
    shuffle_caption: bool = option(
        False, "show a caption's tags in another order each time", group=DATA, label="Shuffle tags"
    )
    keep_tokens: int = option(
        0,
        "how many first tags keep their place and are never dropped",
        unit="tags",
        minimum=0,
        group=DATA,
        label="Tags that stay first",
    )
    keep_tokens_separator: str = option(
        "",
        "where it stands in a caption, tags before it keep their place, and tags behind a second one, as ||| in "
        "zorb ||| red, dog ||| masterpiece",
        level="advanced",
        group=DATA,
        label="Separator of tags that stay",
    )
    caption_dropout_rate: float = option(
        0.0,
        "share of samples shown without a caption",
        minimum=0,
        maximum=1,
        level="advanced",
        group=DATA,
        label="Caption dropout",
    )
    caption_dropout_every_n_epochs: int = option(
        0,
        "every n-th epoch is shown without captions; 0 is never",
        minimum=0,
        level="advanced",
        group=DATA,
        label="Epochs without captions",
    )
    caption_tag_dropout_rate: float = option(
        0.0,
        "share of tags left out, anew each time",
        minimum=0,
        maximum=1,
        level="advanced",
        group=DATA,
        label="Tag dropout",
    )
    caption_prefix: str = option("", "text before every caption", level="advanced", group=DATA)
    caption_suffix: str = option("", "text behind every caption", level="advanced", group=DATA)
    flip_aug: bool = option(
        False, "show half of the pictures mirrored, drawn anew each time", group=DATA, label="Mirror pictures"
    )
    max_token_length: int = option(
        75,
        "longest caption, 75, 150 or 225",
        unit="tokens",
        minimum=75,
        maximum=225,
        level="advanced",
        group=DATA,
        label="Longest caption",
    )

    network_type: str = option("LoRA", "kind of network", group=NETWORK)
    network_dim: int = option(
        16, "rank: how much the LoRA can hold, and its file size", minimum=1, group=NETWORK, label="Rank"
    )
    network_alpha: float = option(
        8.0, "the LoRA is scaled by alpha / rank; 0 means alpha = rank", minimum=0, group=NETWORK, label="Alpha"
    )
    conv_dim: int | None = option(
        None,
        "rank of 3x3 convolutions (LoCon); none leaves them out",
        minimum=1,
        group=NETWORK,
        label="Convolution rank",
    )
    conv_alpha: float | None = option(
        None,
        "alpha of 3x3 convolutions; none takes network_alpha, 0 means alpha = rank",
        minimum=0,
        group=NETWORK,
        label="Convolution alpha",
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
        label="Layers",
    )
    network_train_unet_only: bool = option(False, "leave the text encoder as it is", group=NETWORK, label="UNet only")
    network_train_text_encoder_only: bool = option(
        False, "leave the UNet as it is", level="advanced", group=NETWORK, label="Text encoder only"
    )

    learning_rate: float | None = option(
        None, "learning rate of UNet and text encoder; none takes the optimizer's own advice", minimum=0, group=LEARNING
    )
    unet_lr: float | None = option(
        None,
        "learning rate of the UNet; none takes learning_rate, 0 leaves the UNet as it is",
        minimum=0,
        group=LEARNING,
    )
    text_encoder_lr: tuple[float, ...] | None = option(
        None,
        "learning rate of the text encoder, for SDXL also one for each; none takes learning_rate, 0 leaves it as it is",
        minimum=0,
        group=LEARNING,
    )
    down_lr_weight: tuple[str, ...] = option(
        (),
        "factors on the rate of the UNet's blocks IN00, IN01 and so on (12; SDXL 9), 0 leaves a block out; or cosine, "
        "sine, linear, reverse_linear or zeros, which +0.25 lifts",
        level="advanced",
        group=LEARNING,
        label="Rate factors, IN blocks",
    )
    mid_lr_weight: tuple[float, ...] = option(
        (),
        "factor on the rate of the UNet's middle block (SDXL also 3)",
        minimum=0,
        level="advanced",
        group=LEARNING,
        label="Rate factor, middle block",
    )
    up_lr_weight: tuple[str, ...] = option(
        (),
        "as down_lr_weight, of the blocks OUT00, OUT01 and so on",
        level="advanced",
        group=LEARNING,
        label="Rate factors, OUT blocks",
    )
    block_lr_zero_threshold: float = option(
        0.0,
        "factors of down_, mid_ and up_lr_weight up to this count as 0",
        minimum=0,
        level="advanced",
        group=LEARNING,
        label="Factors that count as 0",
    )
    block_lr_weight: tuple[float, ...] = option(
        (),
        "in place of those, factors on all blocks in the order of block weights: 26 or 17, for SDXL 20 or 12, the "
        "text encoders' first",
        minimum=0,
        level="advanced",
        group=LEARNING,
        label="Rate factors, all blocks",
    )
    optimizer_type: str = option("AdamW", "optimizer", group=LEARNING, label="Optimizer")
    optimizer_args: tuple[str, ...] = option(
        (),
        "further arguments of the optimizer, as name=value",
        level="advanced",
        group=LEARNING,
        label="Optimizer arguments",
    )
    lr_scheduler: str | None = option(
        None,
        "how the learning rate changes over the run; none takes what suits the optimizer",
        group=LEARNING,
        label="Schedule",
    )
    lr_warmup_steps: float = option(
        0.0,
        "steps in which the learning rate rises; below 1 a share of the run",
        minimum=0,
        group=LEARNING,
        label="Warm-up",
    )
    lr_scheduler_num_cycles: int = option(
        1, "restarts of cosine_with_restarts", minimum=1, level="advanced", group=LEARNING, label="Restarts"
    )
    lr_scheduler_power: float = option(
        1.0, "power of polynomial", above=0, level="advanced", group=LEARNING, label="Power of polynomial"
    )
    train_batch_size: int = option(1, "pictures per step", minimum=1, group=LEARNING, label="Batch size")
    gradient_accumulation_steps: int = option(
        1, "batches gathered for one step", minimum=1, level="advanced", group=LEARNING, label="Batches per step"
    )
    max_train_epochs: int | None = option(
        None, "length of the run in epochs", minimum=1, group=LEARNING, label="Epochs"
    )
    max_train_steps: int | None = option(
        None, "length of the run in steps; 1600 when neither is given", minimum=1, group=LEARNING, label="Steps"
    )
    max_grad_norm: float = option(
        1.0,
        "longest gradient; 0 switches clipping off",
        minimum=0,
        level="advanced",
        group=LEARNING,
        label="Gradient clipping",
    )
    seed: int = option(42, "the same seed gives the same LoRA", minimum=0, group=LEARNING)

    min_snr_gamma: float | None = option(
        None,
        "less weight on steps with little noise (arXiv 2303.09556); 5 is usual",
        above=0,
        group=LOSS,
        label="Min-SNR gamma",
    )
    noise_offset: float = option(
        0.0, "lets pictures become darker and brighter; 0.05 to 0.1 is usual", minimum=0, maximum=1, group=LOSS
    )
    adaptive_noise_scale: float = option(
        0.0, "adds this times the latent's mean to noise_offset", level="advanced", group=LOSS
    )
    prior_loss_weight: float = option(
        1.0,
        "weight of regularisation pictures",
        minimum=0,
        level="advanced",
        group=LOSS,
        label="Weight of regularisation",
    )
    min_timestep: int = option(
        0, "smallest timestep trained", minimum=0, maximum=999, level="advanced", group=LOSS, label="Smallest timestep"
    )
    max_timestep: int = option(
        1000,
        "timesteps trained lie below this",
        minimum=1,
        maximum=1000,
        level="advanced",
        group=LOSS,
        label="Timesteps below",
    )

    output_dir: Path = option(Path("models/Lora"), "folder for the LoRA", group=OUTPUT, folder="outputs")
    output_name: str = option(REQUIRED, "name of the LoRA, without extension", group=OUTPUT, label="Name")
    overwrite: bool = option(
        False, "replace a LoRA of this name that exists", group=OUTPUT, label="Replace a LoRA of this name"
    )
    save_precision: str = option("fp16", "number format of the file", choices=("fp16", "bf16", "float"), group=OUTPUT)
    save_every_n_epochs: int | None = option(
        None, "also save after every n epochs", minimum=1, group=OUTPUT, label="Save every n epochs"
    )
    save_every_n_steps: int | None = option(None, "also save after every n steps", minimum=1, group=OUTPUT)
    save_state: bool = option(
        False,
        "save the run's state at its end too, to train on later",
        level="advanced",
        group=OUTPUT,
        label="Save state at the end",
    )
    save_state_every_n_steps: int | None = option(
        None,
        "save the run's state after every n steps, to go on after a crash",
        minimum=1,
        group=OUTPUT,
        label="Save state every n steps",
    )
    keep_states: int = option(
        1, "how many of the last states are kept", minimum=1, level="advanced", group=OUTPUT, label="States kept"
    )
    resume: Path | None = option(
        None,
        "state to go on from: state_dir or a folder in it",
        level="advanced",
        group=OUTPUT,
        label="Go on from state",
        folder="outputs",
    )
    state_dir: Path | None = option(
        None,
        "folder for the run's states; none takes <output_dir>/<output_name>-state",
        level="advanced",
        group=OUTPUT,
        folder="outputs",
    )
    logging_dir: Path | None = option(
        None,
        "folder for the loss log; none takes <output_dir>/<output_name>-log",
        level="advanced",
        group=OUTPUT,
        folder="outputs",
    )
    training_comment: str = option("", "a note written into the file", level="advanced", group=OUTPUT, label="Comment")

    sample_prompts: Path | None = option(
        None,
        "text file, one prompt a line; --n negative --d seed --s steps --l scale --w width --h height may follow",
        group=SAMPLES,
        label="Prompts from a file",
        folder="datasets",
    )
    sample_every_n_epochs: int | None = option(None, "make samples after every n epochs", minimum=1, group=SAMPLES)
    sample_every_n_steps: int | None = option(None, "make samples after every n steps", minimum=1, group=SAMPLES)
    sample_at_first: bool = option(
        False, "make samples before the first step too", group=SAMPLES, label="Samples before the first step"
    )
    sample_sampler: str = option("Euler a", "sampler of the samples", group=SAMPLES, label="Sampler")

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", level="advanced", group=MACHINE)
    mixed_precision: str = option(
        "no", "number format of the computation", choices=("no", "fp16", "bf16"), level="advanced", group=MACHINE
    )
    gradient_checkpointing: bool = option(
        False, "much less memory, a quarter to a third more time: compute activations again", group=MACHINE
    )
    gradient_checkpointing_depth: int | None = option(
        None,
        "only so many of the UNet's levels, counted from the finest, are computed again; none takes all and the text "
        "encoders",
        minimum=1,
        level="advanced",
        group=MACHINE,
        label="Checkpointed levels",
    )
    attention: str = option(
        "sdpa", "kernels of the UNet's attention", choices=("sdpa", "xformers"), level="advanced", group=MACHINE
    )
    torch_compile: bool = option(
        False,
        "compile each layer first (CUDA only, not yet proven): slow to start",
        level="advanced",
        group=MACHINE,
        label="Compile",
        way="child",
    )
    vae_batch_size: int = option(
        1, "pictures encoded at once", minimum=1, level="advanced", group=MACHINE, label="Pictures encoded at once"
    )
    no_half_vae: bool = option(
        False,
        "encode pictures in single precision although mixed_precision is bf16 (with fp16 it always is)",
        level="advanced",
        group=MACHINE,
        label="VAE in single precision",
    )
    cache_latents: bool = option(
        True,
        "encode pictures once; otherwise anew at each step, with the VAE on the card",
        level="advanced",
        group=MACHINE,
        label="Encode pictures once",
    )
    cache_latents_to_disk: bool = option(
        False,
        "keep encoded pictures in cache_dir, for further runs and for less memory",
        group=MACHINE,
        label="Keep encoded pictures on disk",
    )
    cache_text_encoder_outputs: bool = option(
        True,
        "encode captions once, where no text encoder is trained and tags are neither shuffled nor dropped",
        level="advanced",
        group=MACHINE,
        label="Encode captions once",
    )
    cache_text_encoder_outputs_to_disk: bool = option(
        False,
        "keep encoded captions in cache_dir, for further runs and for less memory",
        level="advanced",
        group=MACHINE,
        label="Keep encoded captions on disk",
    )
    cache_dir: Path | None = option(
        None,
        "folder of what is kept on disk, for all runs; none takes .lora_studio_cache beside train_data_dir",
        level="advanced",
        group=MACHINE,
        folder="outputs",
    )


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
    _check_captions_and_caches(config)
    _check_block_weights(config)
    wants_samples = config.sample_every_n_epochs or config.sample_every_n_steps or config.sample_at_first
    if wants_samples and config.sample_prompts is None:
        raise StudioError("must be given when samples are asked for", field="sample_prompts", allowed="a text file")


def _check_block_weights(config: TrainConfig) -> None:
    lengths = (12, 17, 20, 26)
    if config.block_lr_weight and len(config.block_lr_weight) not in lengths:
        raise StudioError(
            "not a list of block weights",
            field="block_lr_weight",
            came=f"{len(config.block_lr_weight)} numbers",
            allowed=f"{', '.join(map(str, lengths))} numbers",
        )
    for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight"):
        if config.block_lr_weight and getattr(config, name):
            raise StudioError(
                "excludes block_lr_weight", field=name, came=getattr(config, name), allowed="one of the two"
            )
    if config.block_lr_zero_threshold and config.block_lr_weight:
        raise StudioError(
            "goes with down_, mid_ and up_lr_weight",
            field="block_lr_zero_threshold",
            came=config.block_lr_zero_threshold,
            allowed="0 with block_lr_weight, where a block is left out by 0",
        )


def _check_captions_and_caches(config: TrainConfig) -> None:
    if not config.caption_separator:
        raise StudioError("must not be empty", field="caption_separator", came="", allowed="a text, usually ,")
    for part in ("latents", "text_encoder_outputs"):
        if getattr(config, f"cache_{part}_to_disk") and not getattr(config, f"cache_{part}"):
            raise StudioError(
                f"excludes cache_{part} off", field=f"cache_{part}_to_disk", came=True, allowed=f"cache_{part} on"
            )
    if config.cache_text_encoder_outputs_to_disk and trained_parts(config)[1]:
        raise StudioError(
            "encoded captions cannot be kept while a text encoder is trained",
            field="cache_text_encoder_outputs_to_disk",
            came=True,
            allowed="network_train_unet_only, or text_encoder_lr 0",
        )


def trained_parts(config: TrainConfig) -> tuple[bool, bool]:
    """Whether the UNet and whether the text encoder is trained."""
    unet = not config.network_train_text_encoder_only and config.unet_lr != 0
    text_encoder = not config.network_train_unet_only and (
        config.text_encoder_lr is None or any(config.text_encoder_lr)
    )
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
