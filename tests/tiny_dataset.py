"""Small pictures to make datasets of, and looks at what is in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lib_lora.dataset.collection import Collection


def captions_of(collection: Collection) -> dict[str, str | None]:
    return {item.stem: item.caption for item in collection.items}


def ids_of(collection: Collection, *stems: str) -> list[int]:
    by_stem = {item.stem: item.id for item in collection.items}
    return [by_stem[stem] for stem in stems]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".lora_studio" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
