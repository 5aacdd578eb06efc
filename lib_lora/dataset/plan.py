"""Which picture goes into which bucket, and how many steps that makes. Pure functions; the rules are sd-scripts'.

Sources: kohya-ss/sd-scripts 48d368f, ``make_bucket_resolutions`` in library/model_util.py, ``BucketManager``,
``DreamBoothDataset`` and ``BaseDataset.make_buckets`` in library/train_util.py. Sizes are (width, height) in px.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lib_lora.base.errors import StudioError
from lib_lora.base.seeds import derive_seed
from lib_lora.dataset.records import ImageRecord, LeftOut, Scan, grouped, names_of

Size = tuple[int, int]

DEFAULT_STEPS = 1600
_MIN_RESOLUTION_PX = 64
_MULTIPLE_PX = 8  # the VAE's factor: a latent pixel is 8 x 8 pixels
_MAX_LINES_SHOWN = 20


@dataclass(frozen=True)
class Bucket:
    """Where one picture goes.

    Attributes:
        resolution: (w, h) in px of the bucket: what training sees.
        resized: (w, h) in px to which the picture is scaled, at least ``resolution``; the rest is cropped.
    """

    resolution: Size
    resized: Size


@dataclass(frozen=True)
class BucketRules:
    """sd-scripts' bucket options; the names are those of the options."""

    resolution: Size
    enable_bucket: bool = True
    bucket_no_upscale: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64


@dataclass(frozen=True)
class PlannedImage:
    """A picture that will be used. ``repeats`` counts for regularisation what sd-scripts makes of the folder's."""

    record: ImageRecord
    bucket: Bucket
    repeats: int

    @property
    def enlarged_by(self) -> float:
        """The factor by which the picture is scaled up; 1 or less where it is not."""
        return max(self.bucket.resized[0] / self.record.width_px, self.bucket.resized[1] / self.record.height_px)

    @property
    def is_enlarged(self) -> bool:
        """Both sides grow: where one side does by rounding only, nothing is lost."""
        return self.bucket.resized[0] > self.record.width_px and self.bucket.resized[1] > self.record.height_px

    @property
    def cropped_away(self) -> float:
        """The share of the resized picture that lies outside of the bucket, 0 to 1."""
        (width, height), (full_width, full_height) = self.bucket.resolution, self.bucket.resized
        return 1 - width * height / (full_width * full_height)


@dataclass(frozen=True)
class Entry:
    """One sample of an epoch: ``images[image]``, for the ``repeat``-th time (from 0)."""

    record: ImageRecord
    bucket: Bucket
    repeat: int
    image: int


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before anything is loaded.

    Attributes:
        images: every picture used, once.
        entries: every sample of an epoch; what ``epoch_batches`` counts.
        buckets: resolution -> number of samples of an epoch, smallest first.
        batches_per_epoch: sum over buckets of ceil(samples / batch_size); partial batches are kept.
        steps_per_epoch: ceil(batches_per_epoch / (processes * gradient_accumulation_steps)).
        epochs: begun ones, where the number of steps is given.
        treatment: what is done to pictures and captions before they are shown, one sentence each.
        validation: of the pictures that are held out, each once; None without any.
        targets: where pictures come in pairs, the same plan of the second ones: image for image, entry for entry.
        noise: there are no pictures: each sample is noise alone, of its bucket's size.
    """

    train: Scan
    reg: Scan | None
    rules: BucketRules
    images: tuple[PlannedImage, ...]
    entries: tuple[Entry, ...]
    buckets: dict[Size, int]
    batch_size: int
    gradient_accumulation_steps: int
    processes: int
    batches_per_epoch: int
    steps_per_epoch: int
    total_steps: int
    epochs: int
    notes: tuple[str, ...] = ()
    treatment: tuple[str, ...] = ()
    validation: Plan | None = None
    targets: Plan | None = None
    noise: bool = False

    @property
    def train_samples(self) -> int:
        """Training samples of an epoch (sd-scripts' num_train_images)."""
        return sum(image.repeats for image in self.images if not image.record.regularisation)

    @property
    def reg_samples(self) -> int:
        """Regularisation samples of an epoch."""
        return sum(image.repeats for image in self.images if image.record.regularisation)

    def describe(self) -> str:
        """The plan as text for a terminal."""
        samples = [_describe_noise(self)] if self.noise else [_describe_data(self), _describe_buckets(self)]
        parts = [*samples, _describe_steps(self)]
        parts += [_section("Treatment", self.treatment), _section("Please note", self.notes), _describe_left_out(self)]
        return "\n\n".join(part for part in parts if part)


def parse_resolution(text: str) -> Size:
    """(width, height) in px from "512", "512,768" or "512x768".

    Raises:
        StudioError: anything else, a side below 64 or no multiple of 8.
    """
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:[,xX\u00d7]\s*([0-9]{1,6})\s*)?", str(text))
    if match:
        width = int(match[1])
        height = int(match[2] or match[1])
        if min(width, height) >= _MIN_RESOLUTION_PX and width % _MULTIPLE_PX == 0 and height % _MULTIPLE_PX == 0:
            return width, height
    raise StudioError(
        "not a resolution",
        field="resolution",
        came=text,
        allowed=f"one number or WIDTHxHEIGHT, at least {_MIN_RESOLUTION_PX}, multiples of {_MULTIPLE_PX}",
    )


