"""A generator on the tiny checkpoint, and LoRAs that change every block of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib_lora.arch.family import Family
from lib_lora.base.signals import Control
from lib_lora.evaluate.album import Album
from lib_lora.hosts.standalone.generator import StandaloneGenerator
from lib_lora.models.loader import load_model
from lib_lora.weights.layers import block_of_key, checkpoint_layers

BlockTensors = Callable[[Mapping[str | None, float]], dict[str, torch.Tensor]]


def block_tensors(checkpoint: Path) -> BlockTensors:
    """Tensors of a LoRA that changes the largest layer of each of some blocks, scaled by the block's number; None is
    what belongs to no block."""
    with safe_open(checkpoint, "pt") as file:
        names = file.keys()
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in names}
    layers = {}
    for key, layer in checkpoint_layers(shapes, Family.SD1).items():
        block = block_of_key(key)
        if layer.shape[1:] and math.prod(layer.shape) > math.prod(layers.get(block, ("", (0,)))[1]):
            layers[block] = key, layer.shape

    def make(scales: Mapping[str | None, float]) -> dict[str, torch.Tensor]:
        tensors = {}
        for block, scale in scales.items():
            key, (out, size, *kernel) = layers[block]
            draw = torch.Generator().manual_seed(sum(map(ord, str(block))))
            up = torch.randn(out, 2, *[1] * len(kernel), generator=draw)
            tensors[f"{key}.lora_up.weight"] = 0.3 * scale * up
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, size, *kernel, generator=draw)
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
        return tensors

    return make


@pytest.fixture(scope="session")
def tiny_model_for_pictures(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture
def lora_dir(tmp_path) -> Path:
    (tmp_path / "Lora").mkdir()
    return tmp_path / "Lora"


@pytest.fixture
def generator(tiny_model_for_pictures, lora_dir):
    return StandaloneGenerator(tiny_model_for_pictures, lora_dir)


@pytest.fixture
def open_generator(generator):
    return lambda checkpoint: contextlib.nullcontext(generator)


@pytest.fixture
def album(tmp_path) -> Album:
    return Album(tmp_path / "pictures")


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture(scope="session")
def lora_tensors(tiny_checkpoint) -> BlockTensors:
    return block_tensors(tiny_checkpoint)


@pytest.fixture
def write_lora(lora_dir, lora_tensors) -> Callable[..., Path]:
    """``write_lora(name, {block: scale})``: the file."""

    def write(name: str, scales: Mapping[str | None, float]) -> Path:
        save_file(lora_tensors(scales), str(lora_dir / f"{name}.safetensors"))
        return lora_dir / f"{name}.safetensors"

    return write
