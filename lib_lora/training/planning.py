"""From a run's options to its plan. No torch: a mistake in options or dataset is told at once."""

from __future__ import annotations

from pathlib import Path

from lib_lora.dataset.plan import Plan, build_plan, parse_resolution
from lib_lora.dataset.records import Scan, scan
from lib_lora.training.config import TrainConfig, check

DEFAULT_STEPS = 1600


def make_plan(config: TrainConfig) -> Plan:
    """What the run will do: pictures, buckets, repeats, steps. Reads headers and captions only.

    Raises:
        StudioError: an option or the dataset is at fault.
    """
    check(config)
    resolution = parse_resolution(config.resolution)
    training = _scan(config, config.train_data_dir, regularisation=False)
    regularisation = _scan(config, config.reg_data_dir, regularisation=True) if config.reg_data_dir else None
    steps = config.max_train_steps or (None if config.max_train_epochs else DEFAULT_STEPS)
    return build_plan(
        training,
        regularisation,
        resolution=resolution,
        batch_size=config.train_batch_size,
        enable_bucket=config.enable_bucket,
        bucket_no_upscale=config.bucket_no_upscale,
        min_bucket_reso=config.min_bucket_reso,
        max_bucket_reso=config.max_bucket_reso,
        bucket_reso_steps=config.bucket_reso_steps,
        epochs=config.max_train_epochs,
        max_train_steps=steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )


def _scan(config: TrainConfig, folder: Path, *, regularisation: bool) -> Scan:
    outputs = [config.output_dir, *([] if regularisation or not config.reg_data_dir else [config.reg_data_dir])]
    found = scan(folder, caption_extension=config.caption_extension, regularisation=regularisation, exclude=outputs)
    found.raise_for_faults()
    return found
