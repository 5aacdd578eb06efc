"""Weighted files against r times the whole change in float64, for every kind of module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Saved, ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.files.safetensors_file import read_header
from lib_lora.weights.blocks.apply import check, report_text, run
from lib_lora.weights.delta import read_lora
from lib_lora.weights.options import ApplyBlocksConfig
from lora_kinds import KINDS, noise

# IN04, OUT09, BASE, and no block.
LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_up_blocks_3_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
TIME = "lora_unet_time_embedding_linear_1"
PLACES = {
    LINEAR: "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
    CONV: "model.diffusion_model.output_blocks.9.0.in_layers.2.weight",
    TEXT: "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    TIME: "model.diffusion_model.time_embed.0.weight",
}
RATIOS = {LINEAR: 0.3, CONV: -1.7, TEXT: 0.7, TIME: 1.0}
VECTOR = "0.7,0,0,0.3,0,0,0,0,0,0,0,0,0,0,-1.7,0,0"
NEED_BASE = ("boft", "dora", "dorabyrows")


def with_bias(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {**KINDS["lokrwhole"](shape, seed), "bias": noise(*shape, seed=seed + 20)}


def without_alpha(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in KINDS["lora"](shape, seed).items() if name != "alpha"}


def full_with_bias(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {**KINDS["full"](shape, seed), "diff_b": noise(shape[0], seed=seed + 3)}


def rescaled_oft(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    rescale = 1 + noise(shape[0], *[1] * (len(shape) - 1), seed=seed + 1)
    return {"oft_blocks": noise(shape[0] // 8, 8, 8, seed=seed), "rescale": rescale}


MAKERS = {**KINDS, "bias": with_bias, "noalpha": without_alpha, "fullbias": full_with_bias, "oftrescale": rescaled_oft}


@pytest.fixture(scope="module")
def weights(tiny_checkpoint) -> dict[str, Tensor]:
    tensors = load_file(tiny_checkpoint)
    return {key: tensors[place] for key, place in PLACES.items()}


def apply(folder, tensors, metadata=None, **options):
    """The result's file, the report and all events."""
    save_file(tensors, str(folder / "in.safetensors"), metadata or {"ss_base_model_version": "sd_v1"})
    values = {"model": folder / "in.safetensors", "output": folder / "out.safetensors", **options}
    events = list(run(from_mapping(ApplyBlocksConfig, values), Control()))
    assert events[-1] == ToolDone("blocks", folder / "out.safetensors", events[-1].report, events[-1].seconds)
    return folder / "out.safetensors", events[-1].report, events


def lora_of(kind: str, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    made = {key: MAKERS[kind](tuple(weight.shape), seed) for seed, (key, weight) in enumerate(weights.items())}
    whole = {f"{key}.{name}": tensor for key, own in made.items() if own for name, tensor in own.items()}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in whole.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", MAKERS)
def test_each_layer_changes_ratio_times_as_much(kind, dtype, weights, tiny_checkpoint, tmp_path):
    tensors = lora_of(kind, weights, dtype)
    base = {"base": tiny_checkpoint} if kind in NEED_BASE else {}
    file, report, _ = apply(tmp_path, tensors, lbw=VECTOR, **base)
    before, after = read_lora(tmp_path / "in.safetensors").modules, read_lora(file).modules
    assert before.keys() == after.keys() and report["left_out"] == 0
    for key, delta in before.items():
        expected = RATIOS[key] * delta.dense(weights[key])
        found = after[key].dense(weights[key])
        scale = expected.abs().max()
        assert (found - expected).abs().max() <= 3e-7 * max(scale, weights[key].abs().max() if "oft" in kind else 0)
        if delta.bias() is not None:
            torch.testing.assert_close(after[key].bias(), RATIOS[key] * delta.bias(), rtol=1e-6, atol=0)
        kept = {"lora" if name == "peft" else name for name in (kind,)}
        assert after[key].kind == (delta.kind if not kept & set(NEED_BASE) or RATIOS[key] == 1 else "Full")


def test_norms_change_with_their_bias(tmp_path):
    norm = "lora_unet_down_blocks_1_resnets_0_norm1"
    tensors = {f"{norm}.w_norm": noise(8, seed=1), f"{norm}.b_norm": noise(8, seed=2)}
    file, _, _ = apply(tmp_path, tensors, lbw=VECTOR)
    for name, tensor in load_file(file).items():
        torch.testing.assert_close(tensor.double(), 0.3 * tensors[name].double(), rtol=1e-6, atol=0)


def test_a_share_of_oft_is_the_formulas(weights, tmp_path):
    blocks = KINDS["oft"](tuple(weights[LINEAR].shape), 0)["oft_blocks"]
    file, _, _ = apply(tmp_path, {f"{LINEAR}.oft_blocks": blocks}, lbw=VECTOR)
    saved = load_file(file)[f"{LINEAR}.oft_diag"].double().numpy()
    weight, found = weights[LINEAR].double().numpy(), []
    for q, block, rows in zip(blocks.double().numpy(), saved, np.split(weight, len(blocks))):
        q = q - q.T
        turn = (np.eye(8) + q) @ np.linalg.inv(np.eye(8) - q)
        found.append((block.T @ rows - rows, 0.3 * (turn.T @ rows - rows)))
    for own, expected in found:
        np.testing.assert_allclose(own, expected, atol=1e-6 * abs(weight).max())


def test_weight_0_leaves_a_module_out_and_weight_1_leaves_it_as_it_is(weights, tmp_path):
    tensors = lora_of("lora", weights, torch.float16)
    tensors["bundle_emb.zorb.emb_params"] = torch.ones(1, 4)
    file, report, events = apply(tmp_path, tensors, lbw="OUTALL")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(LINEAR)}
    found = load_file(file)
    assert found.keys() == kept.keys()
    for name, tensor in kept.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
    assert report["left_out"] == 1 and Saved(file, 0, final=True) in events
    assert "3 of 4 modules saved" in report_text(report)


