"""The training loop of the demo's UNet and VAE: cosine rate, averaged weights, going on after a stop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LoopRecipe:
    """What every training has."""

    steps: int
    batch: int
    learning_rate: float
    seed: int
    warmup_steps: int = 100
    last_rate: float = 0.01  # share of the learning rate at the end of the cosine
    ema_decay: float = 0.998
    save_seconds: float = 240.0
    snapshot_steps: int = 500
    log_steps: int = 50


def rate_factor(step: int, recipe: LoopRecipe) -> float:
    """Share of the learning rate at a step: linear warm-up, then cosine."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = min((step - recipe.warmup_steps) / max(recipe.steps - recipe.warmup_steps, 1), 1.0)
    return recipe.last_rate + (1 - recipe.last_rate) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema = decay ema + (1 - decay) model, for every parameter."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


class TrainingLoop:
    """Trains `model`; its state is in work/<name>_state.pt and averaged weights in work/<name>_ema_<step>.pt.

    A parameter group's "rate", if it has one, multiplies the learning rate.
    """

    def __init__(
        self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: LoopRecipe, work: Path
    ) -> None:
        self.name, self.model, self.optimizer, self.recipe, self.work = name, model, optimizer, recipe, work
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.step = 0
        self.losses: list[float] = []
        self.logged = self.saved = time.time()
        if self.state_path.exists():
            self.load()

    @property
    def state_path(self) -> Path:
        """Where everything is that is needed to go on."""
        return self.work / f"{self.name}_state.pt"

    def run(
        self, draw_loss: Callable[[], Tensor], after_update: Callable[[], None], note: Callable[[], str]
    ) -> None:
        """Step until the recipe's steps are done; `note` is added to the log at each snapshot."""
        while self.step < self.recipe.steps:
            self.losses.append(self.update(draw_loss))
            after_update()
            self.step += 1
            # The average forgets its untrained start soon.
            update_ema(self.ema, self.model, min(self.recipe.ema_decay, self.step / (self.step + 9)))
            self.keep_records(note)

    def update(self, draw_loss: Callable[[], Tensor]) -> float:
        """One step of the optimizer; returns the loss."""
        for group in self.optimizer.param_groups:
            rate = group.get("rate", 1.0) * rate_factor(self.step, self.recipe)
            group["lr"] = self.recipe.learning_rate * rate
        self.optimizer.zero_grad()
        loss = draw_loss()
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        self.optimizer.step()
        return loss.item()

    def keep_records(self, note: Callable[[], str]) -> None:
        """Log, snapshot and save where one of them is due."""
        is_last = self.step == self.recipe.steps
        if self.step % self.recipe.log_steps == 0:
            pace = (time.time() - self.logged) / len(self.losses)
            mean = sum(self.losses) / len(self.losses)
            print(f"{self.name} {self.step}: loss {mean:.5f}, {pace:.2f} s a step", flush=True)
            self.losses, self.logged = [], time.time()
        if is_last or self.step % self.recipe.snapshot_steps == 0:
            torch.save(self.ema.state_dict(), self.work / f"{self.name}_ema_{self.step}.pt")
            print(f"{self.name} {self.step}: snapshot {note()}", flush=True)
        if is_last or time.time() - self.saved > self.recipe.save_seconds:
            self.save()

    def save(self) -> None:
        """Write the state; through a second file, so that a stop in between loses nothing."""
        state = {"step": self.step, "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict()}
        part = self.state_path.with_suffix(".part")
        torch.save({**state, self.name: self.model.state_dict()}, part)
        part.replace(self.state_path)
        self.saved = time.time()

    def load(self) -> None:
        """Go on from the saved state."""
        state = torch.load(self.state_path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state[self.name])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
