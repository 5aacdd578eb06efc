"""Options: rates, optimizer, schedule and length."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.options import option

GROUP = "Learning"


@dataclass(frozen=True)
class LearningOptions:
    """The group "Learning"."""

    learning_rate: float | None = option(
        None, "learning rate of UNet and text encoder; none takes the optimizer's own advice", minimum=0, group=GROUP
    )
    unet_lr: float | None = option(
        None,
        "learning rate of the UNet; none takes learning_rate, 0 leaves the UNet as it is",
        minimum=0,
        group=GROUP,
    )
    text_encoder_lr: tuple[float, ...] | None = option(
        None,
        "learning rate of the text encoder, for SDXL also one for each; none takes learning_rate, 0 leaves it as it is",
        minimum=0,
        group=GROUP,
    )
    loraplus_lr_ratio: float | None = option(
        None,
        "LoRA+ (arXiv 2402.12354): lora_up learns so many times faster; 16 is usual",
        above=0,
        level="advanced",
        group=GROUP,
        label="LoRA+ ratio",
    )
    loraplus_unet_lr_ratio: float | None = option(
        None,
        "LoRA+ ratio of the UNet; none takes loraplus_lr_ratio",
        above=0,
        level="advanced",
        group=GROUP,
        label="LoRA+ ratio, UNet",
    )
    loraplus_text_encoder_lr_ratio: float | None = option(
        None,
        "LoRA+ ratio of the text encoder; none takes loraplus_lr_ratio",
        above=0,
        level="advanced",
        group=GROUP,
        label="LoRA+ ratio, text encoder",
    )
    down_lr_weight: tuple[str, ...] = option(
        (),
        "factors on the rate of the UNet's blocks IN00, IN01 and so on (12; SDXL 9), 0 leaves a block out; or cosine, "
        "sine, linear, reverse_linear or zeros, which +0.25 lifts",
        level="advanced",
        group=GROUP,
        label="Rate factors, IN blocks",
    )
    mid_lr_weight: tuple[float, ...] = option(
        (),
        "factor on the rate of the UNet's middle block (SDXL also 3)",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Rate factor, middle block",
    )
    up_lr_weight: tuple[str, ...] = option(
        (),
        "as down_lr_weight, of the blocks OUT00, OUT01 and so on",
        level="advanced",
        group=GROUP,
        label="Rate factors, OUT blocks",
    )
    block_lr_zero_threshold: float = option(
        0.0,
        "factors of down_, mid_ and up_lr_weight up to this count as 0",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Factors that count as 0",
    )
    block_lr_weight: tuple[float, ...] = option(
        (),
        "in place of those, factors on all blocks in the order of block weights: 26 or 17, for SDXL 20 or 12, the "
        "text encoders' first",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Rate factors, all blocks",
    )
    optimizer_type: str = option("AdamW", "optimizer", group=GROUP, label="Optimizer")
    optimizer_args: tuple[str, ...] = option(
        (),
        "further arguments of the optimizer, as name=value",
        level="advanced",
        group=GROUP,
        label="Optimizer arguments",
    )
    lr_scheduler: str | None = option(
        None,
        "how the learning rate changes over the run; none takes what suits the optimizer",
        group=GROUP,
        label="Schedule",
    )
    lr_warmup_steps: float = option(
        0.0,
        "steps in which the learning rate rises; below 1 a share of the run",
        minimum=0,
        group=GROUP,
        label="Warm-up",
    )
    lr_scheduler_num_cycles: int = option(
        1,
        "restarts of cosine_with_restarts, half waves of cosine_with_min_lr",
        minimum=1,
        level="advanced",
        group=GROUP,
        label="Restarts",
    )
    lr_scheduler_power: float = option(
        1.0, "power of polynomial", above=0, level="advanced", group=GROUP, label="Power of polynomial"
    )
    lr_scheduler_min_lr_ratio: float = option(
        0.0,
        "where cosine_with_min_lr and warmup_stable_decay end, as a share of the rate",
        minimum=0,
        maximum=1,
        level="advanced",
        group=GROUP,
        label="Lowest share of the rate",
    )
    lr_decay_steps: float = option(
        0.2,
        "last steps, in which warmup_stable_decay falls; below 1 a share of the run",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Steps of decay",
    )
    lr_scheduler_timescale: int | None = option(
        None,
        "inverse_sqrt falls to half after four times as many steps; none takes the warm-up, or 10000",
        unit="steps",
        minimum=1,
        level="advanced",
        group=GROUP,
        label="Time scale of the inverse root",
    )
    lr_step_rules: tuple[str, ...] = option(
        (),
        "factors of piecewise_constant and the step up to which each holds, or a share of the run, as "
        "1:100,0.1:0.5,0.01",
        level="advanced",
        group=GROUP,
        label="Pieces of a constant rate",
    )
    train_batch_size: int = option(1, "pictures per step", minimum=1, group=GROUP, label="Batch size")
    gradient_accumulation_steps: int = option(
        1, "batches gathered for one step", minimum=1, level="advanced", group=GROUP, label="Batches per step"
    )
    max_train_epochs: int | None = option(None, "length of the run in epochs", minimum=1, group=GROUP, label="Epochs")
    max_train_steps: int | None = option(
        None, "length of the run in steps; 1600 when neither is given", minimum=1, group=GROUP, label="Steps"
    )
    max_grad_norm: float = option(
        1.0,
        "longest gradient; 0 switches clipping off",
        minimum=0,
        level="advanced",
        group=GROUP,
        label="Gradient clipping",
    )
    scale_weight_norms: float | None = option(
        None,
        "longest change of a layer, |scale up down|: longer ones are scaled down after each step; 1 is usual",
        above=0,
        level="advanced",
        group=GROUP,
        label="Longest change of a layer",
    )
    seed: int = option(42, "the same seed gives the same LoRA", minimum=0, group=GROUP)
