"""Options: what keeps a long run sound."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.options import option

GROUP = "Long runs"


@dataclass(frozen=True)
class LongRunOptions:
    """The group "Long runs"."""

    nan_guard: str = option(
        "stop",
        "what is done when loss, gradients or weights are no longer finite numbers: end with an explanation, go back "
        "to the last sound step and on at a lower rate, or nothing",
        choices=("stop", "rollback", "off"),
        group=GROUP,
        label="When numbers break down",
    )
    nan_guard_factor: float = option(
        0.5,
        "what the learning rate is multiplied by each time the run goes back; below 1",
        above=0,
        maximum=0.99,
        level="advanced",
        group=GROUP,
        label="Lower rate after that",
    )
    nan_guard_tries: int = option(
        3,
        "how often a run may go back before it ends",
        minimum=1,
        level="advanced",
        group=GROUP,
        label="Times it may go back",
    )
    validation_split: float = option(
        0.0,
        "share of the training pictures that is held out, to see what the LoRA has learnt beyond them; 0 is off",
        minimum=0,
        maximum=0.9,
        group=GROUP,
        label="Pictures held out",
    )
    validation_seed: int | None = option(
        None,
        "draws the pictures that are held out, and their noise; none takes seed",
        minimum=0,
        level="advanced",
        group=GROUP,
    )
    validate_every_n_epochs: int | None = option(
        None,
        "measure the loss of what is held out after every n epochs; none takes 1 where validate_every_n_steps is none",
        minimum=1,
        level="advanced",
        group=GROUP,
    )
    validate_every_n_steps: int | None = option(
        None,
        "measure the loss of what is held out after every n steps",
        minimum=1,
        level="advanced",
        group=GROUP,
    )
    save_best: bool = option(
        True,
        "keep the LoRA with the lowest loss of what is held out as <output_name>-best",
        group=GROUP,
        label="Keep the best",
    )
    early_stop_patience: int | None = option(
        None,
        "end after so many measurements in a row without a new best one",
        minimum=1,
        group=GROUP,
        label="End early after",
    )
    ema_decay: float | None = option(
        None,
        "save, show and measure an average of the weights, which forgets this slowly; 0.99 to 0.999 is usual",
        above=0,
        maximum=0.99999,
        level="advanced",
        group=GROUP,
        label="Average of the weights",
    )
