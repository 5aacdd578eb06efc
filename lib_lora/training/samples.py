"""Preview pictures during a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lib_lora.adapters.network import Network
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.models.model import DiffusionModel
from lib_lora.models.offload import whole
from lib_lora.models.sampling import generate_picture
from lib_lora.text.extra_networks import has_tags

# What a line that says nothing else asks for.
_USUAL = PictureRequest("", seed=42)
_FLAGS = {"n": "negative", "d": "seed", "s": "steps", "l": "cfg_scale", "w": "width", "h": "height"}


def read_sample_prompts(path: Path, usual: PictureRequest = _USUAL) -> list[PictureRequest]:
    """The prompts of a text file in sd-scripts' form: one a line, ``--n ... --d 1 --s 20 --l 7 --w 512 --h 512``
    after it, ``#`` before a comment.

    Args:
        usual: what prompts ask for that give nothing else.

    Raises:
        StudioError: no such file, no prompt in it, or a line that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"cannot be read ({error})", field="sample_prompts", file=path) from error
    prompts = [parse_sample_prompt(line, usual) for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise StudioError("no prompt in this file", field="sample_prompts", file=path, allowed="one prompt a line")
    return prompts


def parse_sample_prompt(line: str, usual: PictureRequest = _USUAL) -> PictureRequest:
    """One line of the file above."""
    text, *flags = (" " + line.strip()).split(" --")
    if has_tags(text):
        raise StudioError(
            "samples are made with the LoRA that is trained and no other",
            field="sample_prompts",
            came=text.strip(),
            allowed="prompts without <lora:...>",
        )
    sample = replace(usual, prompt=text.strip())
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


@dataclass(frozen=True)
class OwnPreviewer:
    """A ``Previewer`` by our own sampler, on the model under training with its LoRA attached."""

    model: DiffusionModel
    control: Control

    def generate(self, request: PictureRequest, network: Network) -> Image.Image | None:
        with whole(self.model):
            return generate_picture(self.model, request, control=self.control)


def contact_sheet(rows: list[list[Image.Image]], gap_px: int = 4) -> Image.Image:
    """Pictures of one size in rows, on white."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * (width + gap_px) + gap_px, len(rows) * (height + gap_px) + gap_px), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (gap_px + x * (width + gap_px), gap_px + y * (height + gap_px)))
    return sheet
