"""A run's state on disk, from which it goes on bit for bit: safetensors and JSON, no pickle.

A state is a folder ``step00000120``, whole or not there at all:

    weights.safetensors     the adapters' parameters as they are trained
    optimizer.safetensors   every tensor of the optimizers' states
    state.json              the step, everything else of the optimizers, schedule and scaler, what the run is of
    loss.csv                the log up to this step

No generator is kept: every draw has an owner made of the seed, the epoch and the sample. Data order and place in the
epoch follow from the seed and the step, and between two steps no gradient is gathered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib_lora.adapters.save import read_tensors, tensor_data
from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import atomic_folder, delete_folder, write_bytes, write_text
from lib_lora.files.safetensors_file import write_safetensors
from lib_lora.training.packing import pack, unpack

FORMAT = "LoRA Studio training state 1"
STATE_NAME = r"step\d{8}"


@dataclass(frozen=True)
class TrainingState:
    """What a run needs to go on.

    Attributes:
        step: optimizer steps done.
        run_id: the same for a run and everything resumed from it.
        weights: the network's ``state_dict``.
        machine: ``state_dict`` of the optimizers, the schedule and the loss scaler, by name.
        described: what the run is of; see ``same_run``.
        metadata: what the LoRA's metadata keep over a pause, such as when it began.
        log: the bytes of ``loss.csv``.
    """

    step: int
    run_id: str
    weights: Mapping[str, torch.Tensor]
    machine: Mapping[str, Any]
    described: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    log: bytes = b""


def write_state(folder: Path, state: TrainingState) -> None:
    """Write ``state`` as the folder ``folder``; one that is there gives way when the new one is whole.

    Raises:
        StudioError: the disk is full, the place cannot be written, or an optimizer keeps what cannot be saved.
    """
    tensors: dict[str, torch.Tensor] = {}
    table = {
        "format": FORMAT,
        "step": state.step,
        "run_id": state.run_id,
        "machine": pack(dict(state.machine), tensors, "state"),
        "described": state.described,
        "metadata": dict(state.metadata),
    }
    with atomic_folder(folder) as new:
        write_safetensors(new / "weights.safetensors", tensor_data(state.weights))
        write_safetensors(new / "optimizer.safetensors", tensor_data(tensors))
        write_bytes(new / "loss.csv", state.log)
        write_text(new / "state.json", json.dumps(table, ensure_ascii=False))
        if folder.exists():
            delete_folder(folder)


def read_state(path: Path) -> TrainingState:
    """The state in the folder ``path``, or the last one where ``path`` holds several.

    Raises:
        StudioError: there is none, or it is damaged.
    """
    folder = find_state(path)
    table = _read_table(folder)
    weights, _ = read_tensors(folder / "weights.safetensors")
    tensors, _ = read_tensors(folder / "optimizer.safetensors")
    try:
        log = (folder / "loss.csv").read_bytes()
        machine = unpack(table["machine"], tensors)
        return TrainingState(
            table["step"], table["run_id"], weights, machine, table["described"], table["metadata"], log
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise StudioError(f"the state is damaged ({error})", field="resume", file=folder) from error


def find_state(path: Path) -> Path:
    """``path`` itself, or the last state in it.

    Raises:
        StudioError: there is none.
    """
    if (path / "state.json").is_file():
        return path
    states = states_in(path)
    if not states:
        raise StudioError("no state of a run", field="resume", file=path, allowed="a folder <output_name>-state")
    return states[-1]


def run_of(path: Path) -> str:
    """The ``run_id`` of the state that ``find_state`` finds.

    Raises:
        StudioError: there is none, or it is damaged.
    """
    return _read_table(find_state(path))["run_id"]


def states_in(folder: Path) -> list[Path]:
    """The states in ``folder``, the earliest step first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(STATE_NAME, path.name) and path.is_dir())


def _read_table(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudioError(f"cannot be read ({error})", field="resume", file=path) from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        came = table.get("format") if isinstance(table, dict) else type(table).__name__
        raise StudioError("another program's or version's state", field="resume", file=path, came=came, allowed=FORMAT)
    return table


class StateFolder:
    """Where a run keeps its states, ``<output_name>-state``.

    Args:
        path: the folder; made with the first state.
        run_id: states of another run are deleted once this run has one of its own.
        keep: how many of the last states stay.
    """

    def __init__(self, path: Path, run_id: str, keep: int = 1) -> None:
        self.path = path
        self.run_id = run_id
        self.keep = keep

    def save(self, state: TrainingState) -> Path:
        """Write ``state``, then delete what is too old or a step's beyond it.

        States beyond it, and one of the same step, belong to a way that was left: the run was resumed from before
        them, or went back behind them.
        """
        folder = self.path / f"step{state.step:08d}"
        write_state(folder, state)
        others = [path for path in states_in(self.path) if path != folder]
        mine = [path for path in others if path.name < folder.name and self._is_mine(path)]
        for path in others:
            if path not in mine[max(0, len(mine) - self.keep + 1) :]:
                delete_folder(path)
        return folder

    def _is_mine(self, folder: Path) -> bool:
        return _read_table(folder)["run_id"] == self.run_id