def make_buckets(resolution: Size, min_px: int = 256, max_px: int = 1024, step_px: int = 64) -> list[Size]:
    """All bucket resolutions, sorted.

    For w = min, min + step .. max: h = min(max, area / w floored to the step), dropped below min; each in both
    orientations; and the square with sides sqrt(area) floored to the step.
    """
    area = resolution[0] * resolution[1]
    side = math.isqrt(area) // step_px * step_px
    found = {(side, side)}
    for width in range(min_px, max_px + 1, step_px):
        height = min(max_px, area // width // step_px * step_px)
        if height >= min_px:
            found |= {(width, height), (height, width)}
    return sorted(found)


def select_bucket(width_px: int, height_px: int, buckets: Sequence[Size]) -> Bucket:
    """The bucket of this very size, else the first with the nearest aspect ratio w / h; the picture covers it."""
    aspect = width_px / height_px
    resolution = (width_px, height_px)
    if resolution not in buckets:
        resolution = min(buckets, key=lambda size: abs(size[0] / size[1] - aspect))
    if aspect > resolution[0] / resolution[1]:
        scale = resolution[1] / height_px
    else:
        scale = resolution[0] / width_px
    return Bucket(resolution, (_rounded(width_px * scale), _rounded(height_px * scale)))


def shrink_only_bucket(width_px: int, height_px: int, area_px: int, step_px: int) -> Bucket:
    """The bucket under ``bucket_no_upscale``: shrink to the area where larger, then floor both sides to the step.

    Shrinking puts one side on a multiple of the step: the one that bends the aspect ratio less.
    A side of the bucket may come out as 0 for a picture smaller than the step; the caller refuses that.
    """
    resized = (width_px, height_px)
    if width_px * height_px > area_px:
        resized = _shrunk(width_px / height_px, area_px, step_px)
    return Bucket((resized[0] // step_px * step_px, resized[1] // step_px * step_px), resized)


def _shrunk(aspect: float, area_px: int, step_px: int) -> Size:
    ideal_width = math.sqrt(area_px * aspect)
    width = _rounded(ideal_width) // step_px * step_px
    height = _rounded(area_px / ideal_width) // step_px * step_px
    height_for_width = _rounded(width / aspect) // step_px * step_px
    width_for_height = _rounded(height * aspect) // step_px * step_px
    if not (width and height and height_for_width and width_for_height):
        return 0, 0  # so thin that a side falls below the step; sd-scripts divides by zero here
    if abs(width / height_for_width - aspect) < abs(width_for_height / height - aspect):
        return width, _rounded(width / aspect)
    return _rounded(height * aspect), height


def _rounded(number: float) -> int:
    """Half up, where Python's ``round`` takes the even neighbour: 0.5 px must be what sd-scripts makes of it."""
    return int(number + 0.5)


def build_plan(
    train: Scan,
    reg: Scan | None = None,
    *,
    resolution: Size,
    batch_size: int = 1,
    enable_bucket: bool = True,
    bucket_no_upscale: bool = False,
    min_bucket_reso: int = 256,
    max_bucket_reso: int = 1024,
    bucket_reso_steps: int = 64,
    epochs: int | None = None,
    max_train_steps: int | None = None,
    gradient_accumulation_steps: int = 1,
    processes: int = 1,
) -> Plan:
    """The whole plan of a run.

    Args:
        train, reg: scans without faults (``raise_for_faults`` is called here).
        resolution: (width, height) in px, from ``parse_resolution``.
        epochs, max_train_steps: one of them, or none for 1600 steps.
        processes: how many share the work, each taking its own batches.

    Raises:
        StudioError: faults in the scans, limits that exclude one another, a picture too small for any bucket.
    """
    train.raise_for_faults()
    if reg is not None:
        reg.raise_for_faults()
    rules = BucketRules(
        resolution, enable_bucket, bucket_no_upscale, min_bucket_reso, max_bucket_reso, bucket_reso_steps
    )
    rules, notes = _checked_rules(rules)
    images = _place(train, reg, rules)
    entries = tuple(
        Entry(image.record, image.bucket, repeat, index)
        for index, image in enumerate(images)
        for repeat in range(image.repeats)
    )
    counts = Counter(entry.bucket.resolution for entry in entries)
    batches = sum(math.ceil(count / batch_size) for count in counts.values())
    steps_per_epoch = math.ceil(batches / (processes * gradient_accumulation_steps))
    total_steps, epochs = _length(steps_per_epoch, epochs, max_train_steps)
    notes += _notes(train, reg, images, counts, batch_size)
    return Plan(
        train,
        reg,
        rules,
        images,
        entries,
        dict(sorted(counts.items())),
        batch_size,
        gradient_accumulation_steps,
        processes,
        batches,
        steps_per_epoch,
        total_steps,
        epochs,
        tuple(notes),
    )


def epoch_batches(plan: Plan, *, seed: int, epoch: int, batch_size: int | None = None) -> list[list[int]]:
    """The batches of one epoch: indices into ``plan.entries``, of one bucket each, every index exactly once.

    Shuffled within buckets, then the batches among themselves. The last batch of a bucket may be smaller.
    The order depends on ``seed`` and ``epoch`` only. ``batch_size`` is the plan's where it is not given.
    """
    size = batch_size or plan.batch_size
    generator = random.Random(derive_seed(seed, "order", epoch))
    by_bucket: dict[Size, list[int]] = {resolution: [] for resolution in plan.buckets}
    for index, entry in enumerate(plan.entries):
        by_bucket[entry.bucket.resolution].append(index)
    batches = []
    for indices in by_bucket.values():
        generator.shuffle(indices)
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    generator.shuffle(batches)
    return batches


def _checked_rules(rules: BucketRules) -> tuple[BucketRules, list[str]]:
    """The rules with bucket limits on multiples of the step, as sd-scripts moves them, and a note where they moved."""
    if not rules.enable_bucket:
        return rules, []
    step = rules.bucket_reso_steps
    lower = rules.min_bucket_reso // step * step
    upper = math.ceil(rules.max_bucket_reso / step) * step
    if step % _MULTIPLE_PX or step <= 0:
        raise StudioError("not allowed", field="bucket_reso_steps", came=step, allowed=f"multiples of {_MULTIPLE_PX}")
    if not 0 < lower <= min(rules.resolution):
        raise StudioError(
            "does not fit the resolution",
            field="min_bucket_reso",
            came=rules.min_bucket_reso,
            allowed=f"{step} to {min(rules.resolution)}",
        )
    if max(rules.resolution) > upper:
        raise StudioError(
            "below the resolution",
            field="max_bucket_reso",
            came=rules.max_bucket_reso,
            allowed=f"at least {max(rules.resolution)}",
        )
    notes = []
    if rules.bucket_no_upscale:
        notes.append("bucket_no_upscale makes buckets from the pictures' sizes; min and max_bucket_reso do not apply")
    elif (lower, upper) != (rules.min_bucket_reso, rules.max_bucket_reso):
        notes.append(f"bucket sides go from {lower} to {upper} px: the limits are moved to multiples of {step}")
    return (
        BucketRules(rules.resolution, True, rules.bucket_no_upscale, lower, upper, step),
        notes,
    )


def _place(train: Scan, reg: Scan | None, rules: BucketRules) -> tuple[PlannedImage, ...]:
    """Every picture with its bucket and repeats.

    Raises:
        StudioError: pictures too small or too thin for any bucket, all of them in one message.
    """
    repeats = [(record, record.repeats) for record in train.records]
    if reg is not None:
        wanted = sum(record.repeats for record in train.records)
        repeats += zip(reg.records, _regularisation_repeats(reg.records, wanted))
    bucket_of = _BucketChooser(rules)
    images = tuple(
        PlannedImage(record, bucket_of(record.width_px, record.height_px), count) for record, count in repeats if count
    )
    misfits = [image.record for image in images if not min(image.bucket.resolution)]
    if misfits:
        names = "".join(f"\n  {record.path}: {record.width_px}x{record.height_px}" for record in misfits[:10])
        raise StudioError(
            f"too small or too thin for it: {_many(len(misfits), 'picture')}:{names}\n",
            field="bucket_no_upscale",
            came=True,
            allowed=f"pictures with sides of at least {rules.bucket_reso_steps} px, or bucket_no_upscale off",
        )
    return images


def _regularisation_repeats(records: Sequence[ImageRecord], wanted: int) -> list[int]:
    """Repeats of each regularisation picture, up to ``wanted`` training samples; 0 = not used.

    First round: every picture with its folder's repeats until there are enough (the last may overshoot).
    Further rounds: one more repeat each, until there are enough.
    """
    repeats = [0] * len(records)
    missing = wanted
    for index, record in enumerate(records):
        if missing <= 0:
            return repeats
        repeats[index] = record.repeats
        missing -= record.repeats
    rounds, rest = divmod(max(missing, 0), len(records))
    return [count + rounds + (index < rest) for index, count in enumerate(repeats)]


class _BucketChooser:
    """(width, height) -> Bucket under given rules; equal sizes are worked out once."""

    def __init__(self, rules: BucketRules) -> None:
        self._rules = rules
        self._known: dict[Size, Bucket] = {}
        if rules.enable_bucket:
            self._buckets = make_buckets(
                rules.resolution, rules.min_bucket_reso, rules.max_bucket_reso, rules.bucket_reso_steps
            )
        else:
            self._buckets = [rules.resolution]

    def __call__(self, width_px: int, height_px: int) -> Bucket:
        size = (width_px, height_px)
        if size not in self._known:
            self._known[size] = self._choose(*size)
        return self._known[size]

    def _choose(self, width_px: int, height_px: int) -> Bucket:
        if self._rules.enable_bucket and self._rules.bucket_no_upscale:
            area = self._rules.resolution[0] * self._rules.resolution[1]
            return shrink_only_bucket(width_px, height_px, area, self._rules.bucket_reso_steps)
        return select_bucket(width_px, height_px, self._buckets)


def _length(steps_per_epoch: int, epochs: int | None, max_train_steps: int | None) -> tuple[int, int]:
    """(total steps, epochs)."""
    if epochs and max_train_steps:
        raise StudioError(
            "both lengths are given",
            field="max_train_steps",
            came=max_train_steps,
            allowed="max_train_steps or max_train_epochs, not both",
        )
    if epochs:
        return epochs * steps_per_epoch, epochs
    steps = max_train_steps or DEFAULT_STEPS
    return steps, math.ceil(steps / steps_per_epoch)


def _notes(
    train: Scan, reg: Scan | None, images: Sequence[PlannedImage], counts: Counter, batch_size: int
) -> list[str]:
    notes = [*train.notes, *(reg.notes if reg else ())]
    notes += [
        f"warning: {folder} looks like regularisation pictures and is not trained on; give it as reg_data_dir to use it"
        for folder in train.reg_folders
    ]
    small = sorted(resolution for resolution, count in counts.items() if count < batch_size)
    if small:
        names = ", ".join(_size_text(resolution) for resolution in small)
        notes.append(f"warning: fewer samples than the batch size {batch_size} in the buckets {names}: smaller batches")
    enlarged = [image for image in images if image.is_enlarged]
    if enlarged:
        worst = max(enlarged, key=lambda image: image.enlarged_by)
        notes.append(
            f"warning: enlarged to fill their bucket: {len(enlarged)} of {_many(len(images), 'picture')}, "
            f"most of all {worst.record.path} ({worst.record.width_px}x{worst.record.height_px}, "
            f"x{worst.enlarged_by:.2f})"
        )
    if reg is not None:
        notes += _regularisation_notes(reg, images) + _pair_notes(train, reg)
    return notes


def _regularisation_notes(reg: Scan, images: Sequence[PlannedImage]) -> list[str]:
    used = [image for image in images if image.record.regularisation]
    notes = []
    if len(used) < len(reg.records):
        notes.append(
            f"warning: {len(reg.records) - len(used)} of {len(reg.records)} regularisation pictures are not used: "
            "there are no more training samples than this"
        )
    if any(image.repeats != image.record.repeats for image in used):
        notes.append("regularisation pictures are repeated up to the number of training samples")
    return notes


def _pair_notes(train: Scan, reg: Scan) -> list[str]:
    """What is missing of regularisation pictures made one for each training picture, under its name.

    Where no two names agree, the pictures were not made so, and there is nothing to say.
    """
    stems, reg_stems = ({record.path.stem for record in scan.records} for scan in (train, reg))
    alone = [record.path for record in train.records if record.path.stem not in reg_stems]
    reg_alone = [record.path for record in reg.records if record.path.stem not in stems]
    if len(alone) == len(train.records):
        return []
    count = len(train.records)
    notes = [f"{count - len(alone)} of {_many(count, 'training picture')} have a regularisation picture of their name"]
    if alone:
        notes.append(f"training pictures without a regularisation picture of their name: {names_of(alone)}")
    if reg_alone:
        notes.append(f"regularisation pictures without a training picture of their name: {names_of(reg_alone)}")
    return notes


def _section(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    shown = [f"  {line}" for line in lines[:_MAX_LINES_SHOWN]]
    if len(lines) > _MAX_LINES_SHOWN:
        shown.append(f"  and {len(lines) - _MAX_LINES_SHOWN} more")
    return "\n".join([title, *shown])


def _table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines with the columns under one another, the first to the left, the others (numbers) to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in texts
    ]


def _describe_data(plan: Plan) -> str:
    rows = [("folder", "pictures", "repeats", "samples")]
    groups: dict[tuple[str, bool], list[PlannedImage]] = defaultdict(list)
    for image in plan.images:
        groups[(str(image.record.path.parent), image.record.regularisation)].append(image)
    for (folder, regularisation), members in groups.items():
        repeats = sorted({member.repeats for member in members})
        text = str(repeats[0]) if len(repeats) == 1 else f"{repeats[0]}-{repeats[-1]}"
        label = f"{folder} (regularisation)" if regularisation else folder
        rows.append((label, len(members), text, sum(member.repeats for member in members)))
    lines = _table(rows)
    pictures = sum(not image.record.regularisation for image in plan.images)
    title = (
        f"Dataset: {_many(pictures, 'picture')}, {_many(plan.train_samples, 'sample')} an epoch; "
        f"concepts: {_concepts(plan)}"
    )
    if plan.reg is not None:
        reg_pictures = _many(len(plan.images) - pictures, "picture")
        title += f"; regularisation: {reg_pictures}, {_many(plan.reg_samples, 'sample')}"
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _describe_noise(plan: Plan) -> str:
    return f"No pictures: {_many(plan.train_samples, 'sample')} of noise an epoch, {_size_text(plan.rules.resolution)}"


def _concepts(plan: Plan) -> str:
    """The concepts; where there are several, with the numbers of their samples."""
    samples: Counter[str] = Counter()
    for image in plan.images:
        if not image.record.regularisation:
            samples[image.record.concept] += image.repeats
    if len(samples) == 1:
        return next(iter(samples))
    return ", ".join(f"{name} ({_many(count, 'sample')})" for name, count in sorted(samples.items()))


def _describe_buckets(plan: Plan) -> str:
    pictures = Counter(image.bucket.resolution for image in plan.images)
    rows: list[Sequence[object]] = [("resolution", "pictures", "samples", "batches")]
    for resolution, samples in plan.buckets.items():
        batches = math.ceil(samples / plan.batch_size)
        rows.append((_size_text(resolution), pictures[resolution], samples, batches))
    lines = _table(rows)
    return "\n".join([f"Buckets: {len(plan.buckets)}", *(f"  {line}" for line in lines)])


def _describe_steps(plan: Plan) -> str:
    sharing = [f"batch size {plan.batch_size}"]
    if plan.gradient_accumulation_steps > 1:
        sharing.append(f"{plan.gradient_accumulation_steps} batches a step")
    if plan.processes > 1:
        sharing.append(f"{plan.processes} processes")
    return (
        f"Steps: {plan.total_steps} in {_many(plan.epochs, 'epoch')} of {plan.steps_per_epoch} "
        f"({_many(plan.batches_per_epoch, 'batch', 'batches')}; {', '.join(sharing)})"
    )


def _describe_left_out(plan: Plan) -> str:
    left_out: list[LeftOut] = [*plan.train.left_out, *(plan.reg.left_out if plan.reg else ())]
    return _section(f"Left out: {len(left_out)}", grouped(left_out))


def _many(count: int, one: str, several: str | None = None) -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"


def _size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
