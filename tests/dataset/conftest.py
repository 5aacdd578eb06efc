from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.dataset.collection import Collection
from tiny_dataset import noise


@pytest.fixture
def dataset(tmp_path) -> Callable[..., Path]:
    """Makes a folder of tiny pictures with captions: ``dataset({"a": "red, hat", "sub/b": None})``."""

    def make(captions: dict[str, str | bytes | None], folder: str = "data") -> Path:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name, caption in captions.items():
            path = root / (name if name.lower().endswith((".png", ".jpg")) else f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 8)).save(path)
            if caption is not None:
                data = caption.encode("utf-8") if isinstance(caption, str) else caption
                path.with_suffix(".txt").write_bytes(data)
        return root

    return make


@pytest.fixture
def opened(dataset):
    """Makes such a folder and opens it."""
    collections = []

    def open_dataset(captions: dict[str, str | bytes | None], **options) -> Collection:
        collections.append(Collection.open(dataset(captions), **options))
        return collections[-1]

    yield open_dataset
    for collection in collections:
        collection.close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """One picture, with a caption of two lines, a byte order mark and Windows' line ends."""
    folder = tmp_path / "2_zorb"
    folder.mkdir()
    noise(60, 40).save(folder / "a.png")
    (folder / "a.txt").write_bytes("\ufeffzorb, dress\r\nsecond line\r\n".encode())
    return folder


@pytest.fixture
def collection(folder):
    with Collection.open(folder) as collection:
        yield collection
