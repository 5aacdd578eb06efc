"""What a run is made of, from its options."""

from __future__ import annotations

from lib_lora.adapters.base import NetworkSpec
from lib_lora.adapters.network import Network
from lib_lora.models.memory import MemoryOptions
from lib_lora.training.config import TrainConfig, trained_parts
from lib_lora.training.optimizers import OptimizerSet, ParamGroup, build_optimizers, find_optimizer
from lib_lora.training.rates import LearningRates
from lib_lora.training.schedules import Schedule, ScheduleShape, warmup_steps


def memory_options(config: TrainConfig) -> MemoryOptions:
    return MemoryOptions(
        config.gradient_checkpointing, config.gradient_checkpointing_depth, config.attention, config.torch_compile
    )


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


def make_optimizers(config: TrainConfig, network: Network, rates: LearningRates) -> OptimizerSet:
    by_group = rates.groups(network)
    parameters = network.parameter_groups(rates.group)
    groups = [ParamGroup(name, own, by_group[name]) for name, own in parameters.items()]
    return build_optimizers(
        config.optimizer_type, groups, config.optimizer_args, with_warmup=config.lr_warmup_steps > 0
    )


def make_schedule(config: TrainConfig, optimizers: OptimizerSet, total_steps: int) -> Schedule:
    shape = ScheduleShape(
        total_steps,
        warmup_steps(config.lr_warmup_steps, total_steps),
        config.lr_scheduler_num_cycles,
        config.lr_scheduler_power,
    )
    return Schedule(optimizers, schedule_name(config), shape)


def schedule_name(config: TrainConfig) -> str:
    return config.lr_scheduler or find_optimizer(config.optimizer_type).schedule
