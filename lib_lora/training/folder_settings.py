"""Options that a folder of pictures has for itself: ``lora_studio.toml`` beside its pictures.

    shuffle_caption = true
    keep_tokens = 1
    caption_prefix = "photo of"

What it does not name is as the run has it. As sd-scripts' subsets have it, of captions and of how pictures are varied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.options import convert, options_of
from lib_lora.dataset.plan import Plan
from lib_lora.files.toml_file import read_toml
from lib_lora.text.captions import CaptionRules
from lib_lora.training.config import TrainConfig, check

_VARIED = ("flip_aug", "random_crop", "color_aug")
PER_FOLDER = (*(each.name for each in dataclasses.fields(CaptionRules) if each.name != "enable_wildcard"), *_VARIED)
# What changes a picture or a caption from one showing to the next.
VARIATIONS = (
    *_VARIED,
    "shuffle_caption",
    "caption_dropout_rate",
    "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate",
    "token_warmup_min",
    "token_warmup_step",
)


class FolderSettings:
    """The options of each folder of a plan.

    Args:
        varied: with those that change a picture or a caption from one showing to the next.

    Raises:
        StudioError: a folder's file cannot be read, names what is no option of a folder, or has a value that is not
            allowed.
    """

    def __init__(self, plan: Plan, config: TrainConfig, *, varied: bool = True) -> None:
        left_out = () if varied else VARIATIONS
        self._config = config
        files = {image.record.settings for image in plan.images} - {None}
        self._own = {file: folder_config(config, file, left_out) for file in sorted(files)}
        self._rules = {file: caption_rules(own) for file, own in [(None, config), *self._own.items()]}

    def config(self, settings: Path | None) -> TrainConfig:
        """The run's options as the folder with this file has them."""
        return self._own.get(settings, self._config)

    def rules(self, settings: Path | None) -> CaptionRules:
        return self._rules[settings]

    @property
    def all(self) -> list[TrainConfig]:
        """The run's and each folder's."""
        return [self._config, *self._own.values()]

    @property
    def flips(self) -> bool:
        return any(each.flip_aug for each in self.all)


def folder_config(config: TrainConfig, file: Path, left_out: Sequence[str] = ()) -> TrainConfig:
    """``config`` with what a folder's file says, but for the options ``left_out``."""
    infos = {info.name: info for info in options_of(TrainConfig)}
    own: dict[str, Any] = {}
    try:
        for name, value in read_toml(file).items():
            if name not in PER_FOLDER:
                raise StudioError("is no option of one folder", field=name, came=value, allowed=PER_FOLDER)
            if name not in left_out:
                own[name] = convert(infos[name], value)
        changed = dataclasses.replace(config, **own)
        check(changed)
    except StudioError as error:
        about = {"field": error.field, "file": file, "came": error.came, "allowed": error.allowed}
        raise StudioError(error.problem, **about) from error
    return changed


def caption_rules(config: TrainConfig) -> CaptionRules:
    return CaptionRules(**{each.name: getattr(config, each.name) for each in dataclasses.fields(CaptionRules)})
