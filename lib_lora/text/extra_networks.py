"""``<lora:name:te:unet>`` in a prompt."""

from __future__ import annotations

import re

from lib_lora.base.errors import StudioError

_TAG = re.compile(r"<(\w+):([^>]+)>")
_LORA = ("lora", "lyco")  # the WebUI takes "lyco" for another name of the same


def split_tags(prompt: str) -> tuple[str, list[list[str]]]:
    """The prompt without its tags and the items of each LoRA's, ``["name", "0.8", "te=0.5"]``, in their order.

    Raises:
        StudioError: a tag of another kind (``<hypernet:...>``).
    """
    tags: list[list[str]] = []

    def take(match: re.Match) -> str:
        if match[1] not in _LORA:
            raise StudioError("only LoRA tags are known", field="prompt", came=match[0], allowed="<lora:name:strength>")
        tags.append(match[2].split(":"))
        return ""

    return _TAG.sub(take, prompt), tags


def has_tags(prompt: str) -> bool:
    """Whether the WebUI would take something out of this prompt as a tag."""
    return _TAG.search(prompt) is not None


def without_tags(prompt: str) -> str:
    """The prompt without its tags of any kind."""
    return _TAG.sub("", prompt)