def test_an_elemental_filter_and_x_count_as_in_a_prompt(weights, tmp_path):
    (tmp_path / "rules.txt").write_text("MINE:IN04:attn1:0.25", encoding="utf-8")
    tensors = lora_of("lora", weights)
    file, report, _ = apply(
        tmp_path, tensors, lbw="LOUTX", x=0.5, lbwe="MINE", elements=tmp_path / "rules.txt", save_precision="bf16"
    )
    alphas = {key: float(load_file(file)[f"{key}.alpha"]) / 2.0 for key in PLACES}
    assert alphas == {LINEAR: 0.25, CONV: 1, TEXT: 1, TIME: 1}
    assert load_file(file)[f"{LINEAR}.lora_up.weight"].dtype == torch.bfloat16
    assert "x=" not in report["words"] and "lbwe=MINE" in report["words"]


def test_sdxls_layers_keep_the_names_by_which_the_webui_finds_them(tmp_path):
    # What it weighs by these; by diffusers' names it does not find the upsampler nor the embeddings.
    ratios = {
        "lora_unet_output_blocks_2_2_conv": 0.5,
        "lora_unet_input_blocks_3_0_op": 0.25,
        "lora_te2_text_model_encoder_layers_0_mlp_fc1": 2,
        "lora_unet_label_emb_0_0": 1,
    }
    names = [*("BASE", "IN00", "IN01", "IN02", "IN03"), *["-"] * 8, "OUT02", *["-"] * 6]
    values = {"BASE": "2", "IN03": "0.25", "OUT02": "0.5"}
    tensors = {f"{key}.{name}": t for key in ratios for name, t in KINDS["lora"]((8, 8), 1).items()}
    vector = ",".join(values.get(name, "0") for name in names)
    file, _, _ = apply(tmp_path, tensors, {"ss_base_model_version": "sdxl_base_v1-0"}, lbw=vector)
    found = load_file(file)
    assert found.keys() == tensors.keys()
    assert {key: float(found[f"{key}.alpha"]) / 2 for key in ratios} == ratios


def test_metadata_say_what_was_done_and_the_hashes_are_its_own(weights, tmp_path):
    own = {
        "ss_base_model_version": "sd_v1",
        "ss_output_name": "zorb",
        "ss_training_comment": "mine",
        "ss_network_dim": "3",
    }
    file, _, _ = apply(tmp_path, lora_of("lora", weights), own, lbw="XL-TEXT")
    found = read_header(file).metadata
    words = ",".join(["1", *["0"] * 25])
    assert found["ss_training_comment"] == f"block weights of in:1:lbw={words}; mine"
    assert found["ss_output_name"] == "out" and found["ss_network_dim"] == "3" and len(found["sshs_model_hash"]) == 64


def test_a_share_of_what_is_not_linear_wants_the_checkpoint(weights, tiny_checkpoint, tmp_path):
    tensors = lora_of("dora", weights)
    with pytest.raises(StudioError, match="LoRA with DoRA") as fault:
        apply(tmp_path, tensors, lbw=VECTOR)
    assert fault.value.field == "base"
    _, report, events = apply(tmp_path, tensors, lbw=VECTOR, base=tiny_checkpoint)
    assert report["whole"] == 3
    assert [event for event in events if isinstance(event, Note) and "on this checkpoint alone" in event.text]
    _, report, _ = apply(tmp_path, tensors, lbw="OUTALL", overwrite=True)  # all or nothing needs none
    assert report["whole"] == 0 and report["left_out"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "lbw: must be given, or else lbwe"),
        ({"lbw": "NOBODYS"}, "lbw: no block weights have this name"),
        ({"lbw": "1,2"}, "lbw: 2 block weights are no list"),
        ({"lbw": ",".join("R" * 17)}, "lbw: R and U are drawn anew"),
        ({"lbwe": "NOBODYS"}, "lbwe: no elemental filter has this name"),
        ({"lbw": "NONE", "output": "in.safetensors"}, "output: is one of the inputs"),
    ],
)
def test_what_cannot_be_done_is_said(options, words, weights, tmp_path):
    tensors = lora_of("lora", {LINEAR: weights[LINEAR]})
    if "output" in options:
        options = {**options, "output": tmp_path / options["output"]}
    with pytest.raises(StudioError, match=words):
        apply(tmp_path, tensors, **options)
    assert not (tmp_path / "out.safetensors").exists()


def test_nothing_left_is_no_file(weights, tmp_path):
    with pytest.raises(StudioError, match="nothing is left to save"):
        apply(tmp_path, lora_of("lora", {LINEAR: weights[LINEAR]}), lbw="NONE")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_stop_leaves_no_file_and_a_check_writes_none(weights, tmp_path):
    save_file(lora_of("lora", weights), str(tmp_path / "in.safetensors"), {"ss_base_model_version": "sd_v1"})
    values = {"model": tmp_path / "in.safetensors", "output": tmp_path / "out.safetensors", "lbw": "OUTD"}
    config, control = from_mapping(ApplyBlocksConfig, values), Control()
    check(config)
    control.stop()
    assert [type(event) for event in run(config, control)] == [Note]
    assert not (tmp_path / "out.safetensors").exists()
