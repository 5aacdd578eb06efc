"""A few real steps before a run: how long it will take, whether it fits, and what would fit.

The steps are those of a run, on real pictures of the heaviest batch that the plan has; nothing is written but what
was encoded, where the options keep that on disk.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TypeVar

import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, PreflightDone, Progress, StepDone
from lib_lora.base.reproducible import ask_for_reproducible_sums
from lib_lora.base.signals import Control
from lib_lora.dataset.plan import Entry, Plan, parse_resolution
from lib_lora.models.device import choose_device, used_memory_mb
from lib_lora.models.model import DiffusionModel
from lib_lora.models.offload import bring_back
from lib_lora.training.config import TrainConfig, trained_parts
from lib_lora.training.half import check_precision
from lib_lora.training.optimizers import check_optimizer
from lib_lora.training.planning import make_plan
from lib_lora.training.setup import make_network, set_up, take_model

T = TypeVar("T")
STEPS = 5  # the first one apart: it makes the optimizer's state, and libraries choose their kernels
_ENOUGH_SECONDS = 30.0  # slower steps are not all made, but two at least
_SHARE_TO_USE = 0.95  # of the card: what is freed comes back in pieces
_MB = 2**20
_SIDE_STEP_PX = 64
_SMALLEST_SIDE_PX = 256


@dataclass(frozen=True)
class Measured:
    """What the steps took.

    Attributes:
        seconds: of one step, the median without the first.
        encoding_seconds: of one picture, before the steps.
        base_mb: allocated between steps: weights, adapters and the optimizer's state.
        peak_mb: the most during a step; ``base_mb`` and the activations.
        whole_peak_mb: the most from the beginning, encoding included.
        samples: pictures that passed the UNet at once.
    """

    seconds: float
    encoding_seconds: float
    base_mb: float
    peak_mb: float
    whole_peak_mb: float
    samples: int

    @property
    def per_sample_mb(self) -> float:
        """Activations of one picture."""
        return max(0.0, self.peak_mb - self.base_mb) / self.samples


def preflight(config: TrainConfig, control: Control, model: DiffusionModel | None = None) -> Iterator[Event]:
    """Make a few steps, and leave the model as it was. Ends in ``PreflightDone``, or without it when ``control``
    asked to stop. A card that is too small is told as advice.

    Args:
        model: a model to train on, the WebUI's say; without one the config's checkpoint is loaded.

    Raises:
        StudioError: naming the option or file at fault.
    """
    return _Preflight(config, control, model).events()


@dataclass
class _Preflight:
    config: TrainConfig
    control: Control
    model: DiffusionModel | None
    started: float = field(default_factory=time.perf_counter)

    def events(self) -> Iterator[Event]:
        ask_for_reproducible_sums()
        plan = make_plan(self.config)
        yield Note(plan.describe())
        device = self.model.device if self.model else choose_device(self.config.device)
        check_precision(device, self.config.mixed_precision)
        check_optimizer(self.config, device)
        with _as_it_was(self.model):
            self.model = yield from take_model(self.config, device, self.model)
            loading_seconds = time.perf_counter() - self.started
            measured = yield from _or_none(self._measure(self.config, plan))
            if self.control.stopping:
                return
            if measured is None:
                advice = list(self._what_would_fit())
                yield PreflightDone(None, plan.total_steps, None, None, card_mb(device), advice)
                return
            seconds = loading_seconds + run_seconds(plan, measured)
            advice = [ending(seconds, time.time()), *self._advice(plan, measured)]
        yield PreflightDone(
            measured.seconds, plan.total_steps, seconds, measured.whole_peak_mb, card_mb(device), advice
        )

    def _measure(self, config: TrainConfig, plan: Plan) -> Generator[Event, None, Measured]:
        """Set everything up as for a run and make its steps."""
        model, device = self.model, self.model.device
        rehearsed = rehearsal(plan)
        _forget_peak(device)
        network, rates = yield from make_network(config, model)
        began = time.perf_counter()
        setup = yield from set_up(config, rehearsed, model, network, rates, self.control)
        encoding_seconds = (time.perf_counter() - began) / len(rehearsed.images)
        whole_peak_mb = used_memory_mb(device)
        _forget_peak(device)
        inner, seconds = Control(), []
        with setup.acting():
            last = time.perf_counter()
            for event in setup.steps(inner):
                if isinstance(event, StepDone):
                    _wait_for(device)
                    seconds.append(time.perf_counter() - last)
                    yield Progress("preflight", len(seconds), STEPS)
                    last = time.perf_counter()
                if self.control.stopping or (len(seconds) > 1 and sum(seconds) > _ENOUGH_SECONDS):
                    inner.stop()
        peak_mb = used_memory_mb(device)
        return Measured(
            median(seconds[1:] or seconds or [0.0]),
            encoding_seconds,
            _allocated_mb(device),
            peak_mb,
            max(peak_mb, whole_peak_mb),
            rehearsed.batch_size,
        )

    # Advice

    def _advice(self, plan: Plan, measured: Measured) -> Iterator[str]:
        """What else would fit."""
        room_mb = room_on_card_mb(self.model.device)
        if room_mb is None:
            return  # main memory may also be swapped: what fits in it cannot be said
        yield f"takes {measured.whole_peak_mb:,.0f} MB of the {room_mb:,.0f} MB that are free for it on the card"
        yield from larger_batch(self.config.train_batch_size, measured, room_mb)
        yield from larger_resolution(self.config.resolution, measured, room_mb)
        full = measured.whole_peak_mb > _SHARE_TO_USE * room_mb
        if full or self.config.gradient_checkpointing:
            yield from self._other_checkpointing(plan, measured)

    def _other_checkpointing(self, plan: Plan, measured: Measured) -> Iterator[str]:
        """Tried, not estimated: how much it saves depends on the model."""
        on = self.config.gradient_checkpointing
        changes = {"gradient_checkpointing": not on, "gradient_checkpointing_depth": None}
        words = f"{'without' if on else 'with'} gradient_checkpointing"
        other = self._try(replace(self.config, **changes), plan)
        if other is None:
            yield f"{words} it does not fit"
        else:
            faster = measured.seconds / other.seconds if other.seconds else 1.0
            yield f"{words} it takes {other.whole_peak_mb:,.0f} MB, and a step {1 / faster:.2f} times as long (tried)"

    def _what_would_fit(self) -> Iterator[str]:
        """After the memory was full: the first of the usual ways out with which it is not, tried."""
        yield "as it is the run does not fit: the card's memory is full"
        for words, config in ways_out(self.config):
            measured = self._try(config, make_plan(config))
            if measured:
                yield (
                    f"with {words} it fits: {measured.whole_peak_mb:,.0f} MB, {measured.seconds:.2f} seconds a step "
                    "(tried)"
                )
                return
            yield f"with {words} it does not fit either (tried)"

    def _try(self, config: TrainConfig, plan: Plan) -> Measured | None:
        """The same steps under other options; None where they do not fit."""
        return _result(_or_none(self._measure(config, plan)))


def rehearsal(plan: Plan, steps: int = STEPS) -> Plan:
    """A plan of ``steps`` steps, all of the heaviest batch that ``plan`` has: most pixels at once, where memory is at
    its highest. The schedule's length stays that of the run.
    """
    size = max(plan.buckets, key=lambda bucket: bucket[0] * bucket[1] * min(plan.batch_size, plan.buckets[bucket]))
    batch = min(plan.batch_size, plan.buckets[size])
    wanted = batch * plan.gradient_accumulation_steps * steps
    images = [image for image in plan.images if image.bucket.resolution == size][:wanted]
    entries = tuple(
        Entry(images[place % len(images)].record, images[place % len(images)].bucket, 0, place % len(images))
        for place in range(wanted)
    )
    return replace(
        plan,
        images=tuple(images),
        validation=None,
        targets=rehearsal(plan.targets, steps) if plan.targets else None,
        entries=entries,
        buckets={size: wanted},
        batch_size=batch,
        processes=1,
        batches_per_epoch=steps * plan.gradient_accumulation_steps,
        steps_per_epoch=steps,
        total_steps=max(steps, plan.total_steps),
        epochs=1,
    )


def run_seconds(plan: Plan, measured: Measured) -> float:
    """How long a run's encoding and steps will take: a step's time goes with the pixels that it sees.

    Samples and saves are not in it.
    """
    pixels = sum(entry.bucket.resolution[0] * entry.bucket.resolution[1] for entry in plan.entries)
    heaviest = rehearsal(plan, 1)
    in_measured_step = sum(entry.bucket.resolution[0] * entry.bucket.resolution[1] for entry in heaviest.entries)
    steps = plan.total_steps * (pixels / plan.steps_per_epoch / plan.processes) / in_measured_step
    return len(plan.images) * measured.encoding_seconds + steps * measured.seconds


def larger_batch(batch_size: int, measured: Measured, room_mb: float) -> Iterator[str]:
    """Whether twice the batch fits, and the largest that does: activations grow with the number of pictures."""
    if not measured.per_sample_mb or measured.samples < batch_size:
        return
    room_mb *= _SHARE_TO_USE
    twice = measured.base_mb + 2 * batch_size * measured.per_sample_mb
    most = int((room_mb - measured.base_mb) / measured.per_sample_mb)
    fits = "does not fit" if twice > room_mb else f"fits; the largest is about {most}"
    yield f"train_batch_size {2 * batch_size} would take about {twice:,.0f} MB and {fits}"


def larger_resolution(resolution: str, measured: Measured, room_mb: float) -> Iterator[str]:
    """The largest square resolution of the same batch that fits: activations grow with the area."""
    width, height = parse_resolution(resolution)
    activations_mb = measured.per_sample_mb * measured.samples
    if not activations_mb:
        return
    area = width * height * (_SHARE_TO_USE * room_mb - measured.base_mb) / activations_mb
    side = int(max(area, 0) ** 0.5) // _SIDE_STEP_PX * _SIDE_STEP_PX
    if side * side > width * height:
        yield f"resolution may be about {side} at most"


def ways_out(config: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """Options with which a run takes less memory, each on top of those before it."""
    words = []
    if not config.gradient_checkpointing or config.gradient_checkpointing_depth is not None:
        config = replace(config, gradient_checkpointing=True, gradient_checkpointing_depth=None)
        words.append("gradient_checkpointing")
        yield ", ".join(words), config
    if config.train_batch_size > 1:
        gathered = config.train_batch_size * config.gradient_accumulation_steps
        config = replace(config, train_batch_size=1, gradient_accumulation_steps=gathered)
        words.append(f"train_batch_size 1 (with gradient_accumulation_steps {gathered} for the same result)")
        yield ", ".join(words), config
    if all(trained_parts(config)):
        config = replace(config, network_train_unet_only=True)
        words.append("network_train_unet_only")
        yield ", ".join(words), config
    smaller = _smaller(parse_resolution(config.resolution))
    if smaller:
        config = replace(config, resolution=smaller, min_bucket_reso=min(config.min_bucket_reso, _SMALLEST_SIDE_PX))
        words.append(f"resolution {smaller}")
        yield ", ".join(words), config


def _smaller(size_px: tuple[int, int]) -> str | None:
    """Three quarters of both sides."""
    width, height = (side * 3 // 4 // _SIDE_STEP_PX * _SIDE_STEP_PX for side in size_px)
    return f"{width}x{height}" if min(width, height) >= _SMALLEST_SIDE_PX else None


def ending(seconds: float, now: float) -> str:
    """When a run of ``seconds`` ends that is begun ``now`` (epoch seconds), in local time."""
    start, end = time.localtime(now), time.localtime(now + seconds)
    same_day = start[:3] == end[:3]
    return f"begun now, it ends at {time.strftime('%H:%M' if same_day else '%H:%M on %Y-%m-%d', end)}"


# What a card has


def card_mb(device: torch.device) -> float | None:
    """All memory of a CUDA card."""
    return torch.cuda.get_device_properties(device).total_memory / _MB if device.type == "cuda" else None


def room_on_card_mb(device: torch.device) -> float | None:
    """What this process has of a CUDA card's memory and what nobody has."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return (free + torch.cuda.memory_reserved(device)) / _MB


def _allocated_mb(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) / _MB if device.type == "cuda" else used_memory_mb(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        gc.collect()  # what an attempt before has left
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _as_it_was(model: DiffusionModel | None) -> Iterator[None]:
    """What a run settles of a model that was handed in is as before afterwards."""
    if model is None:
        yield
        return
    before = {name: getattr(model, name) for name in ("prediction_type", "prediction_source", "zero_terminal_snr")}
    try:
        yield
    finally:
        bring_back(model)
        for name, value in before.items():
            setattr(model, name, value)


def _or_none(work: Generator[Event, None, T]) -> Generator[Event, None, T | None]:
    """The work's events and result; None where the memory was full."""
    try:
        return (yield from work)
    except (StudioError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a card's memory, or the machine's, was full: this error, or the one that it was made of, says so."""
    if error is None:
        return False
    texts = ("out of memory", "not enough memory")
    says_so = isinstance(error, RuntimeError) and any(text in str(error).lower() for text in texts)
    return isinstance(error, torch.cuda.OutOfMemoryError) or says_so or is_out_of_memory(error.__cause__)


def _result(work: Generator[Event, None, T]) -> T:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
