"""Options: the preview pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.options import option

GROUP = "Samples"


@dataclass(frozen=True)
class SampleOptions:
    """The group "Samples"."""

    sample_prompts: Path | None = option(
        None,
        "text file, one prompt a line; --n negative --d seed --s steps --l scale --w width --h height may follow",
        group=GROUP,
        label="Prompts from a file",
        folder="datasets",
    )
    sample_every_n_epochs: int | None = option(None, "make samples after every n epochs", minimum=1, group=GROUP)
    sample_every_n_steps: int | None = option(None, "make samples after every n steps", minimum=1, group=GROUP)
    sample_at_first: bool = option(
        False, "make samples before the first step too", group=GROUP, label="Samples before the first step"
    )
    sample_sampler: str = option("Euler a", "sampler of the samples", group=GROUP, label="Sampler")
