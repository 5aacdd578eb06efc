"""Plans of runs that learn otherwise than from pictures with captions: from noise alone, and from pairs. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.dataset.plan import Plan, build_plan, parse_resolution
from lib_lora.dataset.records import ImageRecord, Scan, names_of
from lib_lora.training.config import TrainConfig

NOISE_STEPS = 100  # of an epoch without pictures


def plan_of_noise(config: TrainConfig, processes: int) -> Plan:
    """A plan whose samples are noise: epochs of ``NOISE_STEPS`` steps, each sample with an id, which owns its draws."""
    width, height = resolution = parse_resolution(config.resolution)
    samples = NOISE_STEPS * config.train_batch_size * config.gradient_accumulation_steps * processes
    record = ImageRecord(Path("noise"), "", width, height, samples, regularisation=False, concept="noise")
    plan = build_plan(
        Scan(Path(), "objective", (record,)),
        resolution=resolution,
        batch_size=config.train_batch_size,
        enable_bucket=False,
        epochs=config.max_train_epochs,
        max_train_steps=config.max_train_steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        processes=processes,
    )
    return dataclasses.replace(plan, noise=True)


def split_pairs(scan: Scan, ending: str) -> tuple[Scan, dict[Path, ImageRecord]]:
    """The first pictures of all pairs, and by their paths the second ones, whose names have ``ending`` more.

    A second picture that has no more of a caption than the folder's name takes the first one's.

    Raises:
        StudioError: a picture stands alone, or the two of a pair have not the same size.
    """
    by_name = {_name(record): record for record in scan.records}
    seconds = {_name(record): record for record in scan.records if record.path.stem.endswith(ending)}
    firsts = tuple(record for record in scan.records if _name(record) not in seconds)
    pairs = {record.path: by_name.get(f"{_name(record)}{ending}") for record in firsts}
    alone = [path for path, second in pairs.items() if second is None]
    alone += [record.path for name, record in seconds.items() if name[: -len(ending)] not in by_name]
    if alone:
        problem = f"pictures without the other one of their pair: {names_of(alone)}"
        raise StudioError(problem, field="diff_target_name", came=ending, allowed=f"cat.png and cat{ending}.png")
    uneven = [each.path for each in firsts if _size(each) != _size(pairs[each.path])]
    if uneven:
        problem = f"pairs of two sizes: {names_of(uneven)}"
        raise StudioError(problem, field="train_data_dir", file=scan.folder, allowed="one size for both of a pair")
    return dataclasses.replace(scan, records=firsts), {each.path: _captioned(pairs[each.path], each) for each in firsts}


def _captioned(second: ImageRecord, first: ImageRecord) -> ImageRecord:
    return dataclasses.replace(second, caption=first.caption) if second.caption == second.concept else second


def _name(record: ImageRecord) -> str:
    return record.path.with_suffix("").as_posix()


def _size(record: ImageRecord) -> tuple[int, int]:
    return record.width_px, record.height_px


def plan_of_targets(plan: Plan, seconds: dict[Path, ImageRecord]) -> Plan:
    """``plan`` with the second picture of each pair in the place of the first."""
    images = tuple(dataclasses.replace(image, record=seconds[image.record.path]) for image in plan.images)
    entries = tuple(dataclasses.replace(entry, record=seconds[entry.record.path]) for entry in plan.entries)
    return dataclasses.replace(plan, images=images, entries=entries)


def objective_treatment(config: TrainConfig) -> Iterator[str]:
    """What is learnt, in words, where it is not denoising."""
    if config.objective == "iLECO":
        target = f'"{config.target_prompt}"' if config.target_prompt else "an empty prompt"
        yield f'iLECO: "{config.original_prompt}" comes to mean what {target} means'
    elif config.objective == "slider":
        ways = f'to "{config.positive_prompt}" at strengths above 0 and to "{config.negative_prompt}" below'
        yield f'slider: "{config.target_prompt}" turns {ways}, with guidance {config.slider_guidance:g}'
    elif config.objective == "ADDifT":
        yield f"ADDifT: what changes from each picture to the one of its name with {config.diff_target_name} at the end"
