"""Resized files read back with safetensors, their changes worked out with numpy alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Saved, ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.files.lora_file import LoraFile
from lib_lora.weights.options import ResizeConfig
from lib_lora.weights.resize import report_text, run

LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
POINT = "lora_unet_down_blocks_0_attentions_0_proj_in"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
SHAPES = {LINEAR: (24, 20), POINT: (24, 20, 1, 1), CONV: (16, 12, 3, 3), TEXT: (40, 20)}
RANK, ALPHA = 8, 4.0


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def lora_tensors(shapes=SHAPES, rank=RANK):
    tensors = {}
    for index, (key, (out, size, *kernel)) in enumerate(shapes.items()):
        ones = [1] * len(kernel)
        # Decaying ranks, as trained ones have.
        decay = (0.6 ** torch.arange(rank)).reshape(1, rank, *ones)
        tensors[f"{key}.lora_up.weight"] = draw(out, rank, *ones, seed=index) * decay
        tensors[f"{key}.lora_down.weight"] = draw(rank, size, *kernel, seed=index + 50)
        tensors[f"{key}.alpha"] = torch.tensor(ALPHA)
    return tensors


def lora_delta(tensors, key):
    """alpha / r * up @ down as [out, rest] in float64."""
    up, down = (tensors[f"{key}.lora_{side}.weight"].flatten(1).double().numpy() for side in ("up", "down"))
    return float(tensors[f"{key}.alpha"]) / down.shape[0] * (up @ down)


def best_error(delta, rank):
    return np.linalg.norm(np.linalg.svd(delta, compute_uv=False)[rank:])


def resized(tmp_path, tensors, metadata=None, **options):
    source, output = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(source), metadata)
    config = from_mapping(ResizeConfig, {"model": source, "output": output, **options})
    events = list(run(config, Control()))
    assert isinstance(events[-1], ToolDone) and events[-2] == Saved(output, 0, final=True)
    assert report_text(events[-1].report)
    return load_file(output), events[-1].report, events


def rows(report):
    return {row["key"]: row for row in report["layers"]}


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_every_layer_has_the_error_of_the_best_approximation(tmp_path, rank):
    tensors = lora_tensors()
    result, report, _ = resized(tmp_path, tensors, new_rank=rank)
    for key in SHAPES:
        before, after = lora_delta(tensors, key), lora_delta(result, key)
        error, best = np.linalg.norm(after - before), best_error(before, rank)
        assert error == pytest.approx(best, rel=1e-6)
        assert rows(report)[key]["lost"] == pytest.approx(best / np.linalg.norm(before), rel=1e-6)
        assert rows(report)[key]["rank"] == rank == result[f"{key}.lora_down.weight"].shape[0]


def test_shapes_are_those_that_hosts_expect(tmp_path):
    result, _, _ = resized(tmp_path, lora_tensors(), new_rank=2, new_conv_rank=3)
    shapes = {key: tuple(tensor.shape) for key, tensor in result.items()}
    assert shapes[f"{LINEAR}.lora_up.weight"] == (24, 2) and shapes[f"{LINEAR}.lora_down.weight"] == (2, 20)
    assert shapes[f"{POINT}.lora_up.weight"] == (24, 2, 1, 1) and shapes[f"{POINT}.lora_down.weight"] == (2, 20, 1, 1)
    assert shapes[f"{CONV}.lora_up.weight"] == (16, 3, 1, 1) and shapes[f"{CONV}.lora_down.weight"] == (3, 12, 3, 3)


# For each rule, how many of the singular values it wants, said in numpy.
RULES = {
    "sv_ratio": (10, lambda s: int((s > s[0] / 10).sum())),
    "sv_cumulative": (0.9, lambda s: int(np.searchsorted(np.cumsum(s) / s.sum(), 0.9)) + 1),
    "sv_fro": (0.9, lambda s: int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.81)) + 1),
}


@pytest.mark.parametrize("method", RULES)
def test_dynamic_ranks_are_what_the_rule_says(tmp_path, method):
    param, wanted = RULES[method]
    tensors = lora_tensors()
    _, report, _ = resized(tmp_path, tensors, dynamic_method=method, dynamic_param=param)
    for key in SHAPES:
        singular = np.linalg.svd(lora_delta(tensors, key), compute_uv=False)[:RANK]
        assert rows(report)[key]["rank"] == wanted(singular)
    _, capped, _ = resized(tmp_path, tensors, dynamic_method=method, dynamic_param=param, new_rank=2, overwrite=True)
    assert max(row["rank"] for row in capped["layers"]) == 2


def test_a_size_is_kept_and_its_ranks_go_where_the_error_is(tmp_path):
    shapes = {f"lora_te_text_model_encoder_layers_{i}_mlp_fc1": (400, 200) for i in range(6)}
    tensors = lora_tensors(shapes, rank=16)
    loud = next(iter(shapes))
    tensors[f"{loud}.lora_up.weight"] *= 30
    _, report, _ = resized(tmp_path, tensors, size_mb=0.1, save_precision="fp16")
    size = (tmp_path / "out.safetensors").stat().st_size
    assert 0.09 * 2**20 < size <= 0.1 * 2**20
    assert rows(report)[loud]["rank"] > max(row["rank"] for row in report["layers"] if row["key"] != loud)


def test_a_rank_that_is_there_already_changes_no_bit(tmp_path):
    tensors = lora_tensors()
    result, report, _ = resized(tmp_path, tensors, new_rank=RANK)
    assert all(torch.equal(result[key], tensor) for key, tensor in tensors.items())
    assert report["lost"] == 0


def test_the_precision_is_the_files_own_unless_asked_for(tmp_path):
    half = {key: tensor.half() for key, tensor in lora_tensors().items()}
    result, _, _ = resized(tmp_path, half, new_rank=2)
    assert result[f"{LINEAR}.lora_up.weight"].dtype == torch.float16
    result, _, _ = resized(tmp_path, half, new_rank=2, save_precision="float", overwrite=True)
    assert result[f"{LINEAR}.lora_up.weight"].dtype == torch.float32
    before = lora_delta({key: tensor.float() for key, tensor in half.items()}, LINEAR)
    assert np.linalg.norm(lora_delta(result, LINEAR) - before) == pytest.approx(best_error(before, 2), rel=1e-6)


def tucker():
    up, down, mid = draw(16, 4, 1, 1), draw(4, 12, 1, 1, seed=1), draw(4, 4, 3, 3, seed=2)
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": mid, "alpha": torch.tensor(2.0)}
    delta = (
        2
        / 4
        * np.einsum(
            "om,mnkl,ni->oikl",
            *(t.squeeze(-1).squeeze(-1).double().numpy() for t in (up,)),
            mid.double().numpy(),
            down[:, :, 0, 0].double().numpy(),
        )
    )
    return CONV, tensors, delta.reshape(16, -1)


def loha():
    a, b, c, d = draw(24, 2), draw(2, 20, seed=1), draw(24, 2, seed=2), draw(2, 20, seed=3)
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(1.0)}
    return LINEAR, tensors, 1 / 2 * ((a.double() @ b.double()) * (c.double() @ d.double())).numpy()


def loha_of_full_rank():
    a, b, c, d = draw(24, 6), draw(6, 20, seed=1), draw(24, 6, seed=2), draw(6, 20, seed=3)
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(6.0)}
    return LINEAR, tensors, ((a.double() @ b.double()) * (c.double() @ d.double())).numpy()


def lokr():
    w1, a, b = draw(2, 2), draw(12, 3), draw(3, 10, seed=1)
    tensors = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(3.0)}
    return LINEAR, tensors, np.kron(w1.double().numpy(), (a.double() @ b.double()).numpy())


@pytest.mark.parametrize("make", [tucker, loha, loha_of_full_rank, lokr])
def test_other_low_rank_types_become_lora_at_the_optimum(tmp_path, make):
    key, own, delta = make()
    result, _, _ = resized(tmp_path, {f"{key}.{name}": tensor for name, tensor in own.items()}, new_rank=2)
    assert set(result) == {f"{key}.lora_up.weight", f"{key}.lora_down.weight", f"{key}.alpha"}
    assert np.linalg.norm(lora_delta(result, key) - delta) == pytest.approx(best_error(delta, 2), rel=1e-6)


def test_a_dora_keeps_its_magnitudes(tmp_path):
    tensors = lora_tensors({LINEAR: SHAPES[LINEAR]}) | {f"{LINEAR}.dora_scale": draw(1, 20).abs()}
    result, report, _ = resized(tmp_path, tensors, new_rank=2)
    assert torch.equal(result[f"{LINEAR}.dora_scale"], tensors[f"{LINEAR}.dora_scale"])
    before = lora_delta(tensors, LINEAR)
    assert np.linalg.norm(lora_delta(result, LINEAR) - before) == pytest.approx(best_error(before, 2), rel=1e-6)
    assert report["layers"][0]["kind"] == "LoRA with DoRA"


def test_what_has_no_rank_stays_and_is_told(tmp_path):
    other = {f"{CONV}.diff": draw(16, 12, 3, 3), f"{CONV}.diff_b": draw(16)}
    tensors = lora_tensors({LINEAR: SHAPES[LINEAR]}) | other
    result, _, events = resized(tmp_path, tensors, new_rank=2)
    assert all(torch.equal(result[key], tensor) for key, tensor in other.items())
    assert any(isinstance(event, Note) and "1 modules" in event.text for event in events)


def test_layers_below_a_threshold_are_left_out_and_named(tmp_path):
    tensors = lora_tensors()
    tensors[f"{TEXT}.lora_up.weight"] *= 0
    result, report, _ = resized(tmp_path, tensors, dynamic_method="sv_fro", dynamic_param=0.9)
    assert report["left_out"] == [TEXT] and not [key for key in result if key.startswith(TEXT)]


def test_metadata_stay_and_say_what_was_done(tmp_path):
    own = {"ss_tag_frequency": "{}", "ss_network_dim": "8", "ss_network_alpha": "4", "ss_training_comment": "mine"}
    own["ss_network_args"] = json.dumps({"conv_dim": 8})
    resized(tmp_path, lora_tensors(), own, new_rank=2)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_dim"] == "2" and metadata["ss_tag_frequency"] == "{}"
    assert metadata["ss_training_comment"] == "dimension is resized from 8 to 2; mine"
    written = LoraFile.read(tmp_path / "out.safetensors")
    assert written.with_hashes().metadata == written.metadata


@pytest.mark.parametrize(
    "options, field",
    [
        ({}, "new_rank"),
        ({"dynamic_method": "sv_fro"}, "dynamic_param"),
        ({"dynamic_param": 0.5}, "dynamic_method"),
        ({"dynamic_method": "sv_fro", "dynamic_param": 2}, "sv_fro"),
        ({"dynamic_method": "sv_fro", "dynamic_param": 0.5, "size_mb": 1}, "dynamic_method"),
        ({"size_mb": 0.0001}, "size_mb"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, field):
    with pytest.raises(StudioError) as caught:
        resized(tmp_path, lora_tensors(), **options)
    assert caught.value.field == field
    assert not (tmp_path / "out.safetensors").exists()


def test_unknown_modules_are_named_and_nothing_is_written(tmp_path):
    with pytest.raises(StudioError, match="lora_unet_x"):
        resized(tmp_path, {**lora_tensors(), "lora_unet_x.strange": draw(2, 2)}, new_rank=2)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_stop_leaves_no_file_and_the_input_as_it_was(tmp_path):
    source, output = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(lora_tensors(), str(source))
    before = source.read_bytes()
    control = Control()
    events = run(ResizeConfig(model=source, output=output, new_rank=2), control)
    next(events)
    control.stop()
    assert [event for event in events if isinstance(event, (Saved, ToolDone))] == []
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"] and source.read_bytes() == before


def test_a_file_in_the_way_is_overwritten_only_when_asked_for(tmp_path):
    output: Path = tmp_path / "out.safetensors"
    output.write_bytes(b"mine")
    with pytest.raises(StudioError):
        resized(tmp_path, lora_tensors(), new_rank=2)
    assert output.read_bytes() == b"mine"
    resized(tmp_path, lora_tensors(), new_rank=2, overwrite=True)
    assert output.read_bytes() != b"mine"


def peft_tensors():
    """Under kohya's keys, with PEFT's names for the two sides."""
    tensors = lora_tensors({LINEAR: SHAPES[LINEAR]})
    tensors = {key.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): t for key, t in tensors.items()}
    return {**tensors, f"{LINEAR}.dora_scale": torch.ones(1, 20)}


def test_what_the_webui_leaves_out_of_pefts_names_is_told(tmp_path):
    result, _, events = resized(tmp_path, peft_tensors(), new_rank=RANK)
    (note,) = (event for event in events if isinstance(event, Note))
    assert "alpha, dora_scale" in note.text and note.level == "warning"
    # Without alpha the scale is 1, and with it ALPHA / RANK.
    result[f"{LINEAR}.alpha"] = torch.tensor(float(RANK))
    assert np.allclose(lora_delta(result, LINEAR), RANK / ALPHA * lora_delta(lora_tensors(), LINEAR), atol=1e-6)
    assert f"{LINEAR}.dora_scale" not in result


def test_read_as_trained_nothing_is_left_out(tmp_path):
    result, _, events = resized(tmp_path, peft_tensors(), new_rank=RANK, reading="trained")
    assert not [event for event in events if isinstance(event, Note)]
    assert np.allclose(lora_delta(result, LINEAR), lora_delta(lora_tensors(), LINEAR), atol=1e-6)
    assert torch.equal(result[f"{LINEAR}.dora_scale"], torch.ones(1, 20))


def test_a_file_in_diffusers_names_is_resized_under_kohyas(tmp_path):
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    own = lora_tensors()
    tensors = {
        f"{name}.lora_A.weight": own[f"{LINEAR}.lora_down.weight"],
        f"{name}.lora_B.weight": own[f"{LINEAR}.lora_up.weight"],
    }
    result, report, _ = resized(tmp_path, tensors, new_rank=2)
    assert [row["key"] for row in report["layers"]] == [LINEAR]
    wanted = RANK / ALPHA * lora_delta(own, LINEAR)
    error = np.linalg.norm(lora_delta(result, LINEAR) - wanted)
    assert error == pytest.approx(best_error(wanted, 2), rel=1e-5)


def test_the_result_has_a_name_of_its_own(tmp_path):
    metadata = {"ss_output_name": "in", "modelspec.title": "in", "ss_sd_model_name": "base.safetensors"}
    resized(tmp_path, lora_tensors(), metadata, new_rank=2)
    written = LoraFile.read(tmp_path / "out.safetensors").metadata
    assert written["ss_output_name"] == "out" and written["ss_sd_model_name"] == "base.safetensors"
    assert written.get("modelspec.title") != "in"
    resized(tmp_path, lora_tensors(), {**metadata, "modelspec.title": "My LoRA"}, new_rank=2, overwrite=True)
    assert LoraFile.read(tmp_path / "out.safetensors").metadata["modelspec.title"] == "My LoRA"
