"""From a run's options to its plan. No torch: a mistake in options or dataset is told at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lib_lora.dataset.plan import Plan, build_plan, parse_resolution
from lib_lora.dataset.records import Scan, scan
from lib_lora.files.atomic import check_writable
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.folder_settings import FolderSettings, caption_rules
from lib_lora.training.held_out import hold_out
from lib_lora.training.objective_checks import needs_pictures
from lib_lora.training.other_plans import objective_treatment, plan_of_noise, plan_of_targets, split_pairs


def process_count() -> int:
    """How many processes train together, by what their launcher puts into the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one that writes and talks."""
    return os.environ.get("RANK", "0") == "0"


def make_plan(config: TrainConfig, processes: int | None = None, scan: Callable[..., Scan] = scan) -> Plan:
    """What the run will do: pictures, buckets, repeats, steps. Reads headers and captions only.

    Args:
        processes: how many train together; as many as the launcher has started where it is not given.
        scan: reads a folder as ``dataset.records.scan`` does.

    Raises:
        StudioError: an option or the dataset is at fault.
    """
    check(config)
    if config.cache_latents_to_disk or config.cache_text_encoder_outputs_to_disk:
        check_writable(cache_folder(config), field="cache_dir")
    if not needs_pictures(config):
        return dataclasses.replace(
            plan_of_noise(config, processes or process_count()), treatment=tuple(_treatment(config, None))
        )
    resolution = parse_resolution(config.resolution)
    training = _scan(scan, config, config.train_data_dir, regularisation=False)
    regularisation = _scan(scan, config, config.reg_data_dir, regularisation=True) if config.reg_data_dir else None
    seconds = None
    if config.objective == "ADDifT":
        training.raise_for_faults()
        training, seconds = split_pairs(training, config.diff_target_name)
    held = None
    if config.validation_split:
        training.raise_for_faults()
        seed = config.seed if config.validation_seed is None else config.validation_seed
        training, held = hold_out(training, config.validation_split, seed)
    build = partial(
        build_plan,
        resolution=resolution,
        batch_size=config.train_batch_size,
        enable_bucket=config.enable_bucket,
        bucket_no_upscale=config.bucket_no_upscale,
        min_bucket_reso=config.min_bucket_reso,
        max_bucket_reso=config.max_bucket_reso,
        bucket_reso_steps=config.bucket_reso_steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        processes=processes or process_count(),
    )
    plan = build(training, regularisation, epochs=config.max_train_epochs, max_train_steps=config.max_train_steps)
    validation = build(held, epochs=1) if held else None
    treatment = (*_treatment(config, validation), *_folders_treatment(plan, config))
    targets = plan_of_targets(plan, seconds) if seconds else None
    return dataclasses.replace(plan, treatment=treatment, validation=validation, targets=targets)


# Weights and, for most optimizers, two values more for each of them.
_STATE_BYTES_PER_PARAMETER = 12


def bytes_needed(config: TrainConfig, plan: Plan, parameters: int) -> int:
    """Room on the disk for all that the run will write: LoRAs and states.

    Args:
        parameters: how many are trained.
    """
    saves = 1 + int(bool(config.validation_split) and config.save_best)
    if config.save_every_n_epochs:
        saves += min(plan.epochs // config.save_every_n_epochs, (config.save_last_n_epochs or plan.epochs) + 1)
    if config.save_every_n_steps:
        kept = (config.save_last_n_steps or plan.total_steps) // config.save_every_n_steps + 2
        saves += min(plan.total_steps // config.save_every_n_steps, kept)
    needed = saves * parameters * (4 if config.save_precision == "float" else 2)
    if config.save_state or config.save_state_every_n_steps:
        copies = 3 if config.nan_guard == "rollback" else 1  # the guard keeps two states more in each
        needed += (config.keep_states + 1) * parameters * _STATE_BYTES_PER_PARAMETER * copies
    return needed


HASHES = "hashes.json"  # in the cache folder, what ``files.file_hashes`` remembers


def cache_folder(config: TrainConfig) -> Path:
    """``cache_dir``, or a hidden folder beside the dataset, which all runs on it and on its neighbours share; without a
    dataset beside the LoRAs."""
    return config.cache_dir or (config.train_data_dir or config.output_dir).absolute().parent / ".lora_studio_cache"


def _folders_treatment(plan: Plan, config: TrainConfig) -> Iterator[str]:
    """Raises StudioError where a folder's own options are at fault."""
    FolderSettings(plan, config)
    folders = {image.record.settings.parent.name for image in plan.images if image.record.settings}
    if folders:
        yield f"options of their own have the folders {', '.join(sorted(folders))}"


