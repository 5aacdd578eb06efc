"""What a training job adds to the options of a run, and where such a job must run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import OptionInfo, option, options_of
from lib_lora.base.protocols import Host, ModelFile
from lib_lora.training.config import TrainConfig
from lib_lora.training.options.samples import GROUP as SAMPLES

LIVE, CHILD = "live", "child"
JOB, RESULT = "Job", "Result"


@dataclass(frozen=True)
class TrainJobOptions:
    """The options of a "train" job beside those of ``TrainConfig``."""

    model_source: str = option(
        "auto",
        "which weights: the checkpoint's file, those that the WebUI has loaded, or switch the WebUI to the checkpoint "
        "first; auto takes the loaded ones where they are the checkpoint's",
        choices=("auto", "file", "loaded", "switch"),
        group=JOB,
        label="Weights from",
    )
    way: str = option(
        "auto",
        "live trains on the WebUI's own loaded model, child in a process of its own while the WebUI's model is put "
        "away; auto takes live wherever the options allow it",
        choices=("auto", LIVE, CHILD),
        level="advanced",
        group=JOB,
        label="Where it runs",
    )
    num_processes: int = option(
        1,
        "cards that train together, each with its own batches",
        minimum=1,
        level="advanced",
        group=JOB,
        label="Cards",
        way=CHILD,
    )
    pause_on_generate: bool = option(
        True, "pause by itself when somebody presses Generate, and go on afterwards", group=JOB
    )
    lora_while_paused: bool = option(
        False, "while it is paused the WebUI's pictures are made with the LoRA so far", level="advanced", group=JOB
    )
    on_switch: str = option(
        "put_back",
        "when another checkpoint was loaded during a pause: put_back loads this one again, wait stays paused",
        choices=("put_back", "wait"),
        level="advanced",
        group=JOB,
        label="If the checkpoint was switched",
    )

    sample_prompts_text: str = option(
        "", "prompts of the samples, one a line, in place of a file", group=SAMPLES, label="Prompts"
    )
    preview_with_host: bool = option(
        True,
        "the WebUI's own generator makes the samples, where the run is live",
        level="advanced",
        group=SAMPLES,
        label="Samples by the WebUI",
    )

    output_subfolder: str = option("", "folder below the LoRA folder, as characters/zorb", group=RESULT)
    activation_text: str = option(
        "", "trigger: what the WebUI puts into the prompt along with the LoRA", group=RESULT, label="Trigger"
    )
    preferred_weight: float = option(
        0.0, "strength that the WebUI writes for the LoRA; 0 leaves it to the WebUI's settings", minimum=0, group=RESULT
    )
    notes: str = option("", "notes that the WebUI shows with the LoRA", group=RESULT)


def way_needed(config: TrainConfig, options: TrainJobOptions, host: Host) -> tuple[str, str]:
    """Where the job runs, ``LIVE`` or ``CHILD``, and why, in words for a person.

    Raises:
        StudioError: the person has asked for ``LIVE``, and it cannot be.
    """
    against = list(_against_live(config, options, host))
    if options.way == LIVE and against:
        raise StudioError(f"not on the loaded model: {against[0]}", field="way", came=LIVE, allowed="auto, child")
    if against:
        return CHILD, "; ".join(against)
    if options.way == CHILD:
        return CHILD, "asked for"
    switched = options.model_source == "switch" and not is_loaded(config.pretrained_model_name_or_path, host)
    return LIVE, "the WebUI loads the checkpoint first" if switched else "the checkpoint is the WebUI's loaded one"


def _against_live(config: TrainConfig, options: TrainJobOptions, host: Host) -> Iterator[str]:
    """What speaks against training on the host's loaded model."""
    switches = options.model_source == "switch"
    if not host.lends():
        # A host without a model of its own needs no more reasons.
        yield "no model is loaded that could be trained on"
        return
    for info, value in _values(config, options):
        if info.way == CHILD and value != info.default:
            yield f"{info.name} needs a process of its own"
    if options.model_source == "file":
        yield "model_source is file, and the loaded model stays what it is"
    elif not switches and not is_loaded(config.pretrained_model_name_or_path, host):
        yield f"{config.pretrained_model_name_or_path.name} is not the loaded checkpoint"
    if config.vae is not None and not _is_loaded(config.vae, host.vaes()):
        yield f"{config.vae.name} is not the loaded VAE"


def is_loaded(checkpoint: Path, host: Host) -> bool:
    """Whether the host has this checkpoint in memory."""
    return _is_loaded(checkpoint, host.checkpoints())


def _is_loaded(path: Path, known: Iterable[ModelFile]) -> bool:
    real = os.path.realpath(path)
    return any(each.loaded and os.path.realpath(each.path) == real for each in known)


def _values(*configs: Any) -> Iterator[tuple[OptionInfo, Any]]:
    for config in configs:
        for info in options_of(type(config)):
            yield info, getattr(config, info.name)
