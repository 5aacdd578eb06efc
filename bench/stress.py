"""Runs that are killed again and again, and whether they end as the unbroken one: ``python bench/stress.py``.

Each trial trains a tiny checkpoint, kills the process (SIGKILL) up to three times, at a random moment of a random step
or at a random file operation (mostly in the middle of saving a state or a LoRA), or pauses it, and resumes it each time
from the last state. The LoRA must be that of a run which nobody disturbed, bit for bit, and so must the loss log; no
half-written file may look whole. Needs a system with fork.

``python bench/stress.py --queue`` does so with the process that holds a queue of two jobs, on a model lent by a host:
at each start after a kill the queue is opened again and what was interrupted is resumed.

``python bench/stress.py --dataset`` kills batch edits, undo, redo, moves and deletions of a dataset of captions: after
each kill every caption must be as it was before or after the change that was cut off, never empty or cut, and in the
end undo must bring back every file of the beginning.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
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
    "lib_lora.jobs.queue",
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
    steps = STEPS

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_HEAVY)
        self._options = _options(self.folder)
        code, self.file_operations = self._run(self.folder / "unbroken", Disturbance())
        if code:
            raise RuntimeError("the unbroken run has failed")
        self._expected = self._results(self.folder / "unbroken")

    def trial(self, seed: int) -> Outcome:
        """Disturb a run as ``seed`` says until it comes to its end."""
        draw, folder, started = random.Random(seed), self.folder / f"trial{seed}", time.perf_counter()
        done, resumed_from, problems = [], [], []
        for kills_left in range(draw.randint(1, 3), -1, -1):
            disturbance = self._draw(draw, self._steps_done(folder), kills=kills_left > 0)
            code, _ = self._run(folder, disturbance)
            done.append(f"{str(disturbance) or 'nothing'}{'' if code else ', to the end'}")
            if code not in (0, -signal.SIGKILL):
                problems.append(f"exit code {code}")
            problems += self._look(folder, ended=code == 0)
            if code == 0:
                break
            resumed_from.append(self._steps_done(folder))
        if not problems:
            shutil.rmtree(folder)
        return Outcome(done, resumed_from, problems, time.perf_counter() - started)

    def _draw(self, draw: random.Random, steps_done: int, *, kills: bool) -> Disturbance:
        """Something that happens in what is left of a run."""
        steps_left = max(1, self.steps - steps_done)
        pause = steps_done + draw.randint(1, steps_left) if draw.random() < 0.4 else 0
        if not kills:
            return Disturbance(pause=pause)
        kind = draw.choice(("step", "file"))
        number = steps_done + draw.randint(1, steps_left)
        if kind == "file":
            number = draw.randint(1, max(1, self.file_operations * steps_left // self.steps))
        return Disturbance(kind, number, draw.choice((0.0, draw.uniform(0, _LONGEST_DELAY_S[kind]))), pause)

    def _run(self, folder: Path, disturbance: Disturbance) -> tuple[int, int]:
        """(exit code, file operations) of a process that begins the run or goes on with it."""
        options = {**self._options, "output_dir": folder}
        if self._steps_done(folder):
            options["resume"] = folder / f"{_NAME}-state"
        return self._process(run, options, disturbance)

    def _process(self, work: Callable[..., None], *arguments: Any) -> tuple[int, int]:
        counted = self._context.Value("i", 0)
        process = self._context.Process(target=work, args=(*arguments, counted))
        process.start()
        process.join()
        return process.exitcode, counted.value

    def _steps_done(self, folder: Path) -> int:
        """How many steps are kept."""
        return _last_step(folder / f"{_NAME}-state")

    def _results(self, folder: Path) -> dict[str, Any]:
        """What must be as after the unbroken run; what is not there yet is left out."""
        return _result(folder / f"{_NAME}.safetensors", folder / f"{_NAME}-log")

    def _look(self, folder: Path, *, ended: bool) -> list[str]:
        """What is wrong in the output folder after a process has gone."""
        from lib_lora.base.errors import StudioError

        problems = []
        try:
            problems += self._files(folder)
        except (StudioError, OSError, ValueError) as error:
            problems.append(str(error))
        results = self._results(folder)
        # A log is looked at in the end alone: a run that goes on begins with the rows up to its state.
        looked_at = {name: result for name, result in results.items() if ended or name.endswith(".safetensors")}
        problems += [f"another {name}" for name, result in looked_at.items() if result != self._expected[name]]
        if ended:
            problems += [f"no {name} in the end" for name in self._expected if name not in results]
        if ended and list(folder.rglob(".*.tmp")):
            problems.append("temporary files are left")
        return problems

    def _files(self, folder: Path) -> Iterator[str]:
        """What is wrong with single files; whatever they raise is wrong, too."""
        from lib_lora.files.safetensors_file import read_header
        from lib_lora.training.state import read_state, states_in

        for path in folder.glob("*.safetensors"):
            read_header(path)
        for path in states_in(folder / f"{_NAME}-state"):
            read_state(path)
        yield from ()


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


def _last_step(states: Path) -> int:
    """The step of the last state; 0 where there is none."""
    from lib_lora.training.state import states_in

    found = states_in(states)
    return int(found[-1].name.removeprefix("step")) if found else 0


def _result(lora: Path, log: Path) -> dict[str, Any]:
    """Every tensor's bytes of a finished LoRA, whose metadata hold times, and its loss log; nothing of another."""
    from lib_lora.files.lora_file import LoraFile

    if not lora.exists():
        return {}
    tensors = LoraFile.read(lora).tensors
    with open(log / "loss.csv", newline="", encoding="utf-8") as file:
        rows = [{key: text for key, text in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    return {lora.name: {key: bytes(tensor.bytes()) for key, tensor in tensors.items()}, f"{lora.stem}.csv": rows}


# The process that holds a queue


_JOBS = (_NAME, f"{_NAME}2")


def serve(folder: Path, values: dict[str, Any], disturbance: Disturbance, counted: Any) -> None:
    """A queue of two jobs in a process of its own, begun or gone on with; ``counted`` gets its file operations."""
    import torch

    from lib_lora.jobs.queue import JobQueue
    from tiny_host import TinyHost

    torch.set_num_threads(1)
    watch = _FileWatch(str(folder), disturbance)
    sys.addaudithook(watch)
    queue = JobQueue(TinyHost(folder, Path(values["pretrained_model_name_or_path"])))
    for name in _JOBS[len(queue.jobs()) :]:
        queue.add("train", {**values, "output_name": name})
    for job in reversed(queue.jobs()):
        if job.status == "interrupted":
            queue.resume(job.id)
    queue.start()
    paused = False
    while any(job.status != "done" for job in queue.jobs()):
        steps = sum(job.state.step for job in queue.jobs())
        if disturbance.kind == "step" and steps >= disturbance.number:
            _die(disturbance.delay_s)
        for job in queue.jobs():
            if job.status == "failed":
                raise RuntimeError(job.log_text())
            if job.status == "running" and 0 < disturbance.pause <= steps and not paused:
                paused = True
                queue.pause(job.id)
            elif job.status == "paused":
                queue.resume(job.id)
        time.sleep(0.001)
    queue.close()
    counted.value = watch.count


class QueueStress(Stress):
    """The same with a queue."""

    steps = len(_JOBS) * STEPS

    def _run(self, folder: Path, disturbance: Disturbance) -> tuple[int, int]:
        folder.mkdir(exist_ok=True)
        not_in_the_form = ("output_name", "output_dir", "overwrite")
        own = {name: value for name, value in self._options.items() if name not in not_in_the_form}
        values = {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}
        return self._process(serve, folder, values, disturbance)

    def _jobs(self, folder: Path) -> dict[str, Path]:
        """The job's folder by its name."""
        specs = (folder / "studio" / "jobs").glob("*/job.json")
        return {json.loads(path.read_text(encoding="utf-8"))["name"]: path.parent for path in specs}

    def _steps_done(self, folder: Path) -> int:
        return sum(_last_step(job / "state") for job in self._jobs(folder).values())

    def _results(self, folder: Path) -> dict[str, Any]:
        jobs = self._jobs(folder).items()
        return {
            key: result
            for name, job in jobs
            for key, result in _result(folder / "Lora" / f"{name}.safetensors", job / "log").items()
        }

    def _files(self, folder: Path) -> Iterator[str]:
        """What is wrong in the jobs' folders as the next process will find them."""
        from lib_lora.files.safetensors_file import read_header
        from lib_lora.training.state import read_state, states_in

        for path in (folder / "Lora").glob("*.safetensors"):
            read_header(path)
        for job in self._jobs(folder).values():
            for path in states_in(job / "state"):
                read_state(path)
        yield from self._queue(folder)

    def _queue(self, folder: Path) -> Iterator[str]:
        from lib_lora.jobs.queue import JobQueue
        from tiny_host import TinyHost

        queue = JobQueue(TinyHost(folder, self._options["pretrained_model_name_or_path"]))
        try:
            jobs = queue.jobs()
            if [job.spec.name for job in jobs] != list(_JOBS[: len(jobs)]) or len(jobs) != len(self._jobs(folder)):
                yield f"the queue is {[job.spec.name for job in jobs]}"
            for job in jobs:
                if job.status not in ("queued", "interrupted", "done"):
                    yield f"{job.spec.name} is {job.status}"
                events, count = queue.events(job.id)
                if len(events) != count:
                    yield f"{job.spec.name} has {count} events and tells {len(events)}"
        finally:
            queue.close()


# Captions


_WORDS = ("red", "blue", "hat", "zorb", "猫", "long hair")


def write_captions(folder: Path, count: int) -> None:
    """Pictures with captions of every kind: line ends, byte order marks, several lines, none at all."""
    from PIL import Image

    draw = random.Random(1)
    (folder / "sub").mkdir(parents=True)
    for number in range(count):
        path = folder / ("sub" if number % 3 else "") / f"{number}.png"
        Image.new("RGB", (8, 8)).save(path)
        text = ", ".join(draw.sample(_WORDS, 3)) + ("", "\r\n", "\n", "\nsecond\n")[number % 4]
        if number % 7:
            path.with_suffix(".txt").write_bytes(text.encode("utf-8-sig" if number % 5 == 0 else "utf-8"))


def edit_captions(folder: Path, seed: int, disturbance: Disturbance, counted: Any) -> None:
    """Change after change, until it is killed; ``counted`` gets the number of file operations."""
    from lib_lora.dataset.collection import Collection

    collection, draw = Collection.open(folder), random.Random(seed)
    watch = _FileWatch(str(folder), disturbance)
    sys.addaudithook(watch)
    for step in range(DatasetStress.steps):
        _change(collection, draw, f"{seed}-{step}")
    counted.value = watch.count


def _change(collection: Any, draw: random.Random, tag: str) -> None:
    """One change of some of the pictures."""
    from lib_lora.dataset.edits import make_edit

    ids = draw.sample(collection.ids, draw.randint(1, len(collection.ids)))
    what = draw.choice(("add", "remove", "undo", "redo", "move", "trash", "tag"))
    if what == "add":
        collection.apply(make_edit("add", {"tags": tag, "at": "front"}), ids)
    elif what == "remove":
        collection.apply(make_edit("remove", {"tags": "red, blue, hat"}), ids, remove_empty=True)
    elif what == "redo":
        collection.redo()
    elif what == "move":
        collection.move(ids[:3], draw.choice(("sub", "other", ".")))
    elif what == "trash" and len(collection.ids) > 10:
        collection.trash(ids[:2])
    elif what == "tag":
        for number in ids[:5]:
            collection.set_captions({number: f"tagged {tag}"}, group=tag)
    else:
        collection.undo()


class DatasetStress(Stress):
    """The same with a dataset."""

    steps = 12
    pictures = 60

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["lib_lora.dataset.collection", "lib_lora.dataset.edits", "PIL.Image"])
        write_captions(self.folder / "beginning", self.pictures)
        shutil.copytree(self.folder / "beginning", self.folder / "unbroken")
        code, self.file_operations = self._process(edit_captions, self.folder / "unbroken", 0, Disturbance())
        if code:
            raise RuntimeError("the undisturbed edits have failed")

    def trial(self, seed: int) -> Outcome:
        """Kill edits again and again, look at every file after each kill, and undo everything in the end."""
        draw, folder, started = random.Random(seed), self.folder / f"trial{seed}", time.perf_counter()
        shutil.copytree(self.folder / "beginning", folder)
        done, cut_off, problems = [], [], []
        for number in range(draw.randint(1, 3)):
            operation = draw.randint(1, self.file_operations)
            disturbance = Disturbance("file", operation, draw.choice((0.0, draw.uniform(0, _LONGEST_DELAY_S["file"]))))
            code, _ = self._process(edit_captions, folder, 10 * seed + number, disturbance)
            done.append(f"{disturbance}{'' if code else ', to the end'}")
            if code not in (0, -signal.SIGKILL):
                problems.append(f"exit code {code}")
            problems += self._whole(folder)
            problems += self._old_or_new(folder, cut_off)
        problems += self._undone(folder)
        if not problems:
            shutil.rmtree(folder)
        return Outcome(done, cut_off, problems, time.perf_counter() - started)

    def _whole(self, folder: Path) -> Iterator[str]:
        """Files that are empty or cut, as they lie there, before anybody mends them."""
        for path in _own_files(folder):
            data = path.read_bytes()
            if path.suffix == ".txt":
                text = data.decode("utf-8-sig")
                parts = text.splitlines()[0].split(", ") if text.strip() else []
                if not parts or not all(_is_whole(part) for part in parts):
                    yield f"{path.name} is {data!r}"
            elif path.suffix == ".png" and not data.endswith(b"IEND\xaeB`\x82"):
                yield f"{path.name} is cut"

    def _old_or_new(self, folder: Path, cut_off: list[int]) -> Iterator[str]:
        """Captions that are neither as before the change that was cut off nor as after it; ``cut_off`` gets how many
        files the change concerns."""
        from lib_lora.dataset.journal import Journal, TextChange

        journal = Journal(folder)
        journal.read()
        if not journal.is_cut_off:
            return
        changes = journal.cut_off()
        cut_off += [len(changes)] * bool(changes)
        for change in changes:
            if isinstance(change, TextChange):
                path = folder / change.name
                if (path.read_bytes() if path.exists() else None) not in (change.old, change.new):
                    yield f"{change.name} is neither old nor new"

    def _undone(self, folder: Path) -> Iterator[str]:
        """What is other than in the beginning after everything was undone."""
        from lib_lora.dataset.collection import Collection

        collection = Collection.open(folder)
        conflicts = []
        while applied := collection.undo():
            conflicts += applied.conflicts
        collection.close()
        if conflicts:
            yield f"undo leaves {conflicts}"
        files, first = _contents(folder), _contents(self.folder / "beginning")
        yield from (f"{name} is other than first" for name in {*files, *first} if files.get(name) != first.get(name))
        if list(folder.rglob("*.tmp")):
            yield "temporary files are left"


def _own_files(folder: Path) -> list[Path]:
    """The dataset's files, without the journal's and what is written at the moment."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".lora_studio" not in path.parts)
    return [path for path in files if path.suffix != ".tmp"]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in _own_files(folder)}


def _is_whole(tag: str) -> bool:
    return tag in _WORDS or re.fullmatch(r"(tagged )?\d+-\d+", tag) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, help="default: 50, of a dataset 200")
    parser.add_argument("--queue", action="store_true", help="kill the process that holds a queue")
    parser.add_argument("--dataset", action="store_true", help="kill edits of captions")
    parser.add_argument("--seed", type=int, default=0, help="number of the first trial")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stress-"))
    stress = (DatasetStress if arguments.dataset else QueueStress if arguments.queue else Stress)(folder)
    trials = arguments.trials or (200 if arguments.dataset else 50)
    print(f"{stress.steps} steps, {stress.file_operations} file operations in a run that nobody disturbs")
    column = "files cut off" if arguments.dataset else "resumed from"
    print(f"{'trial':>5}  {'s':>5}  {column:<14}  {'result':<8}  disturbed")
    outcomes = []
    for seed in range(arguments.seed, arguments.seed + trials):
        outcome = stress.trial(seed)
        outcomes.append(outcome)
        steps = ", ".join(map(str, outcome.resumed_from))
        result = "; ".join(outcome.problems) or "equal"
        print(
            f"{seed:>5}  {outcome.seconds:>5.1f}  {steps:<14}  {result:<8}  {'; '.join(outcome.disturbances)}",
            flush=True,
        )
    bad = sum(bool(outcome.problems) for outcome in outcomes)
    kills = sum("to the end" not in text for outcome in outcomes for text in outcome.disturbances)
    print(f"{len(outcomes) - bad} of {len(outcomes)} trials equal, bit for bit, after {kills} kills")
    if bad:
        print(f"what they left: {folder}")
    else:
        shutil.rmtree(folder)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
