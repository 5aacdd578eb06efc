"""The loss of held-out pictures at fixed noise and timesteps: what a LoRA has learnt beyond the pictures it saw."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_lora.dataset.plan import Plan, epoch_batches
from lib_lora.models.model import DiffusionModel
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import TrainingData
from lib_lora.training.denoising import Denoising
from lib_lora.training.draws import NoiseOptions, StepRandom, sample_draws
from lib_lora.training.folder_settings import VARIATIONS
from lib_lora.training.half import autocast
from lib_lora.training.objectives import DenoisingOptions
from lib_lora.training.processes import Processes

TIMESTEPS = 4  # as many as sd-scripts measures each picture at
# A plain squared error: runs with other losses and noises can be compared by it.
_PLAIN = {each.name: each.default for each in dataclasses.fields(DenoisingOptions)}


@dataclass(frozen=True)
class Measurement:
    """One validation: after which step, in which epoch, and the mean loss."""

    step: int
    epoch: int
    loss: float


@dataclass
class History:
    """The validations of a run so far, which is all that is saved of them.

    Attributes:
        patience: how many in a row may be no better than the best; None is any number.
        measured: one after the other; those of steps that the run went back from are left out.
        best: the lowest of all, of equal ones the first.
        since_best: how many came after the best, those that were left out not counted.
    """

    patience: int | None = None
    measured: list[Measurement] = field(default_factory=list)
    best: Measurement | None = None
    since_best: int = 0

    @property
    def last(self) -> Measurement | None:
        return self.measured[-1] if self.measured else None

    @property
    def is_exhausted(self) -> bool:
        """Whether the last ``patience`` validations were none better than the best before them."""
        return self.patience is not None and self.best is not None and self.since_best >= self.patience

    def add(self, measurement: Measurement) -> bool:
        """Take it up; whether it is the best so far."""
        self.measured.append(measurement)
        if self.best is None or measurement.loss < self.best.loss or not math.isfinite(self.best.loss):
            self.best = measurement
        self.since_best = 0 if self.best is measurement else self.since_best + 1
        return self.best is measurement

    def go_back(self, step: int) -> None:
        """Forget what was measured after ``step``; a best one among it was one all the same."""
        self.measured = [each for each in self.measured if each.step <= step]
        self.since_best = sum(each.step > self.best.step for each in self.measured) if self.best else 0

    def metadata(self) -> dict[str, str]:
        """What a LoRA says of its validation; ``ss_validation_*`` beside sd-scripts' own keys."""
        if self.best is None or self.last is None:
            return {}
        return {
            "ss_validation_loss": f"{self.last.loss:.6g}",
            "ss_validation_best_loss": f"{self.best.loss:.6g}",
            "ss_validation_best_step": str(self.best.step),
            "ss_validation_best_epoch": str(self.best.epoch),
        }

    def state_dict(self) -> dict[str, Any]:
        best = self.best and list(dataclasses.astuple(self.best))
        measured = [list(dataclasses.astuple(each)) for each in self.measured]
        return {"measured": measured, "best": best, "since_best": self.since_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.measured = [Measurement(*each) for each in state["measured"]]
        self.best = Measurement(*state["best"]) if state["best"] else None
        self.since_best = int(state["since_best"])


def plain_config(config: TrainConfig) -> TrainConfig:
    """The options under which held-out pictures are shown: as they are, with the plain loss."""
    defaults = {each.name: each.default for each in dataclasses.fields(TrainConfig)}
    return dataclasses.replace(config, **_PLAIN, **{name: defaults[name] for name in VARIATIONS})


class Validation:
    """Measures the held-out pictures of a plan.

    Args:
        plan: of the held-out pictures alone.
        config: the run's.
    """

    def __init__(self, plan: Plan, config: TrainConfig, model: DiffusionModel) -> None:
        self.model = model
        self.config = plain_config(config)
        self.seed = config.seed if config.validation_seed is None else config.validation_seed
        self.data = TrainingData(plan, self.config, model, varied=False)
        self.objective = Denoising(self.config, model)
        self.history = History(config.early_stop_patience)

    def is_due(self, *, step: int | None = None, epoch: int | None = None) -> bool:
        """Whether the options want a measurement after this step, or after this epoch."""
        config = self.config
        if step is not None:
            return bool(config.validate_every_n_steps) and step % config.validate_every_n_steps == 0
        every = config.validate_every_n_epochs or (None if config.validate_every_n_steps else 1)
        return bool(every) and epoch % every == 0

    @torch.no_grad()
    def measure(self, processes: Processes) -> float:
        """The mean squared error over all held-out pictures at each of ``timesteps``; the same for all processes."""
        total = 0.0
        batches = epoch_batches(self.data.plan, seed=self.seed, epoch=0)
        for ids in processes.share(batches):
            total += self._sum(ids)
        return processes.sum(total) / (len(self.data.plan.entries) * len(self.timesteps))

    @property
    def timesteps(self) -> list[int]:
        """Evenly spread within those that are trained, the ends left out."""
        low, high = self.config.min_timestep, self.config.max_timestep
        return [low + (high - low) * place // (TIMESTEPS + 1) for place in range(1, TIMESTEPS + 1)]

    def _sum(self, ids: list[int]) -> float:
        device = self.model.device
        batch = self.data.batch(ids, device, epoch=0)
        losses = []
        for timestep in self.timesteps:
            # The timestep takes the epoch's place as the owner of the noise.
            rng = StepRandom(self.seed, timestep)
            draws = sample_draws(batch.latents.shape[1:], rng.seed, rng.epoch, batch.sample_ids, NoiseOptions())
            draws = dataclasses.replace(draws, timesteps=torch.full((len(ids),), timestep))
            with autocast(device, self.config.mixed_precision):
                losses.append(self.objective.loss(self.model, batch, rng, draws).raw.sum())
        return float(sum(losses))
