"""The text that the WebUI writes into its pictures, and the caption in it."""

from __future__ import annotations

import re

from lib_lora.base.errors import StudioError
from lib_lora.text.editing import editing_schedule, split_composition, strip_comments
from lib_lora.text.emphasis import BREAK, parse_emphasis
from lib_lora.text.extra_networks import without_tags

_NEGATIVE = "Negative prompt:"
_SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LEAST_SETTINGS = 3
_STEPS = 1000  # of a run that is drawn to its end: what a prompt with editing says last


def prompt_of(infotext: str) -> str:
    """The prompt of a picture's infotext, as A1111 v1.10.1 reads it (``infotext_utils.parse_generation_parameters``):
    all before the negative prompt and the line of settings."""
    lines = infotext.strip().split("\n")
    if len(_SETTING.findall(lines[-1])) >= _LEAST_SETTINGS:
        del lines[-1]
    ends = [number for number, line in enumerate(lines) if line.strip().startswith(_NEGATIVE)]
    return "\n".join(lines[: ends[0] if ends else None]).strip()


def caption_of(prompt: str) -> str:
    """What of a prompt describes the picture: one line, without ``<lora:...>``, comments, weights and brackets.

    Of ``[from:to:when]`` what the prompt ends with stays. A prompt that cannot be read is taken as it stands.
    """
    text = without_tags(strip_comments(prompt))
    try:
        described = ",".join(_plain(part) for part, _ in split_composition(text))
    except StudioError:
        described = text
    words = (" ".join(word.split()) for word in re.split(r"[,\n]", described))
    return ", ".join(word for word in words if word)


def _plain(text: str) -> str:
    """Without weights, and what prompt editing leaves at the end."""
    _, last = editing_schedule(text, _STEPS)[-1]
    return "".join("," if part == BREAK else part[0] for part in parse_emphasis(last))
