"""A whole run: check, plan, load, cache, train, save, sample, log. Everything is told as events."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lib_lora.adapters.base import NETWORKS, NetworkSpec
from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.base.errors import StudioError
from lib_lora.base.events import EpochDone, Event, Note, Progress, SampleReady, Saved, StepDone, TrainingEnded
from lib_lora.base.signals import Control
from lib_lora.dataset.plan import Plan, parse_resolution
from lib_lora.files.atomic import atomic_write, check_writable, safe_name
from lib_lora.models.device import choose_device
from lib_lora.models.loader import load_model
from lib_lora.models.model import DiffusionModel
from lib_lora.models.sampling import SAMPLERS, generate
from lib_lora.training.config import TrainConfig, alpha_warning, trained_parts
from lib_lora.training.data import TrainingData
from lib_lora.training.denoising import Denoising
from lib_lora.training.log import RunLog
from lib_lora.training.loop import train
from lib_lora.training.metadata import run_metadata, save_metadata
from lib_lora.training.optimizers import OptimizerSet, ParamGroup, build_optimizers, find_optimizer
from lib_lora.training.planning import make_plan
from lib_lora.training.samples import SamplePrompt, read_sample_prompts
from lib_lora.training.schedules import SCHEDULES, Schedule, ScheduleShape, warmup_steps


@dataclass
class Run:
    """One run of ``train``. ``events()`` does the work; ``control.stop()`` ends it early and keeps what it has.

    Attributes:
        model: a model to train on, the WebUI's say; without one the config's checkpoint is loaded.
        plan: what ``make_plan`` gave for the config; without one it is made.
        written: the files written so far.
    """

    config: TrainConfig
    control: Control = field(default_factory=Control)
    model: DiffusionModel | None = None
    plan: Plan | None = None
    written: list[Path] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        """The run. Every mistake that can be seen beforehand is raised before the checkpoint is loaded.

        Raises:
            StudioError: naming the option or file at fault.
        """
        started = time.perf_counter()
        config = self.config
        plan = self.plan or make_plan(config)
        self._check_outside()
        yield from self._notes(plan)
        if self.model is None:
            yield Progress("checkpoint", 0, 1)
            self.model = load_model(
                config.pretrained_model_name_or_path, vae_path=config.vae, device=choose_device(config.device)
            )
            yield Progress("checkpoint", 1, 1)
        network = Network.create(self.model.unet, self.model.text_encoders, network_spec(config), config.seed)
        network.to(self.model.device)
        self._check_space(network, plan)
        yield Note(
            f"Training {len(network)} layers with {sum(p.numel() for p in network.parameters()):,} parameters "
            f"on {self.model.device}"
        )
        for note in network.notes:
            yield Note(note, "warning")
        yield from self._train(plan, network, started)

    def _train(self, plan: Plan, network: Network, started: float) -> Iterator[Event]:
        config, model = self.config, self.model
        rates = learning_rates(config, network)
        optimizers = _optimizers(config, network, rates)
        schedule = _schedule(config, optimizers, plan.total_steps)
        data = TrainingData(plan, config)
        yield from data.cache_latents(model, self.control)
        if "text_encoder" not in rates:
            yield from data.cache_contexts(model, self.control)
        self.metadata = run_metadata(config, plan, model, rates)
        step = 0
        network.attach()
        try:
            with RunLog(self.log_folder) as log:
                if config.sample_at_first and not self.control.stopping:
                    yield from self._samples(0)
                objective = Denoising(config, model)
                for event in train(model, network, data, objective, config, optimizers, schedule, control=self.control):
                    log.write(event)
                    yield event
                    if isinstance(event, StepDone):
                        step = event.step
                        yield from self._after_step(network, event, plan)
                    elif isinstance(event, EpochDone):
                        yield from self._after_epoch(network, event, plan)
            if log.losses:
                self.written += [log.folder / "loss.csv", log.picture]
        finally:
            network.detach_from_model()
        stopped = step < plan.total_steps
        if step:
            name = f"{config.output_name}-step{step:08d}" if stopped else config.output_name
            yield self._save(network, name, step, plan, final=not stopped)
        yield TrainingEnded(step, stopped, time.perf_counter() - started, self.written)

    # What is checked before anything is loaded

    def _check_outside(self) -> None:
        config = self.config
        safe_name(config.output_name, field="output_name")
        NETWORKS.get(config.network_type)
        SCHEDULES.get(schedule_name(config))
        SAMPLERS.get(config.sample_sampler)
        find_optimizer(config.optimizer_type).load()
        self.sample_prompts = self._read_prompts()
        final = self._path(config.output_name)
        if final.exists() and not config.overwrite:
            raise StudioError(
                "a LoRA of this name exists", field="output_name", file=final, allowed="another name, or overwrite"
            )
        self.log_folder = config.logging_dir or config.output_dir / f"{config.output_name}-log"
        check_writable(config.output_dir, field="output_dir")
        check_writable(self.log_folder, field="logging_dir")

    def _read_prompts(self) -> list[SamplePrompt]:
        if self.config.sample_prompts is None:
            return []
        return read_sample_prompts(self.config.sample_prompts, parse_resolution(self.config.resolution))

    def _check_space(self, network: Network, plan: Plan) -> None:
        """Refuse to start a run whose files will not fit on the disk."""
        config = self.config
        bytes_each = sum(p.numel() for p in network.parameters()) * (4 if config.save_precision == "float" else 2)
        saves = 1
        if config.save_every_n_epochs:
            saves += plan.epochs // config.save_every_n_epochs
        if config.save_every_n_steps:
            saves += plan.total_steps // config.save_every_n_steps
        free = shutil.disk_usage(config.output_dir).free
        if bytes_each * saves > free:
            raise StudioError(
                "not enough room on the disk",
                field="output_dir",
                file=config.output_dir,
                came=f"{free / 2**20:.0f} MB free",
                allowed=f"at least {bytes_each * saves / 2**20:.0f} MB for {saves} files",
            )

    def _notes(self, plan: Plan) -> Iterator[Event]:
        yield Note(plan.describe())
        warning = alpha_warning(self.config)
        if warning:
            yield Note(warning, "warning")

    # What happens between steps

    def _after_step(self, network: Network, event: StepDone, plan: Plan) -> Iterator[Event]:
        if event.step < plan.total_steps and _due(self.config.save_every_n_steps, event.step):
            name = f"{self.config.output_name}-step{event.step:08d}"
            yield self._save(network, name, event.step, plan, epoch=event.epoch)
        if _due(self.config.sample_every_n_steps, event.step):
            yield from self._samples(event.step)

    def _after_epoch(self, network: Network, event: EpochDone, plan: Plan) -> Iterator[Event]:
        if event.step < plan.total_steps and _due(self.config.save_every_n_epochs, event.epoch):
            yield self._save(
                network, f"{self.config.output_name}-{event.epoch:06d}", event.step, plan, epoch=event.epoch
            )
        if _due(self.config.sample_every_n_epochs, event.epoch):
            yield from self._samples(event.step)

    def _path(self, name: str) -> Path:
        return self.config.output_dir / f"{name}.safetensors"

    def _save(
        self, network: Network, name: str, step: int, plan: Plan, *, final: bool = False, epoch: int | None = None
    ) -> Saved:
        path = self._path(name)
        epoch = epoch if epoch is not None else -(-step // plan.steps_per_epoch)
        metadata = {**self.metadata, **save_metadata(step, epoch), "ss_output_name": name}
        save_network(path, network, self.config.save_precision, metadata)
        self.written.append(path)
        return Saved(path, step, final)

    def _samples(self, step: int) -> Iterator[Event]:
        folder = self.log_folder / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for index, sample in enumerate(self.sample_prompts):
            if self.control.stopping:
                return
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
            self.written.append(path)
            yield SampleReady(path, sample.prompt, step)


def _due(every: int | None, number: int) -> bool:
    return bool(every) and number % every == 0


def network_spec(config: TrainConfig) -> NetworkSpec:
    train_unet, train_text_encoder = trained_parts(config)
    return NetworkSpec(
        rank=config.network_dim,
        alpha=config.network_alpha,
        conv_rank=config.conv_dim,
        conv_alpha=config.conv_alpha,
        dropout=config.network_dropout,
        rank_dropout=config.rank_dropout,
        module_dropout=config.module_dropout,
        targets=config.network_targets,
        train_unet=train_unet,
        train_text_encoder=train_text_encoder,
        network_type=config.network_type,
    )


def learning_rates(config: TrainConfig, network: Network) -> dict[str, float | None]:
    """The rate of each group of the network: its own, else learning_rate, else the optimizer's advice."""
    default = config.learning_rate
    if default is None:
        default = find_optimizer(config.optimizer_type).default_lr
    own = {"unet": config.unet_lr, "text_encoder": config.text_encoder_lr}
    return {name: default if own[name] is None else own[name] for name in network.parameter_groups()}


def _optimizers(config: TrainConfig, network: Network, rates: dict[str, float | None]) -> OptimizerSet:
    groups = [ParamGroup(name, parameters, rates[name]) for name, parameters in network.parameter_groups().items()]
    return build_optimizers(
        config.optimizer_type, groups, config.optimizer_args, with_warmup=config.lr_warmup_steps > 0
    )


def _schedule(config: TrainConfig, optimizers: OptimizerSet, total_steps: int) -> Schedule:
    shape = ScheduleShape(
        total_steps,
        warmup_steps(config.lr_warmup_steps, total_steps),
        config.lr_scheduler_num_cycles,
        config.lr_scheduler_power,
    )
    return Schedule(optimizers, schedule_name(config), shape)


def schedule_name(config: TrainConfig) -> str:
    return config.lr_scheduler or find_optimizer(config.optimizer_type).schedule
