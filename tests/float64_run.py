"""The training loop in float64 on a tiny model, with plain SGD: for tests that compare to the last digits."""

from __future__ import annotations

import torch

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.models.loader import load_model
from lib_lora.training.config import TrainConfig
from lib_lora.training.data import TrainingData
from lib_lora.training.denoising import Denoising
from lib_lora.training.guard import NanGuard
from lib_lora.training.loop import Trainer, train
from lib_lora.training.optimizers import OptimizerSet
from lib_lora.training.planning import make_plan
from lib_lora.training.processes import ALONE
from lib_lora.training.scaler import LossScaler
from lib_lora.training.schedules import Schedule, ScheduleShape

SPEC = NetworkSpec(rank=2, alpha=1.0, conv_rank=2, conv_alpha=2.0)


class Setting:
    """A tiny model in float64 with a network whose up matrices are not zero, as after some training."""

    def __init__(self, options, spec=SPEC, **more):
        self.config = from_mapping(TrainConfig, {**options, "max_grad_norm": 0.0, **more})
        self.model = load_model(self.config.pretrained_model_name_or_path, compute_dtype=torch.float64)
        self.network = Network.create(self.model.unet, self.model.text_encoders, spec, seed=1).double()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        self.data = TrainingData(make_plan(self.config), self.config, self.model)
        for _ in self.data.cache_latents(Control()):
            pass

    def train(self, control=None, objective=None, processes=ALONE, optimizer=torch.optim.SGD, lr=0.1):
        groups = self.network.parameter_groups()
        optimizers = OptimizerSet(list(groups), [optimizer(p, lr=lr) for p in groups.values()])
        schedule = Schedule(optimizers, "constant", ScheduleShape(self.data.plan.total_steps))
        self.network.attach()
        try:
            trainer = Trainer(
                self.model,
                self.network,
                self.data,
                objective or Denoising(self.config, self.model),
                self.config,
                optimizers,
                schedule,
                LossScaler(enabled=False),
                NanGuard(self.config, {}),
                processes=processes,
            )
            yield from train(trainer, control=control)
        finally:
            self.network.detach_from_model()