def _treatment(config: TrainConfig, validation: Plan | None) -> Iterator[str]:
    """What is learnt, and what is done to pictures and captions before they are shown, one sentence each."""
    yield from objective_treatment(config)
    if validation:
        yield f"{validation.train_samples} pictures are held out, and their loss is measured"
    rules = caption_rules(config)
    if rules.changes_tags:
        kept = f" but for those around {rules.keep_tokens_separator}" if rules.keep_tokens_separator else ""
        kept = kept or (f" but for the first {rules.keep_tokens}" if rules.keep_tokens else "")
        ways = ["shuffled"] if rules.shuffle_caption else []
        if rules.caption_tag_dropout_rate:
            ways.append(f"left out with probability {rules.caption_tag_dropout_rate:g}")
        if rules.token_warmup_step:
            ways.append(f"shown one after the other, all from step {rules.token_warmup_step:g} on")
        if ways:
            yield f"tags are {' and '.join(ways)}{kept}"
    if rules.enable_wildcard:
        yield "of a caption's lines and of {red|blue} one is drawn each time"
    if config.weighted_captions:
        yield "(tag:1.2) and [tag] in captions are weights"
    if rules.caption_prefix or rules.caption_suffix:
        yield f"captions are {' '.join(part for part in (rules.caption_prefix, '...', rules.caption_suffix) if part)}"
    if rules.caption_dropout_rate:
        yield f"captions are left out with probability {rules.caption_dropout_rate:g}"
    if rules.caption_dropout_every_n_epochs:
        yield f"captions are left out in epochs divisible by {rules.caption_dropout_every_n_epochs}"
    if config.masked_loss or config.alpha_mask:
        where = [
            *(["a picture's mask is white"] if config.masked_loss else []),
            *(["a picture is opaque"] if config.alpha_mask else []),
        ]
        yield f"the loss counts where {', or without a mask where '.join(where)}"
    if config.flip_aug:
        yield "half of the pictures are mirrored, drawn anew each time"
    if config.random_crop:
        yield "pictures are cut at another place each time"
    if config.color_aug:
        yield "a third of the pictures has another hue or brightness, drawn anew each time"
    for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_weight"):
        if getattr(config, name):
            yield f"the rate of each block is multiplied: {name} {','.join(map(str, getattr(config, name)))}"
    kept = [
        what
        for what, on_disk in (
            ("pictures", config.cache_latents_to_disk),
            ("captions", config.cache_text_encoder_outputs_to_disk),
        )
        if on_disk
    ]
    if kept:
        yield f"encoded {' and '.join(kept)} are kept in {cache_folder(config)}"


def _scan(scan: Callable[..., Scan], config: TrainConfig, folder: Path, *, regularisation: bool) -> Scan:
    others = [config.output_dir, cache_folder(config)]
    if config.reg_data_dir and not regularisation:
        others.append(config.reg_data_dir)
    found = scan(
        folder,
        caption_extension=config.caption_extension,
        regularisation=regularisation,
        all_lines=config.enable_wildcard,
        exclude=others,
    )
    found.raise_for_faults()
    return found
