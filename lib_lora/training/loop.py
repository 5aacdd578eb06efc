"""The training loop: batches in, optimizer steps out, told as events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.base.events import EpochDone, Event, StepDone, TrainingStarted
from lib_lora.base.signals import Control
from lib_lora.models.device import used_memory_mb
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch, TrainingData
from lib_lora.training.half import autocast
from lib_lora.training.objectives import LossTerms, StepRandom
from lib_lora.training.optimizers import OptimizerSet
from lib_lora.training.processes import ALONE, Processes, Wishes
from lib_lora.training.scaler import LossScaler
from lib_lora.training.schedules import Schedule


class Objective(Protocol):
    """What is learnt from a batch: denoising, or another game altogether."""

    def __call__(self, model: DiffusionModel, batch: Batch, rng: StepRandom) -> LossTerms:
        """The weighted loss of each sample of the batch, with gradient."""


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
        if not loss - loss == 0.0:
            raise StudioError(
                f"the loss is not a finite number at step {step + 1}",
                field="learning_rate",
                came=self.config.learning_rate,
                allowed="a lower rate, a lower alpha, or mixed_precision no",
            )
        finite = self.scaler.unscale(self.parameters)
        if finite:
            if self.config.max_grad_norm > 0:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
            self.optimizers.step()
        rates = self.optimizers.learning_rates()
        self.optimizers.zero_grad()
        self.network.eval()
        self.schedule.step()
        seconds, memory_mb = time.perf_counter() - started, used_memory_mb(self.model.device)
        return StepDone(step + 1, epoch, loss, rates, seconds, skipped=not finite, memory_mb=memory_mb)

    def _gradients(self, batches: Sequence[list[int]], samples: int, rng: StepRandom, step: int) -> float:
        """Gather the scaled gradients of this process's share; the sum of its samples' losses."""
        device, sums = self.model.device, []
        for ids in batches:
            self.network.set_step(step, ids)
            with autocast(device, self.config.mixed_precision):
                losses = self.objective(self.model, self.data.batch(ids, device, rng.epoch), rng).loss
            (losses.sum() * (self.scaler.scale / samples)).backward()
            sums.append(losses.detach().sum())  # read once per step: each look at a card's number waits for it
        return float(sum(sums))


def train(
    model: DiffusionModel,
    network: Network,
    data: TrainingData,
    objective: Objective,
    config: TrainConfig,
    optimizers: OptimizerSet,
    schedule: Schedule,
    *,
    control: Control | None = None,
    processes: Processes = ALONE,
    scaler: LossScaler | None = None,
    first_step: int = 0,
) -> Iterator[Event]:
    """Train the network's adapters, which must be attached, and nothing else.

    A generator: the caller takes events and does between them what it wants (save, sample, show); the model
    is not in use while it does. Ends after the plan's steps, or early when ``control`` asks for it. Where ``control``
    asks for a state, a LoRA or a pause, ``Asked`` comes, which is the caller's to serve.

    Args:
        scaler: of the loss; made as ``config.mixed_precision`` asks where it is not given.
        first_step: steps that were made before; an epoch that they complete is told again.

    Raises:
        StudioError: the loss is no longer a finite number, or another process has failed.
    """
    control = control or Control()
    scaler = scaler or LossScaler(config.mixed_precision == "fp16")
    trainer = Trainer(model, network, data, objective, config, optimizers, schedule, scaler, processes)
    plan, step = data.plan, first_step
    yield TrainingStarted(plan.total_steps, plan.steps_per_epoch, plan.epochs, step)
    for epoch in range(1, plan.epochs + 1):
        before = (epoch - 1) * plan.steps_per_epoch
        if step > before + plan.steps_per_epoch:
            continue
        rng = StepRandom(config.seed, epoch)
        for batches in _global_batches(data, epoch)[step - before :]:
            if step == plan.total_steps:
                break
            while (wishes := processes.agree(control)).any:
                yield Asked(step, epoch, wishes)
            if wishes.stop:
                return
            try:
                done = trainer.step(batches, rng, step, epoch)
            except torch.cuda.OutOfMemoryError as error:
                raise StudioError(
                    f"the card's memory is full at step {step + 1}",
                    field="train_batch_size",
                    came=config.train_batch_size,
                    allowed="a smaller batch, a lower resolution, gradient_checkpointing, or network_train_unet_only",
                ) from error
            step = done.step
            yield done
        yield EpochDone(epoch, step)


def _global_batches(data: TrainingData, epoch: int) -> list[Sequence[list[int]]]:
    """The batches of each step of an epoch."""
    plan, batches = data.plan, data.epoch(epoch)
    size = plan.processes * plan.gradient_accumulation_steps
    return [batches[start : start + size] for start in range(0, len(batches), size)]
