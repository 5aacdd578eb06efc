"""Options: what is written, and when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import REQUIRED, option

GROUP = "Output"


@dataclass(frozen=True)
class OutputOptions:
    """The group "Output"."""

    output_dir: Path = option(Path("models/Lora"), "folder for the LoRA", group=GROUP, folder="outputs")
    output_name: str = option(REQUIRED, "name of the LoRA, without extension", group=GROUP, label="Name")
    overwrite: bool = option(
        False, "replace a LoRA of this name that exists", group=GROUP, label="Replace a LoRA of this name"
    )
    save_precision: str = option("fp16", "number format of the file", choices=("fp16", "bf16", "float"), group=GROUP)
    save_every_n_epochs: int | None = option(
        None, "also save after every n epochs", minimum=1, group=GROUP, label="Save every n epochs"
    )
    save_every_n_steps: int | None = option(None, "also save after every n steps", minimum=1, group=GROUP)
    save_last_n_epochs: int | None = option(
        None,
        "of the saves after epochs keep the last n only",
        unit="saves",
        minimum=1,
        group=GROUP,
        label="Saves after epochs kept",
    )
    save_last_n_steps: int | None = option(
        None,
        "of the saves after steps keep those of the last n steps only",
        unit="steps",
        minimum=1,
        level="advanced",
        group=GROUP,
        label="Saves after steps kept for",
    )
    save_state: bool = option(
        False,
        "save the run's state at its end too, to train on later",
        level="advanced",
        group=GROUP,
        label="Save state at the end",
    )
    save_state_every_n_steps: int | None = option(
        None,
        "save the run's state after every n steps, to go on after a crash",
        minimum=1,
        group=GROUP,
        label="Save state every n steps",
    )
    keep_states: int = option(
        1, "how many of the last states are kept", minimum=1, level="advanced", group=GROUP, label="States kept"
    )
    resume: Path | None = option(
        None,
        "state to go on from: state_dir or a folder in it",
        level="advanced",
        group=GROUP,
        label="Go on from state",
        folder="outputs",
    )
    state_dir: Path | None = option(
        None,
        "folder for the run's states; none takes <output_dir>/<output_name>-state",
        level="advanced",
        group=GROUP,
        folder="outputs",
    )
    logging_dir: Path | None = option(
        None,
        "folder for the loss log; none takes <output_dir>/<output_name>-log",
        level="advanced",
        group=GROUP,
        folder="outputs",
    )
    training_comment: str = option("", "a note written into the file", level="advanced", group=GROUP, label="Comment")
