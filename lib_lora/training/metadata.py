"""The metadata of a LoRA file: sd-scripts' ``ss_*`` keys, which the WebUI and model sites read, and modelspec's."""

from __future__ import annotations

import datetime
import json
import time
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from lib_lora.adapters.network import Network
from lib_lora.arch.family import ARCHITECTURES, BASE_VERSIONS, MODELSPEC, Family
from lib_lora.base.events import Progress
from lib_lora.base.seeds import derive_seed
from lib_lora.dataset.plan import Plan, PlannedImage, parse_resolution
from lib_lora.files.file_hashes import HashAhead, sha256_steps
from lib_lora.files.lora_file import model_hash_legacy
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.network_metadata import network_metadata
from lib_lora.training.objective_checks import own_options
from lib_lora.training.parts import schedule_name
from lib_lora.training.rates import default_rate

_SD2_V = "stable-diffusion-v2-768-v"


def run_metadata(
    config: TrainConfig,
    plan: Plan,
    model: DiffusionModel,
    network: Network,
    rates: Mapping[str, Any],
    hashes: Mapping[str, str],
) -> dict[str, str]:
    """All that is known before the first step, as text values.

    Args:
        rates: the learning rate of each part that is trained ("unet", "text_encoder"); a list for two encoders.
        hashes: what ``model_hashes`` gave.
    """
    started = time.time()
    values: dict[str, Any] = {
        "ss_session_id": derive_seed(config.seed, "session", repr(started)) % 2**32,
        "ss_training_started_at": started,
        "ss_v2": model.family is Family.SD2,
        "ss_base_model_version": BASE_VERSIONS[model.family] + ("_v" if _is_sd2_v(model) else ""),
        "ss_learning_rate": default_rate(config),
        "ss_lr_scheduler": schedule_name(config),
        "ss_unet_lr": rates.get("unet"),
        "ss_text_encoder_lr": rates.get("text_encoder"),
        "ss_cache_latents": config.cache_latents,
        "ss_zero_terminal_snr": model.zero_terminal_snr,
        "ss_debiased_estimation": config.debiased_estimation_loss,
        **_own_options(config),
        **network_metadata(config, network),
        **_objective(config),
        **_dataset(config, plan),
        **_checkpoint(model),
        **hashes,
        **_modelspec(config, model),
    }
    return {key: _text(value) for key, value in values.items()}


def save_metadata(step: int, epoch: int) -> dict[str, str]:
    """What a save adds: where in the run it was made."""
    now = time.time()
    return {
        "ss_training_finished_at": str(now),
        "ss_steps": str(step),
        "ss_epoch": str(epoch),
        "modelspec.date": datetime.datetime.fromtimestamp(int(now), datetime.timezone.utc).isoformat(),
    }


def _own_options(config: TrainConfig) -> dict[str, Any]:
    """Options that the metadata hold under their own names."""
    names = (
        "output_name",
        "gradient_accumulation_steps",
        "max_train_steps",
        "lr_warmup_steps",
        "lr_scheduler_num_cycles",
        "lr_scheduler_power",
        "gradient_checkpointing",
        "network_targets",
        "network_dropout",
        "mixed_precision",
        "clip_skip",
        "max_token_length",
        "seed",
        "noise_offset",
        "noise_offset_random_strength",
        "adaptive_noise_scale",
        "multires_noise_iterations",
        "multires_noise_discount",
        "ip_noise_gamma",
        "ip_noise_gamma_random_strength",
        "loss_type",
        "huber_c",
        "huber_schedule",
        "huber_scale",
        "scale_v_pred_loss_like_noise_pred",
        "validation_split",
        "validation_seed",
        "validate_every_n_epochs",
        "validate_every_n_steps",
        "ema_decay",
        "v_pred_like_loss",
        "training_comment",
        "max_grad_norm",
        "scale_weight_norms",
        "prior_loss_weight",
        "min_snr_gamma",
        "min_timestep",
        "max_timestep",
        "bucket_reso_steps",
    )
    arguments = f"({','.join(config.optimizer_args)})" if config.optimizer_args else ""
    return {f"ss_{name}": getattr(config, name) for name in names} | {"ss_optimizer": config.optimizer_type + arguments}


def _objective(config: TrainConfig) -> dict[str, Any]:
    """How it was trained, and with what; ``ss_*`` keys of our own."""
    return {f"ss_{name}": getattr(config, name) for name in ("objective", *own_options(config.objective))}


