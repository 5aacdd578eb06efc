"""What an objective needs, and what means nothing for it. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, options_of
from lib_lora.training.options.dataset import DatasetOptions
from lib_lora.training.options.long_runs import LongRunOptions
from lib_lora.training.options.loss import LossOptions
from lib_lora.training.options.machine import MachineOptions
from lib_lora.training.options.objective import ObjectiveOptions

DENOISING = "denoising"
# The options of each objective, and those that it cannot do without.
_OWN = {
    DENOISING: (),
    "iLECO": ("original_prompt", "target_prompt"),
    "slider": ("target_prompt", "positive_prompt", "negative_prompt", "slider_guidance"),
    "ADDifT": ("diff_target_name",),
}
_NEEDED = {"iLECO": ("original_prompt",), "slider": ("positive_prompt",), "ADDifT": ("diff_target_name",)}
_PROMPTS = ("original_prompt", "target_prompt", "positive_prompt", "negative_prompt")
_WITHOUT_PICTURES = ("iLECO", "slider")

# Options of a group that keep their meaning: of the loss for every objective, of the dataset without pictures.
_OF_ANY_LOSS = ("loss_type", "huber_c", "huber_schedule", "huber_scale", "min_timestep", "max_timestep")
_OF_ANY_PROMPT = ("resolution", "max_token_length", "weighted_captions")
# Options of other groups that lose theirs, for all but denoising and without pictures.
_OF_DENOISING = ("reg_data_dir", "validation_split")
_OF_PICTURES = ("cache_latents", "cache_latents_to_disk", "vae_batch_size", "no_half_vae")


def own_options(objective: str) -> tuple[str, ...]:
    """The options that belong to an objective alone."""
    return _OWN[objective]


def needs_pictures(config: Any) -> bool:
    """Whether the run has a dataset."""
    return config.objective not in _WITHOUT_PICTURES


def prompts_of(config: Any) -> list[str]:
    """The prompts that the objective itself shows to the model."""
    return [getattr(config, name) for name in _OWN[config.objective] if name in _PROMPTS]


def check_objective(config: Any) -> None:
    """Refuse what means nothing together.

    Raises:
        StudioError: naming the option at fault.
    """
    kind = config.objective
    if needs_pictures(config) and config.train_data_dir is None:
        raise StudioError("must be given", field="train_data_dir", allowed="a folder of pictures")
    for name in _NEEDED.get(kind, ()):
        if not getattr(config, name).strip():
            raise StudioError("must be given", field=name, came="", allowed=f"a text, for objective {kind}")
    for info in _without_meaning(kind):
        value = getattr(config, info.name)
        if value != info.default:
            allowed = f"{info.default or 'none'}, or another objective"
            raise StudioError(f"means nothing for objective {kind}", field=info.name, came=value, allowed=allowed)
    if kind == "slider" and config.positive_prompt == config.negative_prompt:
        problem = "is the positive_prompt, too: there is nothing between the two"
        raise StudioError(problem, field="negative_prompt", came=config.negative_prompt, allowed="another prompt")
    if kind == "iLECO" and config.original_prompt == config.target_prompt:
        problem = "is the original_prompt, too: there is nothing to learn"
        raise StudioError(problem, field="target_prompt", came=config.target_prompt, allowed="another prompt")


def means_nothing(name: str, objective: str) -> bool:
    """Whether an option has no meaning for an objective."""
    return any(info.name == name for info in _without_meaning(objective))


@cache
def _without_meaning(kind: str) -> tuple[OptionInfo, ...]:
    """The options that mean nothing for an objective."""
    return tuple(_find_without_meaning(kind))


def _find_without_meaning(kind: str) -> Iterator[OptionInfo]:
    yield from (info for info in options_of(ObjectiveOptions) if info.name not in ("objective", *_OWN[kind]))
    if kind == DENOISING:
        return
    yield from (info for info in options_of(LossOptions) if info.name not in _OF_ANY_LOSS)
    dataset = options_of(DatasetOptions)
    if kind in _WITHOUT_PICTURES:
        yield from (info for info in dataset if info.name not in _OF_ANY_PROMPT)
        yield from (info for info in options_of(MachineOptions) if info.name in _OF_PICTURES)
    others = [*dataset, *options_of(LongRunOptions)]
    yield from (info for info in others if info.name in _OF_DENOISING)
