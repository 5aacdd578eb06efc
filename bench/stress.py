"""Runs that are killed again and again, and whether they end as the unbroken one: ``python bench/stress.py``.

Each trial trains a tiny checkpoint, kills the process (SIGKILL) up to three times, at a random moment of a random step
or at a random file operation (mostly in the middle of saving a state or a LoRA), or pauses it, and resumes it each time
from the last state. The LoRA must be that of a run which nobody disturbed, bit for bit, and so must the loss log; no
half-written file may look whole. Needs a system with fork.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]

STEPS = 8
_LONGEST_DELAY_S = {"step": 0.15, "file": 0.004}
_NAME = "zorb"
# Loaded once, by the server from which every run's process is forked.
_HEAVY = [
    "lib_lora.training.run",
    "lib_lora.models.build",
    "torch.utils.tensorboard",
    "torch._dynamo",
]


@dataclass(frozen=True)
class Disturbance:
    """What happens to one process.

    Attributes:
        kind: "step": killed some time after a step; "file": killed at or shortly after a file operation in the output
            folder; "": not killed.
        number: of the step or file operation, from 1.
        delay_s: how long after it.
        pause: the step after which the run is paused, and resumed in the same process; 0: it is not.
    """

    kind: str = ""
    number: int = 0
    delay_s: float = 0.0
    pause: int = 0

    def __str__(self) -> str:
        delay = f"+{1000 * self.delay_s:.0f}ms" if self.delay_s else ""
        words = [f"{self.kind} {self.number}{delay}"] if self.kind else []
        return " and ".join(words + [f"pause {self.pause}"] * bool(self.pause))


@dataclass(frozen=True)
class Outcome:
    """One trial: what was done, and what was wrong in the end (nothing, it is hoped)."""

    disturbances: list[str]
    resumed_from: list[int]
    problems: list[str]
    seconds: float


@dataclass
class _FileWatch:
    """Counts what is opened, made, renamed and deleted in a folder."""

    folder: str
    disturbance: Disturbance
    count: int = 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            return
        if not isinstance(arguments[0], (str, Path)) or not str(arguments[0]).startswith(self.folder):
            return
        self.count += 1
        if self.disturbance.kind == "file" and self.count == self.disturbance.number:
            _die(self.disturbance.delay_s)


def _die(delay_s: float) -> None:
    if delay_s:
        threading.Timer(delay_s, _die, (0,)).start()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def run(options: dict[str, Any], disturbance: Disturbance, counted: Any) -> None:
    """A run in a process of its own; ``counted`` gets the number of its file operations."""
    import torch

    from lib_lora.base.events import Paused, StepDone
    from lib_lora.base.options import from_mapping
    from lib_lora.training.config import TrainConfig
    from lib_lora.training.run import Run

    torch.set_num_threads(1)
    watch = _FileWatch(str(options["output_dir"]), disturbance)
    sys.addaudithook(watch)
    job = Run(from_mapping(TrainConfig, options))
    for event in job.events():
        if isinstance(event, StepDone) and event.step == disturbance.pause:
            job.control.pause()
        if isinstance(event, StepDone) and disturbance.kind == "step" and event.step == disturbance.number:
            _die(disturbance.delay_s)
        if isinstance(event, Paused):
            job.control.resume()
    counted.value = watch.count


@dataclass
class Stress:
    """The tiny checkpoint and dataset in ``folder``, and the LoRA and log of the run that nobody disturbs."""

    folder: Path
    file_operations: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_HEAVY)
        self._options = _options(self.folder)
        code, self.file_operations = self._run(self.folder / "unbroken", Disturbance())
        if code:
            raise RuntimeError("the unbroken run has failed")
        self._lora, self._log = _lora(self.folder / "unbroken"), _log(self.folder / "unbroken")

    def trial(self, seed: int) -> Outcome:
        """Disturb a run as ``seed`` says until it comes to its end."""
        draw, folder, started = random.Random(seed), self.folder / f"trial{seed}", time.perf_counter()
        done, resumed_from, problems = [], [], []
        for kills_left in range(draw.randint(1, 3), -1, -1):
            disturbance = self._draw(draw, _last_step(folder), kills=kills_left > 0)
            code, _ = self._run(folder, disturbance)
            done.append(f"{str(disturbance) or 'nothing'}{'' if code else ', to the end'}")
            if code not in (0, -signal.SIGKILL):
                problems.append(f"exit code {code}")
            problems += self._look(folder, ended=code == 0)
            if code == 0:
                break
            resumed_from.append(_last_step(folder))
        if not problems:
            shutil.rmtree(folder)
        return Outcome(done, resumed_from, problems, time.perf_counter() - started)

    def _draw(self, draw: random.Random, steps_done: int, *, kills: bool) -> Disturbance:
        """Something that happens in what is left of a run."""
        steps_left = max(1, STEPS - steps_done)
        pause = steps_done + draw.randint(1, steps_left) if draw.random() < 0.4 else 0
        if not kills:
            return Disturbance(pause=pause)
        kind = draw.choice(("step", "file"))
        number = steps_done + draw.randint(1, steps_left)
        if kind == "file":
            number = draw.randint(1, max(1, self.file_operations * steps_left // STEPS))
        return Disturbance(kind, number, draw.choice((0.0, draw.uniform(0, _LONGEST_DELAY_S[kind]))), pause)

    def _run(self, folder: Path, disturbance: Disturbance) -> tuple[int, int]:
        """(exit code, file operations) of a process that begins the run or goes on with it."""
        options = {**self._options, "output_dir": folder}
        if _last_step(folder):
            options["resume"] = folder / f"{_NAME}-state"
        counted = self._context.Value("i", 0)
        process = self._context.Process(target=run, args=(options, disturbance, counted))
        process.start()
        process.join()
        return process.exitcode, counted.value

    def _look(self, folder: Path, *, ended: bool) -> list[str]:
        """What is wrong in the output folder after a process has gone."""
        from lib_lora.base.errors import StudioError
        from lib_lora.files.safetensors_file import read_header
        from lib_lora.training.state import read_state, states_in

        problems = []
        try:
            for path in folder.glob("*.safetensors"):
                read_header(path)
            for path in states_in(folder / f"{_NAME}-state"):
                read_state(path)
        except StudioError as error:
            problems.append(str(error))
        final = folder / f"{_NAME}.safetensors"
        if ended and not final.exists():
            problems.append("no LoRA in the end")
        if final.exists() and _lora(folder) != self._lora:
            problems.append("another LoRA")
        if ended and _log(folder) != self._log:
            problems.append("another loss.csv")
        if ended and list(folder.rglob(".*.tmp")):
            problems.append("temporary files are left")
        return problems


def _options(folder: Path) -> dict[str, Any]:
    """Two buckets, partial batches, accumulation, a schedule, every dropout: all that a resumption may get wrong."""
    from PIL import Image

    from tiny import write_checkpoint

    pictures = folder / "pictures" / "2_zorb"
    pictures.mkdir(parents=True)
    for index in range(5):
        size = (192, 128) if index == 4 else (128, 128)
        Image.new("RGB", size, (40 * index, 80, 200)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text("zorb, red" if index % 2 else "zorb, blue", encoding="utf-8")
    return {
        "pretrained_model_name_or_path": write_checkpoint(folder / "checkpoint"),
        "train_data_dir": pictures.parent,
        "output_name": _NAME,
        "overwrite": True,
        "network_dim": 2,
        "network_alpha": 2,
        "network_targets": "attention",
        "network_dropout": 0.2,
        "rank_dropout": 0.2,
        "module_dropout": 0.2,
        "resolution": "64",
        "min_bucket_reso": 64,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_train_steps": STEPS,
        "learning_rate": 1e-2,
        "lr_scheduler": "cosine",
        "save_precision": "float",
        "save_every_n_steps": 3,
        "save_state_every_n_steps": 2,
        "keep_states": 2,
        "device": "cpu",
    }


def _last_step(folder: Path) -> int:
    """The step of the last state; 0 where there is none."""
    from lib_lora.training.state import states_in

    states = states_in(folder / f"{_NAME}-state")
    return int(states[-1].name.removeprefix("step")) if states else 0


def _lora(folder: Path) -> dict[str, bytes]:
    """Every tensor's bytes; the metadata hold times."""
    from lib_lora.files.lora_file import LoraFile

    tensors = LoraFile.read(folder / f"{_NAME}.safetensors").tensors
    return {key: bytes(tensor.bytes()) for key, tensor in tensors.items()}


