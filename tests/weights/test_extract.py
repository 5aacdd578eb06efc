"""Extracted LoRAs: as good as numpy's SVD of the difference, and on the original model they give the tuned one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Saved, ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.models.loader import load_model
from lib_lora.models.prompt import encode_prompt
from lib_lora.weights.delta import read_lora
from lib_lora.weights.extract import check, nearest_kronecker, report_text, run
from lib_lora.weights.options import ExtractConfig
from tiny import SHAPES, write_checkpoint

# Names in LoRA files as sd-scripts gives them, and in SD1 checkpoints.
ATTENTION = (
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
)
POINT = ("lora_unet_mid_block_attentions_0_proj_in", "model.diffusion_model.middle_block.1.proj_in.weight")
CONV = ("lora_unet_up_blocks_1_resnets_2_conv1", "model.diffusion_model.output_blocks.5.0.in_layers.2.weight")
TEXT = (
    "lora_te_text_model_encoder_layers_1_mlp_fc1",
    "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight",
)
NORM = ("lora_unet_mid_block_resnets_0_norm1", "model.diffusion_model.middle_block.0.in_layers.0")


def is_layer(key):
    """A weight that a LoRA can change."""
    names = ("embedding", "positional", "first_stage_model", "text_projection", "logit_scale", "position_ids")
    return key.endswith("weight") and not any(name in key for name in names)


def tuned_copy(path, change, name="tuned"):
    """A copy of a checkpoint whose tensors are ``change(key, tensor, noise)``."""
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(5)
    for key in sorted(tensors):
        if tensors[key].is_floating_point():
            noise = torch.randn(tensors[key].shape, generator=generator)
            tensors[key] = change(key, tensors[key], noise).to(tensors[key].dtype)
    tuned = path.with_name(f"{name}.safetensors")
    save_file(tensors, str(tuned))
    if path.with_suffix(".yaml").is_file():
        tuned.with_suffix(".yaml").write_bytes(path.with_suffix(".yaml").read_bytes())
    return tuned


def moved(key, tensor, noise):
    return tensor + 0.05 * noise if is_layer(key) and tensor.dim() > 1 else tensor


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    original = write_checkpoint(tmp_path_factory.mktemp("pair"))
    return original, tuned_copy(original, moved)


def extracted(pair, tmp_path, **options):
    output = tmp_path / "out.safetensors"
    values = {"model_org": pair[0], "model_tuned": pair[1], "output": output, "save_precision": "float"}
    events = list(run(from_mapping(ExtractConfig, {**values, **options}), Control()))
    assert isinstance(events[-1], ToolDone) and events[-2] == Saved(output, 0, final=True)
    assert report_text(events[-1].report)
    return load_file(output), events[-1].report, events


def difference(pair, key):
    first, second = (load_file(path)[key].double() for path in pair)
    return (second - first).flatten(1).numpy()


def lora_delta(tensors, key):
    up, down = (tensors[f"{key}.lora_{side}.weight"].flatten(1).double().numpy() for side in ("up", "down"))
    return float(tensors[f"{key}.alpha"]) / down.shape[0] * (up @ down)


def best_error(delta, rank):
    return np.linalg.norm(np.linalg.svd(delta, compute_uv=False)[rank:])


@pytest.mark.parametrize("exact", [False, True])
def test_each_layer_has_the_error_of_the_best_approximation(pair, tmp_path, exact):
    result, report, _ = extracted(pair, tmp_path, dim=4, conv_dim=3, exact=exact)
    for key, source in (ATTENTION, POINT, CONV, TEXT):
        delta, rank = difference(pair, source), 3 if key == CONV[0] else 4
        error = np.linalg.norm(lora_delta(result, key) - delta)
        assert error == pytest.approx(best_error(delta, rank), rel=1e-6 if exact else 1e-2)
        row = next(row for row in report["layers"] if row["key"] == key)
        assert row["rank"] == rank and row["lost"] == pytest.approx(error / np.linalg.norm(delta), rel=1e-5)
    assert report["excess"] < (1e-6 if exact else 1e-2)


@torch.no_grad()
def predict(model):
    """A prediction for fixed noise and words."""
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]]) if model.family is Family.SDXL else None
    return model.predict(noise, torch.tensor([500]), encode_prompt(model, "a picture"), sizes, None)


@pytest.mark.parametrize("family", SHAPES)
def test_the_original_with_the_lora_is_the_tuned_model(family, tmp_path):
    original = write_checkpoint(tmp_path / "model", shape=SHAPES[family])
    tuned = tuned_copy(original, moved)
    options = {"dim": 1000, "conv_dim": 1000, "full": False, "exact": True}
    extracted((original, tuned), tmp_path, **options)
    wanted, plain = (predict(load_model(path)) for path in (tuned, original))
    model = load_model(original)
    tensors, _ = read_tensors(tmp_path / "out.safetensors")
    network = Network.from_file_tensors(model.unet, model.text_encoders, tensors, strict=False)
    assert not network.unmatched
    network.attach()
    made = predict(model)
    assert float((made - wanted).norm() / (plain - wanted).norm()) < 1e-4
    assert read_lora(tmp_path / "out.safetensors").family is Family(family)


def test_the_layer_that_sd2_never_runs_is_left_out(tiny_checkpoints, tmp_path):
    """Its weights are made up where a checkpoint comes from diffusers, which has none."""
    original = write_checkpoint(tmp_path / "model", shape=SHAPES["SD2"])
    result, _, _ = extracted((original, tuned_copy(original, moved)), tmp_path, dim=2)
    layers = {key.split("_layers_")[1].split("_")[0] for key in result if key.startswith("lora_te_")}
    assert layers == {"0", "1", "2"}
    only_last = tuned_copy(original, lambda key, tensor, noise: tensor + noise * ("resblocks.3." in key), "last")
    with pytest.raises(StudioError, match="every layer's change is zero"):
        extracted((original, only_last), tmp_path, dim=2, overwrite=True)
    yaml = original.with_suffix(".yaml")
    yaml.write_text(yaml.read_text("utf-8").replace("penultimate", "last"), "utf-8")
    result, _, _ = extracted((original, only_last), tmp_path, dim=2, overwrite=True)
    assert all("_layers_3_" in key for key in result)


def test_without_conv_dim_the_layers_are_those_of_sd_scripts(pair, tmp_path):
    result, _, _ = extracted(pair, tmp_path, dim=2)
    modules = {key.split(".")[0] for key in result}
    assert all("attentions" in key or key.startswith("lora_te_") for key in modules)
    assert {ATTENTION[0], POINT[0], TEXT[0]} <= modules
    unet, text = (len([key for key in modules if key.startswith(start)]) for start in ("lora_unet_", "lora_te_"))
    assert (unet, text) == (192, 3 * 6)  # sd-scripts: 192 of SD1's UNet, six per layer of the text encoder


def test_parts_are_chosen(pair, tmp_path):
    result, _, _ = extracted(pair, tmp_path, dim=2, text_encoder=False)
    assert all(key.startswith("lora_unet_") for key in result)
    result, _, _ = extracted(pair, tmp_path, dim=2, unet=False, overwrite=True)
    assert all(key.startswith("lora_te_") for key in result)


@pytest.mark.parametrize(
    "mode, param, wanted",
    [
        ("threshold", 0.3, lambda s: (s > 0.3).sum()),
        ("ratio", 0.5, lambda s: (s > 0.5 * s[0]).sum()),
        ("quantile", 0.5, lambda s: (np.cumsum(s) < 0.5 * s.sum()).sum()),
        ("sv_fro", 0.8, lambda s: np.searchsorted(np.cumsum(s**2), 0.64 * (s**2).sum()) + 1),
    ],
)
def test_modes_choose_each_rank_by_the_layers_own_spectrum(pair, tmp_path, mode, param, wanted):
    _, report, _ = extracted(pair, tmp_path, mode=mode, mode_param=param, full=False)
    ranks = {row["key"]: row["rank"] for row in report["layers"]}
    for key, source in (ATTENTION, POINT, TEXT):
        singular = np.linalg.svd(difference(pair, source), compute_uv=False)
        assert ranks[key] == wanted(singular)
    _, capped, _ = extracted(pair, tmp_path, mode=mode, mode_param=param, dim=2, full=False, overwrite=True)
    assert max(row["rank"] for row in capped["layers"]) == 2


def test_a_size_is_kept_and_tells_the_error_it_has(pair, tmp_path):
    result, report, _ = extracted(pair, tmp_path, size_mb=0.25, dim=16, save_precision="fp16")
    size = (tmp_path / "out.safetensors").stat().st_size
    assert 0.2 * 2**20 < size <= 0.25 * 2**20
    row = next(row for row in report["layers"] if row["key"] == TEXT[0])
    delta = difference(pair, TEXT[1])
    assert np.linalg.norm(lora_delta(result, TEXT[0]) - delta) == pytest.approx(
        best_error(delta, row["rank"]), rel=1e-3
    )
    assert row["lost"] == pytest.approx(best_error(delta, row["rank"]) / np.linalg.norm(delta), rel=1e-4)


def test_a_layer_whose_ranks_take_its_own_room_is_kept_whole(pair, tmp_path):
    result, report, _ = extracted(pair, tmp_path, dim=16)
    key, source = ATTENTION  # [32, 32]: 16 ranks have as many numbers
    assert np.allclose(result[f"{key}.diff"].flatten(1).numpy(), difference(pair, source), atol=1e-7)
    assert next(row for row in report["layers"] if row["key"] == key)["lost"] == 0


def test_norms_and_biases_are_kept_when_asked_for(tmp_path):
    original = write_checkpoint(tmp_path / "model")
    names = {f"{NORM[1]}.weight", f"{NORM[1]}.bias", TEXT[1].replace("weight", "bias"), TEXT[1]}
    tuned = tuned_copy(original, lambda key, tensor, noise: tensor + 0.1 * noise if key in names else tensor)
    first, second = load_file(original), load_file(tuned)
    result, _, _ = extracted((original, tuned), tmp_path, dim=2, conv_dim=2, norms=True, biases=True)
    assert set(result) == {f"{NORM[0]}.w_norm", f"{NORM[0]}.b_norm", f"{TEXT[0]}.diff", f"{TEXT[0]}.diff_b"}
    for name, suffix in ((f"{NORM[1]}.weight", "w_norm"), (f"{NORM[1]}.bias", "b_norm")):
        assert torch.allclose(result[f"{NORM[0]}.{suffix}"], second[name] - first[name], atol=1e-7)
    bias = TEXT[1].replace("weight", "bias")
    assert torch.allclose(result[f"{TEXT[0]}.diff_b"], second[bias] - first[bias], atol=1e-7)


def test_a_part_without_difference_is_told_and_left_out(tmp_path):
    original = write_checkpoint(tmp_path / "model")
    tuned = tuned_copy(original, lambda key, t, noise: moved(key, t, noise) if "diffusion_model" in key else t)
    result, report, events = extracted((original, tuned), tmp_path, dim=2)
    assert all(key.startswith("lora_unet_") for key in result)
    assert any(isinstance(event, Note) and "text encoders" in event.text for event in events)
    assert len(report["left_out"]) == 18


def test_min_diff_leaves_out_what_hardly_differs(tmp_path):
    original = write_checkpoint(tmp_path / "model")
    tuned = tuned_copy(
        original,
        lambda key, t, noise: t + noise.clamp(-1, 1) * (0.1 if key == TEXT[1] else 1e-4) if is_layer(key) else t,
    )
    result, _, _ = extracted((original, tuned), tmp_path, dim=2, min_diff=0.01)
    assert {key.split(".")[0] for key in result} == {TEXT[0]}


def test_the_clamp_costs_what_is_told(pair, tmp_path):
    plain, _, _ = extracted(pair, tmp_path, dim=4, unet=False)
    result, report, _ = extracted(pair, tmp_path, dim=4, unet=False, clamp_quantile=0.9, overwrite=True)
    delta = difference(pair, TEXT[1])
    error = np.linalg.norm(lora_delta(result, TEXT[0]) - delta)
    row = next(row for row in report["layers"] if row["key"] == TEXT[0])
    assert row["lost"] == pytest.approx(error / np.linalg.norm(delta), rel=1e-5)
    assert error > 1.001 * np.linalg.norm(lora_delta(plain, TEXT[0]) - delta)


def test_precisions_of_checkpoints_may_differ(pair, tmp_path):
    tensors = {key: t.to(torch.bfloat16) if t.is_floating_point() else t for key, t in load_file(pair[1]).items()}
    half = tmp_path / "bf16.safetensors"
    save_file(tensors, str(half))
    result, _, _ = extracted((pair[0], half), tmp_path, dim=4, exact=True, unet=False)
    delta = difference((pair[0], half), TEXT[1])
    assert np.linalg.norm(lora_delta(result, TEXT[0]) - delta) == pytest.approx(best_error(delta, 4), rel=1e-6)


def lokr_delta(tensors, key):
    second = tensors.get(f"{key}.lokr_w2")
    if second is None:
        second = tensors[f"{key}.lokr_w2_a"] @ tensors[f"{key}.lokr_w2_b"]
    return np.kron(tensors[f"{key}.lokr_w1"].double().numpy(), second.flatten(1).double().numpy())


def test_lokr_tells_the_error_that_it_has(pair, tmp_path):
    result, report, _ = extracted(pair, tmp_path, network_type="LoKr", dim=2, conv_dim=100, lokr_factor=4, exact=True)
    for key, source in (ATTENTION, TEXT, CONV):
        delta = difference(pair, source)
        row = next(row for row in report["layers"] if row["key"] == key)
        error = np.linalg.norm(lokr_delta(result, key) - delta) / np.linalg.norm(delta)
        assert row["lost"] == pytest.approx(error, rel=1e-5)
        lora = read_lora(tmp_path / "out.safetensors").modules[key]
        assert lora.kind == "LoKr" and np.allclose(lora.dense().flatten(1).numpy(), lokr_delta(result, key), atol=1e-6)


def test_the_nearest_kronecker_product_of_one_is_itself():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(*shape, generator=generator) for shape in ((4, 2), (5, 6, 3, 3)))
    change = torch.kron(first, second.flatten(1)).reshape(20, 12, 3, 3)
    w1, w2, error = nearest_kronecker(change, 4)
    # A product's columns: the small matrix's outermost, the kernel's innermost, as in the layer's weight.
    assert w1.shape == (4, 4) or w1.shape == (4, 2)
    again = torch.kron(w1, w2.flatten(1)).reshape(change.shape)
    assert (again - change).norm() == pytest.approx(error, abs=1e-5)


def test_a_product_in_the_layers_own_factors_is_found_exactly():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(*shape, generator=generator) for shape in ((4, 4), (5, 6, 3, 3)))
    change = torch.kron(first, second.flatten(1)).reshape(20, 24, 3, 3)
    w1, w2, error = nearest_kronecker(change, 4)
    assert w1.shape == (4, 4) and error < 1e-5
    assert torch.allclose(torch.kron(w1, w2.flatten(1)).reshape(change.shape), change.double(), atol=1e-5)


@pytest.mark.parametrize(
    "options, field",
    [
        ({}, "dim"),
        ({"mode": "ratio"}, "mode_param"),
        ({"dim": 4, "mode_param": 0.5}, "mode_param"),
        ({"mode": "ratio", "mode_param": 2}, "ratio"),
        ({"size_mb": 1, "mode": "ratio", "mode_param": 0.5}, "mode"),
        ({"dim": 4, "unet": False, "text_encoder": False}, "unet"),
        ({"size_mb": 0.001}, "size_mb"),
    ],
)
def test_options_that_do_not_fit_are_refused(pair, tmp_path, options, field):
    with pytest.raises(StudioError) as caught:
        extracted(pair, tmp_path, **options)
    assert caught.value.field == field and not list(tmp_path.iterdir())


def test_checkpoints_of_two_families_are_refused(pair, tmp_path, tiny_checkpoints):
    with pytest.raises(StudioError, match="two families"):
        extracted((pair[0], tiny_checkpoints["SD2"]), tmp_path, dim=4)


def test_a_layer_of_another_shape_is_left_out_and_told(pair, tmp_path, tiny_checkpoints):
    _, _, events = extracted((pair[0], tiny_checkpoints["SD1 inpainting"]), tmp_path, dim=4, conv_dim=4)
    assert any(isinstance(event, Note) and "lora_unet_conv_in" in event.text for event in events)


def test_a_stop_and_a_file_in_the_way_change_nothing(pair, tmp_path):
    output = tmp_path / "out.safetensors"
    control = Control()
    events = run(ExtractConfig(model_org=pair[0], model_tuned=pair[1], output=output, dim=2), control)
    next(events)
    control.stop()
    assert not [event for event in events if isinstance(event, (Saved, ToolDone))] and not list(tmp_path.iterdir())
    output.write_bytes(b"mine")
    with pytest.raises(StudioError):
        extracted(pair, tmp_path, dim=2)
    assert output.read_bytes() == b"mine"


def test_checkpoints_of_two_families_are_found_before_the_work(pair, tmp_path):
    other = write_checkpoint(tmp_path / "xl", shape=SHAPES["SDXL"])
    values = {"model_org": pair[0], "model_tuned": other, "output": tmp_path / "out.safetensors", "dim": 2}
    with pytest.raises(StudioError) as caught:
        check(from_mapping(ExtractConfig, values))
    assert (caught.value.field, caught.value.came) == ("model_tuned", "SDXL")
