"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests/tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """On tensors as tiny as these a second thread costs more than it gives, and its sums come in another order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_data_folder(tmp_path_factory):
    """What is kept for the user is not kept in the home of whoever runs the tests."""
    folder = str(tmp_path_factory.mktemp("user"))
    os.environ.update(XDG_DATA_HOME=folder, LOCALAPPDATA=folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A tiny SD1-layout checkpoint in float32 with its yaml and text-encoder folder beside it."""
    from tiny import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Tiny checkpoints of all families: "SD1", "SD2" (v-prediction), "SDXL", and each with " inpainting" after it."""
    from tiny import SHAPES, write_checkpoint

    shapes = SHAPES | {f"{name} inpainting": shape.for_inpainting() for name, shape in SHAPES.items()}
    return {
        name: write_checkpoint(tmp_path_factory.mktemp(name.replace(" ", "_")), shape=shape)
        for name, shape in shapes.items()
    }


@pytest.fixture
def tiny_model(tiny_checkpoint):
    """A freshly loaded tiny model: a test may attach adapters to it."""
    from lib_lora.models.loader import load_model

    return load_model(tiny_checkpoint)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A dataset of five small pictures in one ``2_zorb`` folder, of two shapes, four of them with captions."""
    from PIL import Image, ImageDraw

    folder = tmp_path / "pictures" / "2_zorb"
    folder.mkdir(parents=True)
    for index in range(5):
        picture = Image.new("RGB", (192, 128) if index == 4 else (128, 128), (40 * index, 80, 200))
        ImageDraw.Draw(picture).ellipse([20 + 5 * index, 20, 80 + 5 * index, 90], fill="red")
        picture.save(folder / f"{index}.png")
        if index:
            (folder / f"{index}.txt").write_text("zorb, red, dog" if index % 2 else "zorb, blue cat", encoding="utf-8")
    return folder.parent


@pytest.fixture
def train_options(tiny_checkpoint, pictures, tmp_path) -> dict:
    """The options of a run of three steps on the tiny checkpoint."""
    return {
        "pretrained_model_name_or_path": tiny_checkpoint,
        "train_data_dir": pictures,
        "output_dir": tmp_path / "Lora",
        "output_name": "zorb",
        "network_dim": 2,
        "network_alpha": 2,
        "resolution": "64",
        "min_bucket_reso": 64,
        "max_train_steps": 3,
        "learning_rate": 1e-2,
        "save_precision": "float",
        "device": "cpu",
    }