def _log(folder: Path) -> list[dict[str, str]]:
    with open(folder / f"{_NAME}-log" / "loss.csv", newline="", encoding="utf-8") as file:
        return [{key: text for key, text in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="number of the first trial")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stress-"))
    stress = Stress(folder)
    print(f"{STEPS} steps, {stress.file_operations} file operations in a run that nobody disturbs")
    print(f"{'trial':>5}  {'s':>5}  {'resumed from':<14}  {'result':<8}  disturbed")
    outcomes = []
    for seed in range(arguments.seed, arguments.seed + arguments.trials):
        outcome = stress.trial(seed)
        outcomes.append(outcome)
        steps = ", ".join(map(str, outcome.resumed_from))
        result = "; ".join(outcome.problems) or "equal"
        print(
            f"{seed:>5}  {outcome.seconds:>5.1f}  {steps:<14}  {result:<8}  {'; '.join(outcome.disturbances)}",
            flush=True,
        )
    bad = sum(bool(outcome.problems) for outcome in outcomes)
    kills = sum(len(outcome.resumed_from) for outcome in outcomes)
    print(f"{len(outcomes) - bad} of {len(outcomes)} trials equal, bit for bit, after {kills} kills")
    if bad:
        print(f"what they left: {folder}")
    else:
        shutil.rmtree(folder)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
