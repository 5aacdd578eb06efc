"""The settings in a file or in pasted words, of whichever program."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Host
from lib_lora.files.toml_file import parse_tables
from lib_lora.jobs.imports import easy_scripts, kohya_gui, one_trainer, sd_scripts, traintrain
from lib_lora.jobs.imports.reader import Reader
from lib_lora.jobs.imports.taken import Taken, Translation, understood

_MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Source:
    """One program: how its settings are known, and put into sd-scripts' words."""

    name: str
    knows: Callable[[Mapping[str, Any]], bool]
    translate: Callable[[Mapping[str, Any]], Translation]


SOURCES = (
    Source("OneTrainer", one_trainer.knows, one_trainer.translate),
    Source("TrainTrain", traintrain.knows, traintrain.translate),
    Source("kohya_ss", kohya_gui.knows, kohya_gui.translate),
    Source("LoRA_Easy_Training_Scripts", easy_scripts.knows, easy_scripts.translate),
    Source("sd-scripts", lambda document: True, sd_scripts.translate),
)


def options_from_text(text: str, host: Host) -> Taken:
    """What a config file's text, or a pasted command, says of our options.

    Raises:
        StudioError: it is none, or says nothing that is known here.
    """
    if len(text) > _MOST_CHARACTERS:
        raise StudioError("is too long for settings", field="text", came=f"{len(text)} characters")
    document = _document(text.lstrip("\ufeff").strip())
    source = next(each for each in SOURCES if each.knows(document))
    with understood(source.name, field="text"):
        translation = source.translate(document)
        taken = Reader(host).read(translation.values, translation)
    taken.source = source.name
    if not taken.values:
        names = ", ".join(each.name for each in SOURCES)
        raise StudioError("says nothing that is known here", field="text", allowed=f"settings of {names}, or flags")
    return taken


def _document(text: str) -> Mapping[str, Any]:
    if text.startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StudioError(f"is no JSON ({error})", field="text") from error
    try:
        return parse_tables(text)
    except StudioError:
        if re.search(r"(^|\s)--\w", text):
            return sd_scripts.flags(text)
        raise
