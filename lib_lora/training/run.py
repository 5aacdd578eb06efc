"""A whole run: check, plan, load, cache, train, save, sample, log, pause, resume. Everything is told as events."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora.adapters.base import NETWORKS
from lib_lora.adapters.network import Network
from lib_lora.base.events import (
    EpochDone,
    Event,
    Note,
    Paused,
    Removed,
    Resumed,
    SampleReady,
    StateSaved,
    StepDone,
    TrainingEnded,
    Validated,
    WentBack,
)
from lib_lora.base.protocols import PictureRequest, Previewer
from lib_lora.base.reproducible import ask_for_reproducible_sums
from lib_lora.base.signals import Control
from lib_lora.dataset.plan import Plan, parse_resolution
from lib_lora.files.atomic import atomic_write
from lib_lora.files.file_hashes import HashAhead
from lib_lora.models.device import choose_device
from lib_lora.models.model import DiffusionModel
from lib_lora.models.offload import bring_back, brought_back
from lib_lora.models.sampling import SAMPLERS
from lib_lora.training.config import TrainConfig
from lib_lora.training.half import check_precision
from lib_lora.training.keeper import StateKeeper
from lib_lora.training.log import RunLog, SilentLog
from lib_lora.training.loop import Asked
from lib_lora.training.metadata import model_hashes, run_metadata
from lib_lora.training.optimizers import check_optimizer
from lib_lora.training.outputs import Outputs
from lib_lora.training.parts import memory_options, schedule_name, schedule_shape
from lib_lora.training.planning import HASHES, cache_folder, make_plan
from lib_lora.training.processes import ALONE, OtherProcessFailed, Processes, join_processes
from lib_lora.training.rates import LearningRates
from lib_lora.training.remarks import remarks
from lib_lora.training.samples import OwnPreviewer, read_sample_prompts
from lib_lora.training.schedules import SCHEDULES
from lib_lora.training.setup import Setup, make_network, set_up, take_model
from lib_lora.training.state import TrainingState, find_state, read_state
from lib_lora.training.validation import Measurement

_PAUSE_SECONDS = 0.05


@dataclass
class Run:
    """One run of ``train``. ``events()`` does the work; ``control`` ends it early, pauses it or saves its state.

    With several processes each has its ``Run``; the first writes, logs and makes samples, the others only compute.

    Attributes:
        model: a model to train on, the WebUI's say; without one the config's checkpoint is loaded.
        plan: what ``make_plan`` gave for the config; without one it is made.
        hash_ahead: the checkpoint's hash, where somebody has begun with it.
        previewer: who makes the samples; without one our own sampler does.
    """

    config: TrainConfig
    control: Control = field(default_factory=Control)
    model: DiffusionModel | None = None
    plan: Plan | None = None
    hash_ahead: HashAhead | None = None
    previewer: Previewer | None = None
    processes: Processes = field(default=ALONE, init=False)

    def events(self) -> Iterator[Event]:
        """The run. Every mistake that can be seen beforehand is raised before the checkpoint is loaded.

        Raises:
            StudioError: naming the option or file at fault.
        """
        try:
            yield from self._events()
        except OtherProcessFailed:
            raise
        except BaseException:
            self.processes.failed()
            raise

    def _events(self) -> Iterator[Event]:
        started = time.perf_counter()
        ask_for_reproducible_sums()
        config = self.config
        plan = self.plan or make_plan(config)
        self.outputs = Outputs(config)
        self._check_outside(plan)
        saved = read_state(config.resume) if config.resume else None
        yield from self._notes(plan)
        self.processes = join_processes(config.device)
        if self.processes.is_main:
            self.outputs.remove_leftovers()
        device = self.model.device if self.model else self.processes.device or choose_device(config.device)
        check_precision(device, config.mixed_precision)
        handed_in = self.model is not None
        self.model = yield from take_model(config, device, self.model)
        network, rates = yield from make_network(config, self.model)
        self.outputs.check_room(network, plan)
        try:
            yield from self._train(plan, network, rates, saved, started)
        finally:
            if handed_in:
                bring_back(self.model)

    def _train(
        self, plan: Plan, network: Network, rates: LearningRates, saved: TrainingState | None, started: float
    ) -> Iterator[Event]:
        config, model = self.config, self.model
        setup = yield from set_up(config, plan, model, network, rates, self.control)
        hashes = yield from model_hashes(model, cache_folder(config) / HASHES, self.hash_ahead)
        self.metadata = run_metadata(config, plan, model, network, rates.of_parts(), hashes)
        keeper = StateKeeper(setup, self.metadata, self.outputs.state_folder)
        first_step, before = 0, b""
        if saved:
            for note in keeper.load(saved, find_state(config.resume)):
                yield Note(note, "warning")
            first_step, before = saved.step, saved.log
            yield Note(f"Going on after step {first_step}")
        with setup.acting(), self._open_log(before) as log:
            steps = setup.steps(self.control, self.processes, first_step)
            step = yield from self._follow(steps, keeper, log, first_step)
        if setup.scaler.skipped:
            yield Note(f"{setup.scaler.skipped} steps were skipped because fp16 overflowed", "warning")
        yield from self._finish(keeper, log, step)
        self.processes.agree(self.control)  # nobody leaves before the first process has written its last file
        seconds = time.perf_counter() - started
        stopped = step < plan.total_steps and not self._is_exhausted(keeper)
        yield TrainingEnded(step, stopped, seconds, self.outputs.written, keeper.last)

    def _open_log(self, before: bytes) -> RunLog | SilentLog:
        if not self.processes.is_main:
            return SilentLog()
        log = RunLog(self.outputs.log_folder, before)
        self.outputs.add(log.table, log.picture)
        return log

    def _follow(
        self, loop: Iterator[Event], keeper: StateKeeper, log: RunLog | SilentLog, step: int
    ) -> Generator[Event, None, int]:
        """The loop's events and what is done between them; the number of steps made."""
        if step == 0 and self.config.sample_at_first:
            yield from self._samples(keeper.setup, 0)
        for event in loop:
            if isinstance(event, Asked):
                yield from self._serve(event, keeper, log)
                continue
            log.write(event)
            yield event
            if isinstance(event, StepDone):
                step = event.step
                if event.skipped:
                    yield Note(f"step {step} was skipped: fp16 overflowed; the loss is scaled less from now on")
                yield from self._after_step(event, keeper, log)
            elif isinstance(event, EpochDone):
                yield from self._after_epoch(event, keeper, log)
            elif isinstance(event, WentBack):
                step = event.step
                if keeper.setup.validation:
                    keeper.setup.validation.history.go_back(step)
                yield Note(_went_back(event), "warning")
                yield from self._remove(
                    self.outputs.saves_behind(step, step // keeper.setup.plan.steps_per_epoch, keeper.run_id)
                )
            if self._is_exhausted(keeper):
                loop.close()
                break
        return step

    def _finish(self, keeper: StateKeeper, log: RunLog | SilentLog, step: int) -> Iterator[Event]:
        """The last state and the LoRA, under a name that says whether the run came to its end; of an aborted none."""
        plan = keeper.setup.plan
        if self.control.aborting:
            return
        if self.config.save_state or self.control.take_state_wish():
            yield from self._save_state(keeper, log, step)
        if step:
            epoch = -(-step // plan.steps_per_epoch)
            if step == plan.total_steps or self._is_exhausted(keeper):
                yield from self._save(keeper.setup, self.config.output_name, step, epoch)
            else:
                yield from self._save_step(keeper.setup, step, epoch)
        yield from self._tell_best(keeper)

    # What is checked before anything is loaded

    def _check_outside(self, plan: Plan) -> None:
        config = self.config
        self.outputs.check()
        NETWORKS.get(config.network_type)
        SCHEDULES.get(schedule_name(config))
        schedule_shape(config, plan.total_steps)
        if self.previewer is None:
            SAMPLERS.get(config.sample_sampler)
        device = self.model.device if self.model else choose_device(config.device)
        check_optimizer(config, device)
        memory_options(config).check(device)
        self.sample_prompts = self._read_prompts()

    def _read_prompts(self) -> list[PictureRequest]:
        config = self.config
        if config.sample_prompts is None:
            return []
        width, height = parse_resolution(config.resolution)
        usual = PictureRequest("", "", 42, 20, config.sample_sampler, 7.0, width, height, config.clip_skip)
        return read_sample_prompts(config.sample_prompts, usual)

    def _notes(self, plan: Plan) -> Iterator[Event]:
        yield Note(plan.describe())
        for remark in remarks(self.config):
            yield Note(remark, "warning")

    # What happens between steps

    def _after_step(self, event: StepDone, keeper: StateKeeper, log: RunLog | SilentLog) -> Iterator[Event]:
        setup = keeper.setup
        if setup.validation and setup.validation.is_due(step=event.step):
            yield from self._validate(setup, log, event.step, event.epoch)
        if event.step < setup.plan.total_steps and _due(self.config.save_every_n_steps, event.step):
            yield from self._save_step(setup, event.step, event.epoch)
            yield from self._remove(self.outputs.old_step_saves(event.step, keeper.run_id))
        if _due(self.config.sample_every_n_steps, event.step):
            yield from self._samples(setup, event.step)
        # The state comes last: a run that is resumed from it has no need to make up for the others.
        if _due(self.config.save_state_every_n_steps, event.step):
            yield from self._save_state(keeper, log, event.step)

    def _after_epoch(self, event: EpochDone, keeper: StateKeeper, log: RunLog | SilentLog) -> Iterator[Event]:
        setup = keeper.setup
        if setup.validation and setup.validation.is_due(epoch=event.epoch):
            yield from self._validate(setup, log, event.step, event.epoch)
        if event.step < setup.plan.total_steps and _due(self.config.save_every_n_epochs, event.epoch):
            yield from self._save(setup, f"{self.config.output_name}-{event.epoch:06d}", event.step, event.epoch)
            yield from self._remove(self.outputs.old_epoch_saves(event.epoch, keeper.run_id))
        if _due(self.config.sample_every_n_epochs, event.epoch):
            yield from self._samples(setup, event.step)

    def _validate(self, setup: Setup, log: RunLog | SilentLog, step: int, epoch: int) -> Iterator[Event]:
        """Measure what is held out, and keep the LoRA where it is the best so far; a step is measured once."""
        history = setup.validation.history
        if history.last and history.last.step == step:
            return
        with setup.shown():
            loss = setup.validation.measure(self.processes)
        best = history.add(Measurement(step, epoch, loss))
        event = Validated(step, epoch, loss, best)
        log.write(event)
        yield event
        if best and self.config.save_best:
            yield from self._save(setup, f"{self.config.output_name}-best", step, epoch)

    def _is_exhausted(self, keeper: StateKeeper) -> bool:
        validation = keeper.setup.validation
        return validation is not None and validation.history.is_exhausted

    def _tell_best(self, keeper: StateKeeper) -> Iterator[Event]:
        validation = keeper.setup.validation
        best = validation and validation.history.best
        if not best:
            return
        if self._is_exhausted(keeper):
            yield Note(f"ended early: no better measurement than after step {best.step}")
        kept = f", kept as {self.config.output_name}-best" if self.config.save_best else ""
        yield Note(f"the best was epoch {best.epoch}, step {best.step}, with a held-out loss of {best.loss:.5g}{kept}")

    def _remove(self, paths: list[Path]) -> Iterator[Event]:
        if self.processes.is_main:
            for path in paths:
                self.outputs.remove(path)
                yield Removed(path)

    def _serve(self, asked: Asked, keeper: StateKeeper, log: RunLog | SilentLog) -> Iterator[Event]:
        """A LoRA or a state on demand, or a pause: until all processes are told to go on or to stop."""
        if asked.wishes.lora and asked.step:
            yield from self._save_step(keeper.setup, asked.step, asked.epoch)
        if asked.wishes.state or asked.wishes.pause:
            yield from self._save_state(keeper, log, asked.step)
        if not asked.wishes.pause:
            return
        if self.control.frees_model:
            keeper.setup.network.detach_from_model()
        with brought_back(self.model):
            yield Paused(asked.step, keeper.last)
            while (wishes := self.processes.agree(self.control)).pause:
                time.sleep(_PAUSE_SECONDS)
        keeper.setup.network.attach()
        if not wishes.stop:
            yield Resumed(asked.step)

    def _save_state(self, keeper: StateKeeper, log: RunLog | SilentLog, step: int) -> Iterator[Event]:
        if step and self.processes.is_main:
            yield StateSaved(keeper.save(step, log.bytes()), step)

    def _save_step(self, setup: Setup, step: int, epoch: int) -> Iterator[Event]:
        yield from self._save(setup, f"{self.config.output_name}-step{step:08d}", step, epoch)

    def _save(self, setup: Setup, name: str, step: int, epoch: int) -> Iterator[Event]:
        if self.processes.is_main:
            measured = setup.validation.history.metadata() if setup.validation else {}
            with setup.shown():
                saved = self.outputs.save(setup.network, name, step, epoch, {**self.metadata, **measured})
            yield saved

    def _samples(self, setup: Setup, step: int) -> Iterator[Event]:
        if not self.processes.is_main:
            return
        folder = self.outputs.log_folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        previewer = self.previewer or OwnPreviewer(self.model, self.control)
        for index, request in enumerate(self.sample_prompts):
            if self.control.stopping:
                return
            with setup.shown():
                picture = previewer.generate(request, setup.network)
            if picture is None:
                return
            path = folder / f"{self.config.output_name}-{step:08d}-{index:02d}.png"
            with atomic_write(path) as file:
                picture.save(file, format="PNG")
            self.outputs.add(path)
            yield SampleReady(path, request.prompt, step)


def _went_back(event: WentBack) -> str:
    return (
        f"{event.why} at step {event.failed_step}: back to step {event.step}, and on at {event.scale:g} times the rate"
    )


def _due(every: int | None, number: int) -> bool:
    return bool(every) and number % every == 0
