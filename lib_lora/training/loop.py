"""The training loop: batches in, optimizer steps out, told as events."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.base.events import EpochDone, Event, StepDone, TrainingStarted, WentBack
from lib_lora.base.signals import Control
from lib_lora.models.device import used_memory_mb
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch, TrainingData
from lib_lora.training.draws import StepRandom
from lib_lora.training.ema import Ema
from lib_lora.training.guard import NanGuard, NotFinite
from lib_lora.training.half import autocast
from lib_lora.training.objectives import LossTerms
from lib_lora.training.optimizers import OptimizerSet
from lib_lora.training.processes import ALONE, Processes, Wishes
from lib_lora.training.scaler import LossScaler
from lib_lora.training.schedules import Schedule
from lib_lora.training.weight_norms import scale_weight_norms


class Objective(Protocol):
    """What is learnt from a batch: denoising, or another game altogether."""

    def __call__(self, model: DiffusionModel, batch: Batch, rng: StepRandom) -> LossTerms:
        """The weighted loss of each sample of the batch, with gradient."""


_MOST_PICTURES = 5


@dataclass(frozen=True)
class Asked(Event):
    """Between the loop and the run alone: what is wanted, by all processes, before the next step."""

    step: int
    epoch: int
    wishes: Wishes


@dataclass
class Trainer:
    """What makes a step: everything that ``train`` is given."""

    model: DiffusionModel
    network: Network
    data: TrainingData
    objective: Objective
    config: TrainConfig
    optimizers: OptimizerSet
    schedule: Schedule
    scaler: LossScaler
    guard: NanGuard
    ema: Ema | None = None
    processes: Processes = ALONE
    parameters: list[torch.nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = list(self.network.parameters())

    def step(self, batches: Sequence[list[int]], rng: StepRandom, step: int, epoch: int) -> StepDone:
        """One optimizer step on the mean loss over all samples of ``batches``, the whole global batch.

        The mean is over samples and not over batches: a smaller last batch must not weigh more per picture.
        """
        started = time.perf_counter()
        samples = sum(len(ids) for ids in batches)
        self.network.train()
        own = self._gradients(self.processes.share(batches), samples, rng, step)
        loss = self.processes.sum_gradients(self.parameters, own) / samples
        self._watch("the loss is", loss, step)
        finite = self.scaler.unscale(self.parameters)
        if finite:
            self._watch("the length of the gradients is", self._clip(), step)
            self.optimizers.step()
            self._after_update()
        rates = self.optimizers.learning_rates()
        self.optimizers.zero_grad()
        self.network.eval()
        self.schedule.step()
        seconds, memory_mb = time.perf_counter() - started, used_memory_mb(self.model.device)
        return StepDone(step + 1, epoch, loss, rates, seconds, skipped=not finite, memory_mb=memory_mb)

    def _watch(self, what: str, number: float | torch.Tensor | None, step: int) -> None:
        """
        Raises:
            NotFinite: the number is none, and somebody minds.
        """
        if number is not None and self.guard.watches and not bool(number - number == 0.0):
            raise NotFinite(what, step + 1)

    def _clip(self) -> torch.Tensor | None:
        """Shorten the gradients where they are too long; their length before, None where nobody wants to know."""
        longest = self.config.max_grad_norm or math.inf
        if longest == math.inf and not self.guard.watches:
            return None
        return torch.nn.utils.clip_grad_norm_(self.parameters, longest)

    def _after_update(self) -> None:
        if self.config.scale_weight_norms:
            scale_weight_norms(self.network, self.config.scale_weight_norms)
        if self.ema:
            self.ema.update()

    def forget(self) -> None:
        """Leave nothing of a step that was given up."""
        self.optimizers.zero_grad()
        self.network.eval()

    def _gradients(self, batches: Sequence[list[int]], samples: int, rng: StepRandom, step: int) -> float:
        """Gather the scaled gradients of this process's share; the sum of its samples' losses."""
        device, sums = self.model.device, []
        for ids in batches:
            self.network.set_step(step, ids)
            with autocast(device, self.config.mixed_precision):
                losses = self.objective(self.model, self.data.batch(ids, device, rng.epoch, step), rng).loss
            (losses.sum() * (self.scaler.scale / samples)).backward()
            sums.append(losses.detach().sum())  # read once per step: each look at a card's number waits for it
        return float(sum(sums))


def train(trainer: Trainer, *, control: Control | None = None, first_step: int = 0) -> Iterator[Event]:
    """Train the network's adapters, which must be attached, and nothing else.

    A generator: the caller takes events and does between them what it wants (save, sample, show); the model
    is not in use while it does. Ends after the plan's steps, or early when ``control`` asks for it. Where ``control``
    asks for a state, a LoRA or a pause, ``Asked`` comes, which is the caller's to serve.

    Args:
        first_step: steps that were made before; an epoch that they complete is told again.

    Raises:
        StudioError: numbers are no longer finite and the guard has given up, or another process has failed.
    """
    plan, step = trainer.data.plan, first_step
    yield TrainingStarted(plan.total_steps, plan.steps_per_epoch, plan.epochs, step)
    while True:
        try:
            yield from _steps(trainer, control or Control(), step)
            return
        except NotFinite as fault:
            trainer.forget()
            step = trainer.guard.go_back(fault, _pictures(trainer.data, fault.step))
            yield WentBack(step, fault.step, f"{fault.what} not a finite number", trainer.schedule.scale)


def _steps(trainer: Trainer, control: Control, step: int) -> Iterator[Event]:
    """Steps and epochs after the first ``step`` steps.

    Raises:
        NotFinite: one of them gave no finite numbers.
    """
    plan = trainer.data.plan
    for epoch in range(1, plan.epochs + 1):
        before = (epoch - 1) * plan.steps_per_epoch
        if step > before + plan.steps_per_epoch:
            continue
        rng = StepRandom(trainer.config.seed, epoch)
        for batches in _global_batches(trainer.data, epoch)[step - before :]:
            if step == plan.total_steps:
                break
            while (wishes := trainer.processes.agree(control)).any:
                yield Asked(step, epoch, wishes)
            if wishes.stop:
                return
            trainer.guard.keep(step, trainer.parameters)
            done = _step_that_fits(trainer, batches, rng, step, epoch)
            step = done.step
            yield done
        yield EpochDone(epoch, step)


def _step_that_fits(trainer: Trainer, batches: Sequence[list[int]], rng: StepRandom, step: int, epoch: int) -> StepDone:
    try:
        return trainer.step(batches, rng, step, epoch)
    except torch.cuda.OutOfMemoryError as error:
        raise StudioError(
            f"the card's memory is full at step {step + 1}",
            field="train_batch_size",
            came=trainer.config.train_batch_size,
            allowed="a smaller batch, a lower resolution, gradient_checkpointing, or network_train_unet_only",
        ) from error


def _pictures(data: TrainingData, step: int) -> str:
    """The names of the pictures of a step, counted from 1, for a person."""
    epoch, place = divmod(step - 1, data.plan.steps_per_epoch)
    ids = [sample for batch in _global_batches(data, epoch + 1)[place] for sample in batch]
    names = [data.plan.entries[sample].record.path.name for sample in ids]
    return ", ".join(names[:_MOST_PICTURES]) + (" ..." if len(names) > _MOST_PICTURES else "")


def _global_batches(data: TrainingData, epoch: int) -> list[Sequence[list[int]]]:
    """The batches of each step of an epoch."""
    plan, batches = data.plan, data.epoch(epoch)
    size = plan.processes * plan.gradient_accumulation_steps
    return [batches[start : start + size] for start in range(0, len(batches), size)]
