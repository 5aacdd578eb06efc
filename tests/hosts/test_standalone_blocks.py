"""Block weights in the prompts of the standalone app."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import PictureRequest
from lib_lora.hosts.standalone.generator import StandaloneGenerator
from lib_lora.models.loader import load_model
from lib_lora.models.sampling import generate_picture

ONE_BLOCK = "mid_block"
ONES, ZEROS = ",".join(["1"] * 26), ",".join(["0"] * 26)
ONE = ",".join(["0"] * 13 + ["1"] + ["0"] * 12)
REQUEST = PictureRequest("zorb", seed=4, steps=2, sampler="Euler", cfg_scale=1, width=64, height=64)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """With a LoRA of all blocks and one that holds the middle block only."""
    folder = tmp_path_factory.mktemp("app")
    spec = NetworkSpec(rank=2, alpha=2.0, targets="attn2.to_v|mlp.fc1")
    network = Network.create(model.unet, model.text_encoders, spec, seed=1)
    draw = torch.Generator().manual_seed(2)
    tensors = {key: 0.3 * torch.randn(own.shape, generator=draw) for key, own in network.state_tensors().items()}
    for name, keeps in (("all", ""), ("one", ONE_BLOCK)):
        save_file({key: own for key, own in tensors.items() if keeps in key}, str(folder / f"{name}.safetensors"))
    return folder


@pytest.fixture
def draw(model, folder, tmp_path) -> Callable[..., np.ndarray]:
    generator = StandaloneGenerator(model, folder, tmp_path)
    return lambda words, **fields: np.asarray(generator.generate(replace(REQUEST, prompt=f"zorb {words}", **fields)))


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.array_equal(first, second))


def test_pictures_are_those_of_the_same_lora_without_block_weights(draw):
    plain, none, file = draw("<lora:all:0.8>"), draw(""), draw("<lora:one:0.8>")
    assert not (same(plain, none) or same(file, none) or same(file, plain))
    assert same(draw(f"<lora:all:0.8:lbw={ONES}>"), plain)
    assert same(draw(f"<lora:all:0.8:lbw={ZEROS}>"), none)
    assert same(draw(f"<lora:all:0.8:lbw={ONE}>"), file)


def test_the_form_from_before_webui_1_5_is_applied(draw):
    assert same(draw("<lora:all:0.8:OUTX:0.5>"), draw(f"<lora:all:0.8:lbw={','.join(['0.5'] * 8 + ['1'] * 9)}>"))


def test_dyn_leaves_the_first_ranks_at_an_unchanged_scale(draw, folder):
    tensors = load_file(folder / "all.safetensors")
    for key, tensor in tensors.items():
        if key.endswith("lora_up.weight"):
            tensor[:, 1:] = 0
    save_file(tensors, str(folder / "first.safetensors"))
    plain, cut = draw("<lora:all:1>"), draw("<lora:all:1:1:1>")
    assert np.abs(cut.astype(int) - draw("<lora:first:1>")).max() <= 1 and not same(cut, plain)
    assert same(draw("<lora:all:1:dyn=1>"), cut) and same(draw("<lora:all:1:dyn=2>"), plain)


def test_a_lora_that_stands_twice_acts_with_the_sum(draw):
    inside, outside = ONE, ",".join("10"[int(value)] for value in ONE.split(","))
    twice = draw(f"<lora:all:0.8:lbw={inside}> <lora:all:0.8:lbw={outside}>")
    assert np.abs(twice.astype(int) - draw("<lora:all:0.8>")).max() <= 1


@pytest.mark.parametrize(
    "words, acts", [("start=3", (0, 0, 1, 1)), ("stop=0.5", (1, 1, 0, 0)), ("step=2-4", (0, 1, 1, 0))]
)
def test_schedules_switch_the_unet_between_steps(draw, model, folder, words, acts):
    tensors, _ = read_tensors(folder / "all.safetensors")
    network = Network.from_file_tensors(model.unet, model.text_encoders, tensors).eval()
    network.attach()
    try:
        with network.strength(unet=acts[0]):
            unet = network.state.strengths
            expected = generate_picture(
                model,
                replace(REQUEST, prompt="zorb ", steps=4),
                on_step=lambda done, _: unet.update(unet=(*acts, 0)[done]),
            )
    finally:
        network.detach_from_model()
    assert same(draw(f"<lora:all:1:{words}>", steps=4), np.asarray(expected))
    assert not same(draw("<lora:all:1>", steps=4), np.asarray(expected))


def test_a_preset_of_ones_own_that_was_edited_counts_at_once(draw, tmp_path):
    pictures = []
    for base in ("1", "0"):
        weights = ",".join([base, *["0.5"] * 16])
        (tmp_path / "block_presets.txt").write_text(f"MINE:{weights}\n", encoding="utf-8")
        pictures.append(draw("<lora:all:1:lbw=MINE>"))
        assert same(pictures[-1], draw(f"<lora:all:1:lbw={weights}>"))
    assert not same(*pictures)


def test_r_is_drawn_from_the_seed(draw):
    words = f"<lora:all:1:lbw={','.join(['R'] * 26)}>"
    assert same(draw(words), draw(words)) and not same(draw(words), draw(words, seed=5))


def test_the_model_is_as_before_afterwards(draw):
    before = draw("")
    assert not same(draw("<lora:all:1:lbw=MIDD:stop=2>"), before)
    assert same(draw(""), before)


@pytest.mark.parametrize(
    "words, named",
    [
        ("lbw=OUTSIDE", "OUTSIDE"),
        ("lbw=1,0", "2 block weights"),
        (f"lbw={ZEROS[:-1]}one", "one"),
        ("start=soon", "soon"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_its_name(draw, words, named):
    with pytest.raises(StudioError, match=named):
        draw(f"<lora:all:1:{words}>")
