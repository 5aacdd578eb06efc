"""A dataset of coloured pictures, and taggers of one's own in a folder of models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.dataset.collection import Collection
from tiny_taggers import write_tagger

# What TINY says of a picture of one colour, of what arrives in BGR: blue for label 0, 3, 6; green for 1, 4, 7; red for
# 2 and 5, each from 0 to 1.
COLOURS = {
    "a.png": (0, 0, 255),  # 1girl (and the rating sensitive)
    "b.png": (0, 255, 0),  # long_hair (and the rating general)
    "c.png": (255, 0, 0),  # zorb_(hero), ^_^
    "sub/d.png": (255, 255, 255),  # everything
    "sub/e.png": (0, 0, 0),  # nothing
}
EXPECTED = {
    "a.png": "1girl",
    "b.png": "long hair",
    "c.png": "^_^, zorb (hero)",
    "sub/d.png": "1girl, ^_^, long hair, zorb (hero)",
}


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    for name, colour in COLOURS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), colour).save(folder / name)
    return folder


@pytest.fixture
def models(tmp_path) -> Path:
    """A folder with the tagger "tiny"."""
    write_tagger(tmp_path / "models" / "tiny")
    return tmp_path / "models"


@pytest.fixture
def collection(dataset) -> Iterator[Collection]:
    with Collection.open(dataset) as opened:
        yield opened


def captions(folder: Path) -> dict[str, str]:
    """What the caption files say, by the names of the pictures."""
    found = {}
    for name in COLOURS:
        path = (folder / name).with_suffix(".txt")
        if path.exists():
            found[name] = path.read_text(encoding="utf-8")
    return found
