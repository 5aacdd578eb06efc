"""What the steps of a run are made with, from its options and its plan: the same for a run and for its preflight."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lib_lora.adapters.base import TEXT_ENCODER
from lib_lora.adapters.network import Network
from lib_lora.base.events import Event, Note, Progress
from lib_lora.base.signals import Control
from lib_lora.dataset.plan import Plan
from lib_lora.models.loader import load_model
from lib_lora.models.memory import run_with
from lib_lora.models.model import DiffusionModel
from lib_lora.models.offload import keep_on_card
from lib_lora.models.prediction import describe_prediction, override_prediction
from lib_lora.models.prompt import obeys_clip_skip
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import TrainingData
from lib_lora.training.denoising import Denoising
from lib_lora.training.loop import train
from lib_lora.training.optimizers import OptimizerSet
from lib_lora.training.parts import make_optimizers, make_schedule, memory_options, network_spec
from lib_lora.training.processes import ALONE, Processes
from lib_lora.training.rates import LearningRates
from lib_lora.training.scaler import LossScaler
from lib_lora.training.schedules import Schedule


@dataclass
class Setup:
    """A run's parts, ready for its first step."""

    config: TrainConfig
    plan: Plan
    model: DiffusionModel
    network: Network
    rates: LearningRates
    optimizers: OptimizerSet
    schedule: Schedule
    scaler: LossScaler
    data: TrainingData

    @contextmanager
    def acting(self) -> Iterator[None]:
        """The network acts on the model, which is run as ``memory_options`` says; afterwards it is as before."""
        self.network.attach()
        try:
            with run_with(self.model, memory_options(self.config), self.network.state.repeat):
                yield
        finally:
            self.network.detach_from_model()

    def steps(self, control: Control, processes: Processes = ALONE, first_step: int = 0) -> Iterator[Event]:
        """The training loop; to be taken inside ``acting``."""
        return train(
            self.model,
            self.network,
            self.data,
            Denoising(self.config, self.model),
            self.config,
            self.optimizers,
            self.schedule,
            control=control,
            processes=processes,
            scaler=self.scaler,
            first_step=first_step,
        )


def take_model(
    config: TrainConfig, device: torch.device, model: DiffusionModel | None
) -> Generator[Event, None, DiffusionModel]:
    """The model that was handed in, or the config's checkpoint, with its prediction settled; what was found is told.

    Raises:
        StudioError: the checkpoint cannot be used.
    """
    if model is None:
        yield Progress("checkpoint", 0, 1)
        model = load_model(config.pretrained_model_name_or_path, vae_path=config.vae, device=device)
        yield Progress("checkpoint", 1, 1)
    override_prediction(model, config.prediction_type, config.zero_terminal_snr)
    yield from _model_notes(model, config)
    return model


def make_network(config: TrainConfig, model: DiffusionModel) -> Generator[Event, None, tuple[Network, LearningRates]]:
    """The adapters that the options choose, where the model is and not yet acting, and their learning rates."""
    rates = LearningRates(config, model.family)
    network = Network.create(model.unet, model.text_encoders, network_spec(config), config.seed, rates.wants)
    network.to(model.device)
    count = sum(parameter.numel() for parameter in network.parameters())
    yield Note(f"Training {len(network)} layers with {count:,} parameters on {model.device}")
    for note in network.notes:
        yield Note(note, "warning")
    return network, rates


def set_up(
    config: TrainConfig, plan: Plan, model: DiffusionModel, network: Network, rates: LearningRates, control: Control
) -> Generator[Event, None, Setup]:
    """Optimizers and data of a run on ``model``; pictures and captions are encoded where they may be.

    Raises:
        StudioError: naming the option or the picture at fault.
    """
    optimizers = make_optimizers(config, network, rates)
    schedule = make_schedule(config, optimizers, plan.total_steps)
    data = TrainingData(plan, config, model)
    keep_on_card(model, model.vae)
    yield from data.cache_latents(control)
    if TEXT_ENCODER not in network.parameter_groups():
        keep_on_card(model, *model.text_encoders)
        yield from data.cache_texts(control)
    keep_on_card(model, model.unet, *data.needed_parts())
    scaler = LossScaler(config.mixed_precision == "fp16")
    return Setup(config, plan, model, network, rates, optimizers, schedule, scaler, data)


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
