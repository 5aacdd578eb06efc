"""The training loop: batches in, optimizer steps out, told as events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.base.events import EpochDone, Event, StepDone, TrainingStarted
from lib_lora.base.signals import Control
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import Batch, TrainingData
from lib_lora.training.objectives import LossTerms, StepRandom
from lib_lora.training.optimizers import OptimizerSet
from lib_lora.training.schedules import Schedule


class Objective(Protocol):
    """What is learnt from a batch: denoising, or another game altogether."""

    def __call__(self, model: DiffusionModel, batch: Batch, rng: StepRandom) -> LossTerms:
        """The weighted loss of each sample of the batch, with gradient."""


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
) -> Iterator[Event]:
    """Train the network's adapters, which must be attached, and nothing else.

    A generator: the caller takes events and does between them what it wants (save, sample, show); the model
    is not in use while it does. Ends after the plan's steps, or early when ``control`` asks for it.

    Raises:
        StudioError: the loss is no longer a finite number.
    """
    control = control or Control()
    plan = data.plan
    yield TrainingStarted(plan.total_steps, plan.steps_per_epoch, plan.epochs)
    step = 0
    for epoch in range(1, plan.epochs + 1):
        rng = StepRandom(config.seed, epoch)
        for batches in _groups(data.epoch(epoch), config.gradient_accumulation_steps):
            if control.stopping or step == plan.total_steps:
                break
            started = time.perf_counter()
            try:
                loss = _step(model, network, data, objective, config, optimizers, batches, rng, step)
            except torch.cuda.OutOfMemoryError as error:
                raise StudioError(
                    f"the card's memory is full at step {step + 1}",
                    field="train_batch_size",
                    came=config.train_batch_size,
                    allowed="a smaller batch, a lower resolution, or network_train_unet_only",
                ) from error
            rates = optimizers.learning_rates()
            schedule.step()
            step += 1
            yield StepDone(step, epoch, loss, rates, time.perf_counter() - started)
        if control.stopping:
            return
        yield EpochDone(epoch, step)


def _groups(batches: Sequence[list[int]], size: int) -> Iterator[Sequence[list[int]]]:
    for start in range(0, len(batches), size):
        yield batches[start : start + size]


def _step(
    model: DiffusionModel,
    network: Network,
    data: TrainingData,
    objective: Objective,
    config: TrainConfig,
    optimizers: OptimizerSet,
    batches: Sequence[list[int]],
    rng: StepRandom,
    step: int,
) -> float:
    """One optimizer step on the mean loss over all samples of ``batches``; that mean.

    The mean is over samples and not over batches: a smaller last batch must not weigh more per picture.
    """
    samples = sum(len(ids) for ids in batches)
    sums = []
    network.train()
    for micro_step, ids in enumerate(batches):
        network.set_step(step, micro_step)
        with _autocast(model.device, config.mixed_precision):
            losses = objective(model, data.batch(ids, model.device), rng).loss
        (losses.sum() / samples).backward()
        sums.append(losses.detach().sum())  # read once per step: each look at a card's number waits for it
    loss = float(sum(sums)) / samples
    if not loss - loss == 0.0:
        raise StudioError(
            f"the loss is not a finite number at step {step + 1}",
            field="learning_rate",
            came=config.learning_rate,
            allowed="a lower rate, a lower alpha, or mixed_precision no",
        )
    if config.max_grad_norm > 0:
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
    optimizers.step()
    optimizers.zero_grad()
    network.eval()
    return loss


def _autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision == "bf16")
