"""What a run is made of, from its options."""

from __future__ import annotations

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.arch.family import Family
from lib_lora.models.memory import MemoryOptions
from lib_lora.training.block_ranks import block_ranks
from lib_lora.training.config import TrainConfig, trained_parts
from lib_lora.training.optimizer_table import find_optimizer
from lib_lora.training.optimizers import OptimizerSet, ParamGroup, build_optimizers
from lib_lora.training.rates import LearningRates
from lib_lora.training.schedules import Schedule, ScheduleShape, parse_step_rules, steps_of


def memory_options(config: TrainConfig) -> MemoryOptions:
    return MemoryOptions(
        config.gradient_checkpointing, config.gradient_checkpointing_depth, config.attention, config.torch_compile
    )


def network_spec(config: TrainConfig, family: Family) -> NetworkSpec:
    """
    Raises:
        StudioError: lists of ranks that the family does not have.
    """
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
        block_ranks=block_ranks(config, family),
        train_norm=config.train_norm,
        dora=config.dora_wd,
        rs_lora=config.rs_lora,
        use_tucker=config.use_tucker,
        use_scalar=config.use_scalar,
        factor=config.factor,
        decompose_both=config.decompose_both,
        full_matrix=config.full_matrix,
        unit=config.unit,
        constraint=config.constraint,
    )


def make_optimizers(config: TrainConfig, network: Network, rates: LearningRates) -> OptimizerSet:
    by_group = rates.groups(network)
    parameters = network.parameter_groups(rates.group)
    groups = [ParamGroup(name, own, by_group[name]) for name, own in parameters.items()]
    return build_optimizers(
        config.optimizer_type, groups, config.optimizer_args, with_warmup=config.lr_warmup_steps > 0
    )


def make_schedule(config: TrainConfig, optimizers: OptimizerSet, total_steps: int) -> Schedule:
    return Schedule(optimizers, schedule_name(config), schedule_shape(config, total_steps))


def schedule_shape(config: TrainConfig, total_steps: int) -> ScheduleShape:
    """The shape that the options give to a run of ``total_steps``.

    Raises:
        StudioError: steps that do not fit the run, or the rules of piecewise_constant are missing or no rules.
    """
    is_piecewise = schedule_name(config).lower() == "piecewise_constant"
    return ScheduleShape(
        total_steps,
        steps_of(config.lr_warmup_steps, total_steps, "lr_warmup_steps"),
        config.lr_scheduler_num_cycles,
        config.lr_scheduler_power,
        decay_steps=steps_of(config.lr_decay_steps, total_steps, "lr_decay_steps"),
        min_ratio=config.lr_scheduler_min_lr_ratio,
        timescale=config.lr_scheduler_timescale,
        rules=parse_step_rules(config.lr_step_rules, total_steps) if is_piecewise else (),
    )


def schedule_name(config: TrainConfig) -> str:
    return config.lr_scheduler or find_optimizer(config.optimizer_type).schedule
