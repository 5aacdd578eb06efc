"""A whole run: check, plan, load, cache, train, save, sample, log, pause, resume. Everything is told as events."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from PIL import Image

from lib_lora.adapters.base import NETWORKS, TEXT_ENCODER
from lib_lora.adapters.network import Network
from lib_lora.base.events import (
    EpochDone,
    Event,
    Note,
    Paused,
    Progress,
    Resumed,
    SampleReady,
    StateSaved,
    StepDone,
    TrainingEnded,
)
from lib_lora.base.reproducible import ask_for_reproducible_sums
from lib_lora.base.signals import Control
from lib_lora.dataset.plan import Plan, parse_resolution
from lib_lora.files.atomic import atomic_write
from lib_lora.files.file_hashes import HashAhead
from lib_lora.models.device import choose_device
from lib_lora.models.loader import load_model
from lib_lora.models.memory import run_with
from lib_lora.models.model import DiffusionModel
from lib_lora.models.offload import bring_back, keep_on_card, whole
from lib_lora.models.prediction import describe_prediction, override_prediction
from lib_lora.models.prompt import obeys_clip_skip
from lib_lora.models.sampling import SAMPLERS, generate
from lib_lora.training.config import TrainConfig, alpha_warning
from lib_lora.training.data import TrainingData
from lib_lora.training.denoising import Denoising
from lib_lora.training.half import check_precision
from lib_lora.training.keeper import StateKeeper
from lib_lora.training.log import RunLog, SilentLog
from lib_lora.training.loop import Asked, train
from lib_lora.training.metadata import model_hashes, run_metadata
from lib_lora.training.optimizers import find_optimizer
from lib_lora.training.outputs import Outputs
from lib_lora.training.parts import make_optimizers, make_schedule, memory_options, network_spec, schedule_name
from lib_lora.training.planning import HASHES, cache_folder, make_plan
from lib_lora.training.processes import ALONE, OtherProcessFailed, Processes, join_processes
from lib_lora.training.rates import LearningRates
from lib_lora.training.samples import SamplePrompt, read_sample_prompts
from lib_lora.training.scaler import LossScaler
from lib_lora.training.schedules import SCHEDULES
from lib_lora.training.state import TrainingState, find_state, read_state

_PAUSE_SECONDS = 0.05


@dataclass
class Run:
    """One run of ``train``. ``events()`` does the work; ``control`` ends it early, pauses it or saves its state.

    With several processes each has its ``Run``; the first writes, logs and makes samples, the others only compute.

    Attributes:
        model: a model to train on, the WebUI's say; without one the config's checkpoint is loaded.
        plan: what ``make_plan`` gave for the config; without one it is made.
        hash_ahead: the checkpoint's hash, where somebody has begun with it.
    """

    config: TrainConfig
    control: Control = field(default_factory=Control)
    model: DiffusionModel | None = None
    plan: Plan | None = None
    hash_ahead: HashAhead | None = None
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
        self._check_outside()
        saved = read_state(config.resume) if config.resume else None
        yield from self._notes(plan)
        self.processes = join_processes(config.device)
        if self.processes.is_main:
            self.outputs.remove_leftovers()
        device = self.model.device if self.model else self.processes.device or choose_device(config.device)
        check_precision(device, config.mixed_precision)
        handed_in = self.model is not None
        if not handed_in:
            yield Progress("checkpoint", 0, 1)
            self.model = load_model(config.pretrained_model_name_or_path, vae_path=config.vae, device=device)
            yield Progress("checkpoint", 1, 1)
        override_prediction(self.model, config.prediction_type, config.zero_terminal_snr)
        yield from _model_notes(self.model, config)
        rates = LearningRates(config, self.model.family)
        network = Network.create(
            self.model.unet, self.model.text_encoders, network_spec(config), config.seed, rates.wants
        )
        network.to(self.model.device)
        self.outputs.check_room(network, plan)
        yield Note(
            f"Training {len(network)} layers with {sum(p.numel() for p in network.parameters()):,} parameters "
            f"on {self.model.device}"
        )
        for note in network.notes:
            yield Note(note, "warning")
        try:
            yield from self._train(plan, network, rates, saved, started)
        finally:
            if handed_in:
                bring_back(self.model)

    def _train(
        self, plan: Plan, network: Network, rates: LearningRates, saved: TrainingState | None, started: float
    ) -> Iterator[Event]:
        config, model = self.config, self.model
        self.optimizers = optimizers = make_optimizers(config, network, rates)
        schedule = make_schedule(config, optimizers, plan.total_steps)
        scaler = LossScaler(config.mixed_precision == "fp16")
        data = TrainingData(plan, config, model)
        keep_on_card(model, model.vae)
        yield from data.cache_latents(self.control)
        if TEXT_ENCODER not in network.parameter_groups():
            keep_on_card(model, *model.text_encoders)
            yield from data.cache_texts(self.control)
        keep_on_card(model, model.unet, *data.needed_parts())
        hashes = yield from model_hashes(model, cache_folder(config) / HASHES, self.hash_ahead)
        self.metadata = run_metadata(config, plan, model, rates.of_parts(), hashes)
        keeper = StateKeeper(
            config, plan, model, network, optimizers, schedule, scaler, self.metadata, self.outputs.state_folder
        )
        first_step, before = 0, b""
        if saved:
            for note in keeper.load(saved, find_state(config.resume)):
                yield Note(note, "warning")
            first_step, before = saved.step, saved.log
            yield Note(f"Going on after step {first_step}")
        network.attach()
        try:
            with run_with(model, memory_options(config), network.state.repeat), self._open_log(before) as log:
                loop = train(
                    model,
                    network,
                    data,
                    Denoising(config, model),
                    config,
                    optimizers,
                    schedule,
                    control=self.control,
                    processes=self.processes,
                    scaler=scaler,
                    first_step=first_step,
                )
                step = yield from self._follow(loop, keeper, log, first_step)
        finally:
            network.detach_from_model()
        if scaler.skipped:
            yield Note(f"{scaler.skipped} steps were skipped because fp16 overflowed", "warning")
        yield from self._finish(keeper, log, step)
        self.processes.agree(self.control)  # nobody leaves before the first process has written its last file
        seconds = time.perf_counter() - started
        yield TrainingEnded(step, step < plan.total_steps, seconds, self.outputs.written, keeper.last)

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
            yield from self._samples(0)
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
                yield from self._after_epoch(event, keeper)
        return step

    def _finish(self, keeper: StateKeeper, log: RunLog | SilentLog, step: int) -> Iterator[Event]:
        """The last state and the LoRA, under a name that says whether the run came to its end."""
        plan, name = keeper.plan, self.config.output_name
        if self.config.save_state or self.control.take_state_wish():
            yield from self._save_state(keeper, log, step)
        if step:
            done = step == plan.total_steps
            epoch = -(-step // plan.steps_per_epoch)
            yield from self._save(keeper.network, name if done else f"{name}-step{step:08d}", step, epoch)

    # What is checked before anything is loaded

    def _check_outside(self) -> None:
        config = self.config
        self.outputs.check()
        NETWORKS.get(config.network_type)
        SCHEDULES.get(schedule_name(config))
        SAMPLERS.get(config.sample_sampler)
        device = self.model.device if self.model else choose_device(config.device)
        find_optimizer(config.optimizer_type).load(device)
        memory_options(config).check(device)
        self.sample_prompts = self._read_prompts()

    def _read_prompts(self) -> list[SamplePrompt]:
        if self.config.sample_prompts is None:
            return []
        return read_sample_prompts(self.config.sample_prompts, parse_resolution(self.config.resolution))

    def _notes(self, plan: Plan) -> Iterator[Event]:
        yield Note(plan.describe())
        warning = alpha_warning(self.config)
        if warning:
            yield Note(warning, "warning")

    # What happens between steps

    def _after_step(self, event: StepDone, keeper: StateKeeper, log: RunLog | SilentLog) -> Iterator[Event]:
        last = event.step == keeper.plan.total_steps
        if not last and _due(self.config.save_every_n_steps, event.step):
            name = f"{self.config.output_name}-step{event.step:08d}"
            yield from self._save(keeper.network, name, event.step, event.epoch)
        if _due(self.config.sample_every_n_steps, event.step):
            yield from self._samples(event.step)
        # The state comes last: a run that is resumed from it has no need to make up for the others.
        if _due(self.config.save_state_every_n_steps, event.step):
            yield from self._save_state(keeper, log, event.step)

    def _after_epoch(self, event: EpochDone, keeper: StateKeeper) -> Iterator[Event]:
        if event.step < keeper.plan.total_steps and _due(self.config.save_every_n_epochs, event.epoch):
            name = f"{self.config.output_name}-{event.epoch:06d}"
            yield from self._save(keeper.network, name, event.step, event.epoch)
        if _due(self.config.sample_every_n_epochs, event.epoch):
            yield from self._samples(event.step)

    def _serve(self, asked: Asked, keeper: StateKeeper, log: RunLog | SilentLog) -> Iterator[Event]:
        """A state on demand, or a pause: until all processes are told to go on or to stop."""
        yield from self._save_state(keeper, log, asked.step)
        if not asked.pause:
            return
        if self.control.frees_model:
            keeper.network.detach_from_model()
        with whole(self.model):
            yield Paused(asked.step, keeper.last)
            while (wishes := self.processes.agree(self.control)).pause:
                time.sleep(_PAUSE_SECONDS)
        keeper.network.attach()
        if not wishes.stop:
            yield Resumed(asked.step)

    def _save_state(self, keeper: StateKeeper, log: RunLog | SilentLog, step: int) -> Iterator[Event]:
        if step and self.processes.is_main:
            yield StateSaved(keeper.save(step, log.bytes()), step)

    def _save(self, network: Network, name: str, step: int, epoch: int) -> Iterator[Event]:
        if self.processes.is_main:
            with self.optimizers.evaluating():
                saved = self.outputs.save(network, name, step, epoch, self.metadata)
            yield saved

    def _samples(self, step: int) -> Iterator[Event]:
        if not self.processes.is_main:
            return
        folder = self.outputs.log_folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for index, sample in enumerate(self.sample_prompts):
            if self.control.stopping:
                return
            with self.optimizers.evaluating(), whole(self.model):
                picture = generate(
                    self.model,
                    sample.prompt,
                    sample.negative,
                    seed=sample.seed,
                    steps=sample.steps,
                    sampler=self.config.sample_sampler,
                    cfg_scale=sample.cfg_scale,
                    width=sample.width,
                    height=sample.height,
                    clip_skip=self.config.clip_skip,
                    control=self.control,
                )
            if picture is None:
                return
            path = folder / f"{self.config.output_name}-{step:08d}-{index:02d}.png"
            with atomic_write(path) as file:
                Image.fromarray(picture).save(file, format="PNG")
            self.outputs.add(path)
            yield SampleReady(path, sample.prompt, step)


def _due(every: int | None, number: int) -> bool:
    return bool(every) and number % every == 0


def _model_notes(model: DiffusionModel, config: TrainConfig) -> Iterator[Event]:
    """What was found out about the checkpoint."""
    yield Note(f"{model.name} is an {model.family.value} checkpoint{' for inpainting' if model.inpainting else ''}")
    for note in model.notes:
        yield Note(note)
    yield Note(*describe_prediction(model))
    if config.clip_skip != 1 and not obeys_clip_skip(model):
        yield Note(
            f"clip_skip {config.clip_skip} has no effect: {model.family.value} takes its own layer, as in the WebUI"
        )