def _dataset(config: TrainConfig, plan: Plan) -> dict[str, Any]:
    width, height = parse_resolution(config.resolution)
    training = [] if plan.noise else [image for image in plan.images if not image.record.regularisation]
    regularisation = [image for image in plan.images if image.record.regularisation]
    buckets = {
        str(index): {"resolution": list(resolution), "count": count}
        for index, (resolution, count) in enumerate(plan.buckets.items())
    }
    return {
        "ss_num_train_images": 0 if plan.noise else plan.train_samples,
        "ss_num_reg_images": plan.reg_samples,
        "ss_num_validation_images": plan.validation.train_samples if plan.validation else 0,
        "ss_num_batches_per_epoch": plan.batches_per_epoch,
        "ss_num_epochs": plan.epochs,
        "ss_max_train_steps": plan.total_steps,
        "ss_batch_size_per_device": config.train_batch_size,
        "ss_total_batch_size": config.train_batch_size * plan.processes * config.gradient_accumulation_steps,
        "ss_resolution": f"({width}, {height})",
        "ss_enable_bucket": config.enable_bucket,
        "ss_bucket_no_upscale": config.bucket_no_upscale,
        "ss_min_bucket_reso": config.min_bucket_reso,
        "ss_max_bucket_reso": config.max_bucket_reso,
        "ss_bucket_info": {"buckets": buckets},
        "ss_dataset_dirs": _folders(training),
        "ss_reg_dataset_dirs": _folders(regularisation),
        "ss_tag_frequency": _tag_frequency(training, config.caption_separator),
        **{f"ss_{name}": getattr(config, name) for name in _CAPTION_OPTIONS},
    }


_CAPTION_OPTIONS = (
    "shuffle_caption",
    "keep_tokens",
    "keep_tokens_separator",
    "caption_separator",
    "caption_prefix",
    "caption_suffix",
    "caption_dropout_rate",
    "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate",
    "secondary_separator",
    "enable_wildcard",
    "weighted_captions",
    "token_warmup_min",
    "token_warmup_step",
    "masked_loss",
    "alpha_mask",
    "flip_aug",
    "random_crop",
    "color_aug",
)


def _is_sd2_v(model: DiffusionModel) -> bool:
    return model.family is Family.SD2 and model.prediction_type == "v_prediction"


def _folders(images: list[PlannedImage]) -> dict[str, dict[str, int]]:
    folders: dict[str, dict[str, int]] = {}
    for image in images:
        folder = folders.setdefault(image.record.path.parent.name, {"n_repeats": image.record.repeats, "img_count": 0})
        folder["img_count"] += 1
    return folders


def _tag_frequency(images: list[PlannedImage], separator: str) -> dict[str, dict[str, int]]:
    """Per folder, in how many pictures (repeats not counted) a tag stands."""
    frequency: dict[str, Counter[str]] = {}
    for image in images:
        tags = [tag.strip() for tag in image.record.caption.split(separator) if tag.strip()]
        frequency.setdefault(image.record.path.parent.name, Counter()).update(tags)
    return {folder: dict(counts) for folder, counts in frequency.items()}


def model_hashes(
    model: DiffusionModel, store: Path, ahead: HashAhead | None = None
) -> Generator[Progress, None, dict[str, str]]:
    """The hashes by which the WebUI and model sites know the checkpoint and the VAE; a folder has none.

    Args:
        store: as ``files.file_hashes`` keeps it.
        ahead: a hash that is being worked out already, of the checkpoint say.
    """
    hashes: dict[str, str] = {}
    for name, path in (("sd_model", model.path), ("vae", model.vae_path)):
        if path is not None and path.is_file():
            hashes[f"ss_{name}_hash"] = model_hash_legacy(path)
            steps = ahead.steps() if ahead and ahead.path == path else sha256_steps(path, store)
            hashes[f"ss_new_{name}_hash"] = yield from _as_progress(f"hash of {path.name}", steps)
    return hashes


def _as_progress(what: str, steps: Generator[tuple[int, int], None, str]) -> Generator[Progress, None, str]:
    while True:
        try:
            yield Progress(what, *next(steps))
        except StopIteration as end:
            return end.value


def _checkpoint(model: DiffusionModel) -> dict[str, Any]:
    values: dict[str, Any] = {"ss_sd_model_name": model.path.resolve().name if model.path else model.name}
    if model.vae_path:
        values["ss_vae_name"] = model.vae_path.resolve().name
    return values


def _modelspec(config: TrainConfig, model: DiffusionModel) -> dict[str, Any]:
    width, height = parse_resolution(config.resolution)
    return {
        **MODELSPEC,
        "modelspec.architecture": f"{_SD2_V if _is_sd2_v(model) else ARCHITECTURES[model.family]}/lora",
        "modelspec.title": config.output_name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "v" if model.prediction_type == "v_prediction" else "epsilon",
        "modelspec.timestep_range": f"{config.min_timestep},{config.max_timestep}",
        "modelspec.encoder_layer": config.clip_skip,
    }


def _text(value: Any) -> str:
    """As sd-scripts writes it: JSON for tables, Python's text for the rest, so that ``None`` is "None"."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
