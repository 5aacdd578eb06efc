"""Options: what is learnt, and from what."""

from __future__ import annotations

from dataclasses import dataclass

from lib_lora.base.options import option

GROUP = "Way to train"


@dataclass(frozen=True)
class ObjectiveOptions:
    """The group "Way to train"."""

    objective: str = option(
        "denoising",
        "what is learnt: pictures with their captions (denoising); without pictures a prompt that comes to mean "
        "another (iLECO) or a quality that the strength turns up and down (slider); what changes between the two "
        "pictures of each pair (ADDifT)",
        choices=("denoising", "iLECO", "slider", "ADDifT"),
        group=GROUP,
        label="Way to train",
    )
    original_prompt: str = option(
        "", "iLECO: the prompt that is to mean another", level="advanced", group=GROUP, label="Original prompt"
    )
    target_prompt: str = option(
        "",
        "iLECO: what the original prompt is to mean, none erases it; slider: what the quality is changed of, as person",
        level="advanced",
        group=GROUP,
        label="Target prompt",
    )
    positive_prompt: str = option(
        "",
        "slider: what a strength above 0 turns to, as person, smiling",
        level="advanced",
        group=GROUP,
        label="Positive prompt of the slider",
    )
    negative_prompt: str = option(
        "",
        "slider: what a strength below 0 turns to, as person, frowning",
        level="advanced",
        group=GROUP,
        label="Negative prompt of the slider",
    )
    slider_guidance: float = option(
        3.0,
        "slider: how far strength 1 goes",
        above=0,
        level="advanced",
        group=GROUP,
        label="Guidance of the slider",
    )
    diff_target_name: str = option(
        "_target",
        "ADDifT: ending of the names of the changed pictures, as of cat_target.png beside cat.png",
        level="advanced",
        group=GROUP,
        label="Ending of changed pictures",
    )
