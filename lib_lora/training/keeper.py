"""A run's moving parts, put away as a state and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.training.same_run import check_same_run, describe_pictures, describe_run
from lib_lora.training.setup import Setup
from lib_lora.training.state import StateFolder, TrainingState

# Of the LoRA's metadata these belong to the run from its first step on.
_OF_THE_RUN = ("ss_session_id", "ss_training_started_at")


@dataclass
class StateKeeper:
    """Saves and loads all that changes during a run.

    Attributes:
        metadata: the LoRA's; a resumed run's session and start are put into it.
        last: the last state that was saved or loaded.
    """

    setup: Setup
    metadata: dict[str, str]
    folder: Path
    last: Path | None = field(default=None, init=False)
    _written: tuple[int, int] | None = field(default=None, init=False)  # step, and how often the run had gone back

    def save(self, step: int, log: bytes) -> Path:
        """Write the state after ``step`` steps, unless that was done the last time; its folder.

        Args:
            log: the bytes of loss.csv.
        """
        written = (step, self.setup.guard.returns)
        if written == self._written:
            return self.last
        kept = {key: self.metadata[key] for key in _OF_THE_RUN}
        machine = {name: part.state_dict() for name, part in self._machine.items()}
        weights = self.setup.network.state_dict()
        state = TrainingState(step, self.run_id, weights, machine, self._description, kept, log)
        self.last = StateFolder(self.folder, self.run_id, self.setup.config.keep_states).save(state)
        self._written = written
        return self.last

    def load(self, state: TrainingState, path: Path) -> list[str]:
        """Take up ``state``, which was read from ``path``; what a person should know of it.

        Raises:
            StudioError: it is of another run, or of a longer one.
        """
        notes = check_same_run(state.described, self._description, path)
        if state.step > self.setup.plan.total_steps:
            raise StudioError(
                f"the state is {state.step} steps old, which is longer than the run",
                field="max_train_steps",
                came=self.setup.plan.total_steps,
                allowed=f"at least {state.step}",
            )
        self._load_weights(state.weights, path)
        for name, part in self._machine.items():
            if name in state.machine:  # a version without it saved none
                part.load_state_dict(state.machine[name])
        self.metadata.update(state.metadata)
        self.last = path
        return notes

    def _load_weights(self, weights: Mapping[str, Any], path: Path) -> None:
        try:
            self.setup.network.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise StudioError(f"the weights do not fit the network: {error}", field="resume", file=path) from error

    @property
    def run_id(self) -> str:
        return self.metadata["ss_session_id"]

    @property
    def _machine(self) -> dict[str, Any]:
        parts = {name: part for name, part in self.setup.parts.items() if name != "weights"}
        return {**parts, "guard": self.setup.guard}

    @cached_property
    def _description(self) -> dict[str, Any]:
        return describe_run(
            self.setup.config,
            self.setup.plan,
            self.setup.model,
            self.metadata,
            describe_pictures(self.setup.plan, masks=self.setup.config.masked_loss),
        )
