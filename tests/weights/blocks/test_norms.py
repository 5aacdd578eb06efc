"""Norms of blocks against those of the whole changes in numpy's float64."""

from __future__ import annotations

from math import hypot

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora.weights.blocks.norms import block_norms
from lib_lora.weights.delta import read_lora
from lora_kinds import KINDS, noise

LAYERS = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": ((64, 32), "BASE"),
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q": ((32, 32), "IN04"),
    "lora_unet_down_blocks_1_resnets_0_conv1": ((32, 16, 3, 3), "IN04"),
    "lora_unet_mid_block_attentions_0_proj_in": ((64, 64, 1, 1), "M00"),
    "lora_unet_time_embedding_linear_1": ((32, 8), "other"),
}


def write(path, kind, skip=()):
    made = {key: KINDS[kind](shape, seed) for seed, (key, (shape, _)) in enumerate(LAYERS.items()) if key not in skip}
    whole = {f"{key}.{name}": tensor for key, own in made.items() if own for name, tensor in own.items()}
    save_file(whole, str(path))
    return path


def test_a_block_is_as_large_as_the_layers_in_it(tmp_path):
    tensors = load_file(write(tmp_path / "a.safetensors", "lora"))
    norms = {}
    for key, (_, block) in LAYERS.items():
        up, down = (tensors[f"{key}.lora_{side}.weight"].double().flatten(1).numpy() for side in ("up", "down"))
        norms[block] = hypot(norms.get(block, 0), np.linalg.norm(2 / 3 * up @ down))
    rows = block_norms(tmp_path / "a.safetensors")
    assert [(row["block"], row["modules"]) for row in rows] == [("BASE", 1), ("IN04", 2), ("M00", 1), ("other", 1)]
    squares = sum(norm**2 for norm in norms.values())
    for row in rows:
        assert row["norm"] == pytest.approx(norms[row["block"]], rel=1e-10)
        assert row["share"] == pytest.approx(norms[row["block"]] ** 2 / squares)


@pytest.mark.parametrize("kind", ["tucker", "loha", "lohatucker", "lokr", "lokrwhole", "lokrtucker", "full", "scale"])
def test_every_kind_is_measured_by_its_whole_change(kind, tmp_path):
    path = write(tmp_path / "a.safetensors", kind)
    found = {row["block"]: row["norm"] for row in block_norms(path)}
    expected: dict[str, float] = {}
    for key, delta in read_lora(path).modules.items():
        block = LAYERS[key][1]
        expected[block] = hypot(expected.get(block, 0), float(delta.dense().norm()))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_loha_of_many_ranks_is_measured_too(tmp_path):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    pairs = {
        f"{key}.hada_w{n}_{side}": noise(*shape, seed=n)
        for n in (1, 2)
        for side, shape in (("a", (40, 9)), ("b", (9, 30)))
    }
    save_file(pairs, str(tmp_path / "a.safetensors"))
    first, second = (pairs[f"{key}.hada_w{n}_a"].double() @ pairs[f"{key}.hada_w{n}_b"].double() for n in (1, 2))
    (row,) = block_norms(tmp_path / "a.safetensors")
    assert row["norm"] == pytest.approx(float((first * second).norm()), rel=1e-5) and row["share"] == 1


def test_what_depends_on_the_checkpoint_wants_it(tiny_checkpoint, tmp_path):
    key, place = "lora_unet_mid_block_attentions_0_proj_in", "model.diffusion_model.middle_block.1.proj_in.weight"
    share = noise(64, 1, seed=3)
    text = LAYERS.keys() - {"lora_te_text_model_encoder_layers_0_mlp_fc1"}
    tensors = load_file(write(tmp_path / "b.safetensors", "lora", skip=text))
    save_file(
        tensors | {f"{key}.weight": share, f"{key}.on_input": torch.tensor(False)}, str(tmp_path / "a.safetensors")
    )
    base, middle = block_norms(tmp_path / "a.safetensors")
    assert base["norm"] > 0 and base["share"] is None and middle["norm"] is None
    base, middle = block_norms(tmp_path / "a.safetensors", tiny_checkpoint)
    weight = load_file(tiny_checkpoint)[place].double().flatten(1)
    assert middle["norm"] == pytest.approx(float((weight * share).norm()), rel=1e-6)
    assert base["share"] + middle["share"] == pytest.approx(1)


def test_a_lora_that_does_nothing_has_no_shares_to_tell(tmp_path):
    save_file({"lora_unet_conv_in.diff": torch.zeros(4, 4, 3, 3)}, str(tmp_path / "a.safetensors"))
    assert block_norms(tmp_path / "a.safetensors") == [{"block": "IN00", "norm": 0.0, "modules": 1, "share": 0.0}]
