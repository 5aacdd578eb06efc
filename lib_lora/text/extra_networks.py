"""``<lora:name:te:unet>`` in a prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lib_lora.base.errors import StudioError

_TAG = re.compile(r"<(\w+):([^>]+)>")
_LORA = ("lora", "lyco")  # the WebUI takes "lyco" for another name of the same


@dataclass(frozen=True)
class LoraTag:
    """One LoRA of a prompt.

    Attributes:
        name: as written: a file's name without its extension, or an alias.
        te, unet: strengths in the text encoder and in the UNet.
        dyn: the rank to cut the LoRA down to, or None.
        named: all ``key=value`` arguments as written, those above included.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None
    named: dict[str, str] = field(default_factory=dict)


def parse_lora_tags(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its tags (what is around them stays as it is) and the LoRAs, in their order.

    ``<lora:name>``, ``<lora:name:0.8>`` (both strengths), ``<lora:name:0.8:0.5>`` (text encoder, UNet),
    ``<lora:name:te=0.8:unet=0.5:dyn=4>``. A missing UNet strength is the text encoder's, a missing text
    encoder strength is 1: A1111 v1.10.1, ``extensions-builtin/Lora/extra_networks_lora.py``.

    Raises:
        StudioError: a tag of another kind (``<hypernet:...>``), one without a name, or a strength that is no number.
    """
    tags: list[LoraTag] = []

    def take(match: re.Match) -> str:
        if match[1] not in _LORA:
            raise StudioError("only LoRA tags are known", field="prompt", came=match[0], allowed="<lora:name:strength>")
        tags.append(_lora_tag(match[0], match[2].split(":")))
        return ""

    return _TAG.sub(take, prompt), tags


def has_tags(prompt: str) -> bool:
    """Whether the WebUI would take something out of this prompt as a tag."""
    return _TAG.search(prompt) is not None


def without_tags(prompt: str) -> str:
    """The prompt without its tags of any kind."""
    return _TAG.sub("", prompt)


def _lora_tag(written: str, items: list[str]) -> LoraTag:
    named = dict(item.split("=") for item in items if item.count("=") == 1)
    positional = [item for item in items if item.count("=") != 1]
    if not positional or not positional[0].strip():
        raise StudioError("the LoRA has no name", field="prompt", came=written, allowed="<lora:name:strength>")

    def number(position: int, key: str, default: float | None) -> float | None:
        text = named.get(key, positional[position] if len(positional) > position else None)
        try:
            return default if text is None else float(text)
        except ValueError:
            raise StudioError(f"{key} is no number", field="prompt", came=written) from None

    te = number(1, "te", 1.0)
    dyn = number(3, "dyn", None)
    return LoraTag(positional[0], te, number(2, "unet", te), None if dyn is None else int(dyn), named)
