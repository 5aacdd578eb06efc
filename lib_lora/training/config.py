"""Every option of a training run, defined once. Names follow sd-scripts.

The options themselves are in ``options/``, one file for each group.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.training.network_checks import WITHOUT_ALPHA, check_network
from lib_lora.training.objective_checks import check_objective
from lib_lora.training.options.dataset import DatasetOptions
from lib_lora.training.options.learning import LearningOptions
from lib_lora.training.options.long_runs import LongRunOptions
from lib_lora.training.options.loss import LossOptions
from lib_lora.training.options.machine import MachineOptions
from lib_lora.training.options.model import ModelOptions
from lib_lora.training.options.network import NetworkOptions
from lib_lora.training.options.objective import ObjectiveOptions
from lib_lora.training.options.output import OutputOptions
from lib_lora.training.options.samples import SampleOptions


@dataclass(frozen=True)
class TrainConfig(
    MachineOptions,
    SampleOptions,
    OutputOptions,
    LongRunOptions,
    LossOptions,
    LearningOptions,
    NetworkOptions,
    DatasetOptions,
    ObjectiveOptions,
    ModelOptions,
):
    """The options of ``train`` and ``plan``; a dataclass has the fields of its last parent first."""


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
    if config.max_token_length % 75:
        raise StudioError(
            "not allowed", field="max_token_length", came=config.max_token_length, allowed="75, 150, 225 and so on"
        )
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
    if config.min_snr_gamma and config.debiased_estimation_loss:
        raise StudioError(
            "both weigh timesteps by their noise, against each other",
            field="debiased_estimation_loss",
            came=True,
            allowed="one of min_snr_gamma and debiased_estimation_loss",
        )
    check_objective(config)
    check_network(config)
    for file in map(Path, config.base_weights):
        if not file.is_file():
            raise StudioError("no such file", field="base_weights", file=file)
    if config.early_stop_patience and not config.validation_split:
        raise StudioError(
            "needs pictures that are held out",
            field="early_stop_patience",
            came=config.early_stop_patience,
            allowed="none, or a validation_split above 0",
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
    others = (config.caption_separator, config.keep_tokens_separator)
    if config.secondary_separator and config.secondary_separator in others:
        raise StudioError(
            "is another separator, too",
            field="secondary_separator",
            came=config.secondary_separator,
            allowed="a text that neither caption_separator nor keep_tokens_separator is",
        )
    for name in ("random_crop", "color_aug"):
        if getattr(config, name) and config.cache_latents:
            raise StudioError(
                "changes pictures at each step, which cached latents cannot do",
                field=name,
                came=True,
                allowed="cache_latents off (it takes several times as long), or off",
            )
    if config.token_warmup_min != 1 and not config.token_warmup_step:
        raise StudioError(
            "has a meaning only with token_warmup_step",
            field="token_warmup_min",
            came=config.token_warmup_min,
            allowed="1, or token_warmup_step above 0",
        )
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
    if config.network_type in WITHOUT_ALPHA:
        return None
    for rank, alpha, name in (
        (config.network_dim, config.network_alpha, "network_alpha"),
        (config.conv_dim, config.conv_alpha, "conv_alpha"),
    ):
        if rank and alpha and alpha > rank:
            return (
                f"{name} {alpha:g} is above its rank {rank}: the LoRA is scaled up by {alpha / rank:g} and burns easily"
            )
    return None
