"""The options of grids, of the analyser and of the look at what a checkpoint knows. Light: forms are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from lib_lora.base.errors import StudioError
from lib_lora.base.options import REQUIRED, option
from lib_lora.base.protocols import PictureRequest

_PICTURES, _LORA, _MEASURES = "Pictures", "LoRA", "Measures"
_MOST_SIDE_PX, _MOST_PICTURES = 4096, 10_000
ALONE, OFF, BOTH = "alone", "off", "both"


@dataclass(frozen=True)
class PictureOptions:
    """How every picture is made. Prompts are taken one by one; each is made with every seed."""

    prompts: tuple[str, ...] = option((), "what to draw; each prompt is a row of its own", group=_PICTURES)
    prompt_list: str | None = option(None, "saved list whose prompts are drawn, too", group=_PICTURES)
    negative_prompt: str = option("", "what not to draw", group=_PICTURES)
    seeds: tuple[int, ...] = option((1,), "seeds of the pictures", minimum=0, group=_PICTURES)
    steps: int = option(20, "sampling steps", minimum=1, maximum=1000, group=_PICTURES)
    sampler: str = option("Euler a", "sampler", group=_PICTURES)
    cfg_scale: float = option(7.0, "how closely the prompt is followed", minimum=0, group=_PICTURES)
    width: int = option(512, "width", unit="px", minimum=64, maximum=_MOST_SIDE_PX, group=_PICTURES)
    height: int = option(512, "height", unit="px", minimum=64, maximum=_MOST_SIDE_PX, group=_PICTURES)
    clip_skip: int | None = option(
        None,
        "text encoder layer to take, counted from the end; none for the host's own setting",
        minimum=1,
        maximum=12,
        group=_PICTURES,
    )

    def request(self, prompt: str, seed: int) -> PictureRequest:
        """One picture of these."""
        return PictureRequest(
            prompt=prompt,
            negative=self.negative_prompt,
            seed=seed,
            steps=self.steps,
            sampler=self.sampler,
            cfg_scale=self.cfg_scale,
            width=self.width,
            height=self.height,
            clip_skip=self.clip_skip,
        )


@dataclass(frozen=True)
class GridConfig(PictureOptions):
    """A grid: a picture for each combination of what is listed below with each prompt and seed."""

    loras: tuple[str, ...] = option(REQUIRED, "LoRAs to compare, such as the epochs of one", group=_LORA)
    weights: tuple[str, ...] = option((), "block weights: presets' names or vectors; none for none", group=_LORA)
    x: tuple[float, ...] = option((1.0,), "what X stands for in block weights", group=_LORA)
    unet: tuple[float, ...] = option((1.0,), "strengths in the UNet", group=_LORA)
    te: tuple[float, ...] = option((), "strengths in the text encoder; none for those of the UNet", group=_LORA)
    checkpoints: tuple[str, ...] = option(
        (), "checkpoints to compare; none for the loaded one, or the one that the LoRA was trained on", group=_LORA
    )
    without: bool = option(True, "a column without the LoRA", group=_LORA)


@dataclass(frozen=True)
class AnalyseConfig(PictureOptions):
    """What each block of a LoRA does to pictures."""

    lora: str = option(REQUIRED, "LoRA to look into", group=_LORA)
    unet: float = option(1.0, "strength in the UNet", group=_LORA)
    te: float | None = option(None, "strength in the text encoder; none for that of the UNet", group=_LORA)
    checkpoint: str | None = option(
        None, "checkpoint; none for the loaded one, or the one that the LoRA was trained on", group=_LORA
    )
    ways: str = option(
        BOTH,
        "measure each block alone against no LoRA, each block off against the whole LoRA, or both",
        choices=(ALONE, OFF, BOTH),
        group=_MEASURES,
    )
    threshold: float = option(
        0.05, "a pixel's channel counts as changed when it changes by more", above=0, maximum=1, group=_MEASURES
    )


@dataclass(frozen=True)
class KnowledgeConfig(PictureOptions):
    """What a checkpoint makes of tags before anything is trained."""

    tags: tuple[str, ...] = option(REQUIRED, "tags to look up, such as a dataset's most frequent ones", group=_PICTURES)
    checkpoint: str | None = option(None, "checkpoint; none for the loaded one", group=_LORA)


def check_pictures(config: PictureOptions) -> None:
    """What the options say together.

    Raises:
        StudioError: naming the option at fault.
    """
    for name in ("width", "height"):
        if getattr(config, name) % 8:
            raise StudioError("not allowed", field=name, came=getattr(config, name), allowed="multiples of 8")
    if not config.seeds:
        raise StudioError("must be given", field="seeds", allowed="whole numbers from 0 on")
    for name in ("seeds", "loras", "checkpoints", "weights", "x", "unet", "te", "tags"):
        values = getattr(config, name, ())
        if isinstance(values, tuple) and len(set(values)) < len(values):
            raise StudioError("names one thing twice", field=name, came=list(values))
    count = prod(max(len(values), 1) for values in vars(config).values() if isinstance(values, tuple))
    if count > _MOST_PICTURES:
        raise StudioError("too many pictures", field="prompts", came=count, allowed=f"{_MOST_PICTURES} at most")
