"""Preview pictures during a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.text.extra_networks import has_tags


@dataclass(frozen=True)
class SamplePrompt:
    """One picture to make; sizes in px."""

    prompt: str
    negative: str = ""
    seed: int = 42
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512


_FLAGS = {"n": "negative", "d": "seed", "s": "steps", "l": "cfg_scale", "w": "width", "h": "height"}


def read_sample_prompts(path: Path, size_px: tuple[int, int]) -> list[SamplePrompt]:
    """The prompts of a text file in sd-scripts' form: one a line, ``--n ... --d 1 --s 20 --l 7 --w 512 --h 512``
    after it, ``#`` before a comment.

    Args:
        size_px: width and height of prompts that give none.

    Raises:
        StudioError: no such file, no prompt in it, or a line that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"cannot be read ({error})", field="sample_prompts", file=path) from error
    prompts = [parse_sample_prompt(line, size_px) for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise StudioError("no prompt in this file", field="sample_prompts", file=path, allowed="one prompt a line")
    return prompts


def parse_sample_prompt(line: str, size_px: tuple[int, int] = (512, 512)) -> SamplePrompt:
    """One line of the file above."""
    text, *flags = (" " + line.strip()).split(" --")
    if has_tags(text):
        raise StudioError(
            "samples are made with the LoRA that is trained and no other",
            field="sample_prompts",
            came=text.strip(),
            allowed="prompts without <lora:...>",
        )
    sample = SamplePrompt(text.strip(), width=size_px[0], height=size_px[1])
    for flag in flags:
        name, _, value = flag.partition(" ")
        if name not in _FLAGS:
            allowed = [f"--{known}" for known in _FLAGS]
            raise StudioError("unknown flag", field="sample_prompts", came=f"--{flag}", allowed=allowed)
        field = _FLAGS[name]
        kind = type(getattr(sample, field))
        try:
            sample = replace(sample, **{field: kind(value.strip())})
        except ValueError:
            raise StudioError("not a number", field="sample_prompts", came=f"--{flag}", allowed=kind.__name__) from None
    return sample


def contact_sheet(rows: list[list[Image.Image]], gap_px: int = 4) -> Image.Image:
    """Pictures of one size in rows, on white."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * (width + gap_px) + gap_px, len(rows) * (height + gap_px) + gap_px), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (gap_px + x * (width + gap_px), gap_px + y * (height + gap_px)))
    return sheet
