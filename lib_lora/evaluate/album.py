"""Pictures made once and kept: a job that was stopped and is done again makes only what is missing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from lib_lora.base.protocols import Generator, PictureRequest
from lib_lora.base.signals import Control
from lib_lora.files.atomic import atomic_write

_PARAMETERS = "parameters"  # what the WebUI reads a picture's prompt and settings from


@dataclass(frozen=True)
class Album:
    """A folder of pictures, each named by all that it depends on.

    Attributes:
        stamp: what a picture depends on beside its request and its host's settings: the LoRAs' files, the presets.
    """

    folder: Path
    stamp: str = ""

    def picture(self, generator: Generator, request: PictureRequest, control: Control) -> Path | None:
        """The file of a request's picture; None where the making of it was stopped or interrupted.

        Raises:
            StudioError: as ``Generator.generate``; or it cannot be written.
        """
        path = self.folder / self._name(generator, request)
        if path.exists():
            return path
        picture = None if control.stopping else generator.generate(request, control=control)
        if picture is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        save_picture(path, picture)
        return path

    def _name(self, generator: Generator, request: PictureRequest) -> str:
        text = json.dumps([asdict(request), generator.settings, self.stamp], sort_keys=True)
        return f"{hashlib.blake2b(text.encode(), digest_size=10).hexdigest()}.png"


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, whole or not at all, with what its host says of how it was made."""
    info = PngImagePlugin.PngInfo()
    if isinstance(picture.info.get(_PARAMETERS), str):
        info.add_text(_PARAMETERS, picture.info[_PARAMETERS])
    with atomic_write(path) as file:
        picture.save(file, "PNG", pnginfo=info)
