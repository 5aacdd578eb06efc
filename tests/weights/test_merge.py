"""Merged files against sums written out in numpy's float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Saved, ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.weights.combine import dropped, elected, trimmed
from lib_lora.weights.delta import read_lora
from lib_lora.weights.merge import report_text, run
from lib_lora.weights.options import MergeConfig
from tiny import checkpoint_tensors

ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_up_blocks_3_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
SIZES = {ATTENTION: (40, 30), CONV: (24, 20, 3, 3), TEXT: (36, 30)}
EPS = {"float": 2**-23, "fp16": 2**-10, "bf16": 2**-7}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 31 * sum(shape)))


def lora(seed: int, rank: int, alpha: float | None = 2.0, scale: float = 1.0) -> dict[str, Tensor]:
    tensors = {}
    for number, (key, (out, size, *kernel)) in enumerate(SIZES.items()):
        ones = [1] * len(kernel)
        tensors[f"{key}.lora_up.weight"] = scale * random(out, rank, *ones, seed=seed + number)
        tensors[f"{key}.lora_down.weight"] = random(rank, size, *kernel, seed=seed + 50 + number)
        if alpha is not None:
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def dense(tensors: dict[str, Tensor], key: str) -> np.ndarray:
    """alpha / rank * up @ down in float64."""
    up, down = (tensors[f"{key}.lora_{name}.weight"].double().flatten(1).numpy() for name in ("up", "down"))
    alpha = float(tensors.get(f"{key}.alpha", len(down)))
    return alpha / len(down) * up @ down


def write(folder: Path, name: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path = folder / f"{name}.safetensors"
    save_file(tensors, str(path), metadata=metadata or {"ss_base_model_version": "sd_v1"})
    return path


def merge(folder: Path, **options: object) -> tuple[dict[str, Tensor], dict, list]:
    """The result's tensors, the report and all events."""
    output = folder / "merged.safetensors"
    options["models"] = [str(path) for path in options.get("models", ())]
    config = from_mapping(MergeConfig, {"output": output, "save_precision": "float", **options})
    events = list(run(config, Control()))
    assert isinstance(events[-1], ToolDone) and any(isinstance(event, Saved) for event in events)
    assert report_text(events[-1].report)
    return load_file(output), events[-1].report, events


def close(actual: np.ndarray, expected: np.ndarray, relative: float) -> None:
    error = np.linalg.norm(actual.reshape(expected.shape) - expected) / np.linalg.norm(expected)
    assert error <= relative, error


@pytest.fixture
def pair(tmp_path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    a, b = lora(1, 3), lora(2, 5, alpha=None)
    write(tmp_path, "a", a)
    write(tmp_path, "b", b)
    return a, b


@pytest.mark.parametrize("precision", EPS)
def test_a_merge_is_the_sum_of_what_each_does_at_its_strengths(pair, tmp_path, precision):
    a, b = pair
    merged, report, _ = merge(
        tmp_path, prompt="<lora:a:0.7> cat <lora:b:-0.4:0.5>", lora_dir=tmp_path, save_precision=precision
    )
    strengths = {ATTENTION: (0.7, 0.5), CONV: (0.7, 0.5), TEXT: (0.7, -0.4)}
    for key, (first, second) in strengths.items():
        close(dense(merged, key), first * dense(a, key) + second * dense(b, key), EPS[precision])
        assert len(merged[f"{key}.lora_down.weight"]) == 8
    assert merged[f"{CONV}.lora_down.weight"].shape == (8, 20, 3, 3)
    assert report["lost"] == 0 and report["recipe"] == ["a:0.7", "b:-0.4:0.5"]


def test_tiny_changes_keep_half_precisions_whole_mantissa(tmp_path):
    a = lora(1, 3, alpha=1e-3, scale=1e-4)
    write(tmp_path, "a", a)
    merged, _, _ = merge(tmp_path, models=[tmp_path / "a.safetensors"], ratios=[0.3], save_precision="fp16")
    for key in SIZES:
        close(dense(merged, key), 0.3 * dense(a, key), EPS["fp16"])


def test_a_rank_gives_the_best_approximation_and_its_error_is_told(pair, tmp_path):
    a, b = pair
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    merged, report, _ = merge(tmp_path, models=files, new_rank=4, new_conv_rank=2)
    lost = {row["key"]: row["lost"] for row in report["layers"]}
    for key, rank in ((ATTENTION, 4), (CONV, 2), (TEXT, 4)):
        expected = dense(a, key) + dense(b, key)
        singular = np.linalg.svd(expected, compute_uv=False)
        best = np.linalg.norm(singular[rank:]) / np.linalg.norm(singular)
        assert len(merged[f"{key}.lora_down.weight"]) == rank
        actual = np.linalg.norm(dense(merged, key) - expected) / np.linalg.norm(expected)
        assert actual == pytest.approx(best, rel=1e-6) and lost[key] == pytest.approx(best, rel=1e-6)


def test_a_size_spends_ranks_where_they_matter(pair, tmp_path):
    a = {key: tensor * (100 if key.startswith(TEXT) and "up" in key else 1) for key, tensor in pair[0].items()}
    write(tmp_path, "c", a)
    files = [tmp_path / "c.safetensors", tmp_path / "b.safetensors"]
    merged, report, _ = merge(tmp_path, models=files, size_mb=6.0 / 1024)
    assert report["bytes"] <= 6 * 1024
    assert len(merged[f"{TEXT}.lora_down.weight"]) >= 3
    assert f"{CONV}.lora_down.weight" not in merged or len(merged[f"{CONV}.lora_down.weight"]) < 3
    with pytest.raises(StudioError, match="size_mb: is too small"):
        merge(tmp_path, models=files, size_mb=1e-4, overwrite=True)


def test_what_is_said_twice_takes_no_more_ranks(pair, tmp_path):
    a, _ = pair
    write(tmp_path, "again", a)
    merged, _, _ = merge(
        tmp_path, models=[tmp_path / "a.safetensors", tmp_path / "again.safetensors"], ratios=[0.5, 0.25]
    )
    for key in SIZES:
        assert len(merged[f"{key}.lora_down.weight"]) == 3
        close(dense(merged, key), 0.75 * dense(a, key), 1e-6)


def test_a_difference_is_saved_whole_where_that_is_smaller_unless_only_lora_is_wanted(tmp_path):
    a = lora(1, 25)
    write(tmp_path, "a", a)
    options = {"models": [tmp_path / "a.safetensors"], "overwrite": True}
    merged, _, _ = merge(tmp_path, **options)
    close(merged[f"{ATTENTION}.diff"].double().numpy(), dense(a, ATTENTION), 1e-7)
    assert merged[f"{CONV}.diff"].shape == (24, 20, 3, 3)
    merged, _, _ = merge(tmp_path, **options, only_lora=True)
    assert not any(key.endswith("diff") for key in merged)
    for key in SIZES:
        close(dense(merged, key), dense(a, key), 1e-6)


def test_other_types_become_lora_or_differences(tmp_path):
    out, size = SIZES[ATTENTION]
    w1, w2 = random(4, 5, seed=1), random(10, 6, seed=2)
    a1, b1, a2, b2 = (random(*shape, seed=9) for shape in ((out, 2), (2, size), (out, 2), (2, size)))
    write(tmp_path, "lokr", {f"{ATTENTION}.lokr_w1": w1, f"{ATTENTION}.lokr_w2": w2})
    loha = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2 + 1, "hada_w2_b": b2 - 1}
    write(tmp_path, "loha", {f"{ATTENTION}.{name}": tensor for name, tensor in loha.items()})
    expected = (
        0.5 * np.kron(w1.double(), w2.double())
        + 2 * ((a1.double() @ b1.double()) * ((a2.double() + 1) @ (b2.double() - 1))).numpy()
    )
    options = {"prompt": "<lora:lokr:0.5><lora:loha:2>", "lora_dir": tmp_path, "overwrite": True}
    merged, _, _ = merge(tmp_path, **options)
    close(merged[f"{ATTENTION}.diff"].double().numpy(), expected, 1e-6)
    merged, report, _ = merge(tmp_path, **options, new_rank=7, exact=True)
    singular = np.linalg.svd(expected, compute_uv=False)
    best = np.linalg.norm(singular[7:]) / np.linalg.norm(singular)
    assert report["layers"][0]["lost"] == pytest.approx(best, rel=1e-6)
    error = np.linalg.norm(dense(merged, ATTENTION) - expected) / np.linalg.norm(expected)
    assert error == pytest.approx(best, rel=1e-5)


def test_types_that_depend_on_the_weights_are_applied_in_the_prompts_order(tiny_checkpoint, tmp_path):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    w = checkpoint_tensors()["model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"].double()
    up, down, m = random(64, 3, seed=1), random(3, 64, seed=2), random(1, 64, seed=3).abs()
    grow, up2, down2 = random(64, seed=4), random(64, 2, seed=5), random(2, 64, seed=6)
    write(
        tmp_path,
        "dora",
        {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.dora_scale": m},
    )
    write(tmp_path, "ia3", {f"{key}.weight": grow, f"{key}.on_input": torch.tensor(0)})
    write(tmp_path, "lora", {f"{key}.lora_up.weight": up2, f"{key}.lora_down.weight": down2})
    # A1111 v1.10.1: each network changes the weight that those before it have left.
    w1 = w + 0.3 * (up2.double() @ down2.double())
    w2 = w1 + 0.5 * w1 * grow.double()[:, None]
    whole = w2 + up.double() @ down.double()
    w3 = w2 + 0.8 * (whole * (m.double() / whole.norm(dim=0, keepdim=True)) - w2)
    options = {"prompt": "<lora:lora:0.3><lora:ia3:0.5><lora:dora:0.8>", "lora_dir": tmp_path}
    with pytest.raises(StudioError, match=r"base: must be given.*IA3, LoRA with DoRA"):
        merge(tmp_path, **options)
    assert not (tmp_path / "merged.safetensors").exists()
    merged, _, _ = merge(tmp_path, **options, base=tiny_checkpoint)
    close(merged[f"{key}.diff"].double().numpy(), (w3 - w).numpy(), 1e-6)


def test_a_dora_by_rows_is_told_of(tiny_checkpoint, tmp_path):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {"lora_up.weight": random(64, 3, seed=1), "lora_down.weight": random(3, 64, seed=2)}
    tensors["dora_scale"] = random(64, 1, seed=3)
    write(tmp_path, "a", {f"{key}.{name}": tensor for name, tensor in tensors.items()})
    options = {"models": [tmp_path / "a.safetensors"], "base": tiny_checkpoint, "overwrite": True}
    _, _, events = merge(tmp_path, **options)
    assert any(isinstance(event, Note) and "output's rows" in event.text for event in events)
    _, _, events = merge(tmp_path, **options, reading="trained")
    assert not any(isinstance(event, Note) for event in events)


def test_norms_and_biases_are_summed_beside_the_weights(tmp_path):
    norm = "lora_te_text_model_encoder_layers_0_layer_norm1"
    first = {f"{norm}.w_norm": random(30, seed=1), f"{norm}.b_norm": random(30, seed=2)}
    first |= {f"{ATTENTION}.diff": random(40, 30, seed=3), f"{ATTENTION}.diff_b": random(40, seed=4)}
    second = {f"{norm}.diff": random(30, seed=5)} | {
        key: value for key, value in lora(7, 3).items() if key.startswith(ATTENTION)
    }
    write(tmp_path, "a", first)
    write(tmp_path, "b", second)
    merged, _, _ = merge(tmp_path, prompt="<lora:a:0.5:0.25><lora:b:2:4>", lora_dir=tmp_path, new_rank=1)
    assert set(merged) == {f"{norm}.w_norm", f"{norm}.b_norm", f"{ATTENTION}.diff", f"{ATTENTION}.diff_b"}
    torch.testing.assert_close(merged[f"{norm}.w_norm"], 0.5 * first[f"{norm}.w_norm"] + 2 * second[f"{norm}.diff"])
    torch.testing.assert_close(merged[f"{norm}.b_norm"], 0.5 * first[f"{norm}.b_norm"])
    torch.testing.assert_close(merged[f"{ATTENTION}.diff_b"], 0.25 * first[f"{ATTENTION}.diff_b"])
    expected = 0.25 * first[f"{ATTENTION}.diff"].double().numpy() + 4 * dense(second, ATTENTION)
    close(merged[f"{ATTENTION}.diff"].double().numpy(), expected, 1e-6)


def test_block_weights_change_their_blocks_alone(pair, tmp_path):
    a, _ = pair
    # 17 values: BASE, IN01, 02, 04, 05, 07, 08, M00, OUT03 ... OUT11. ATTENTION is IN04, CONV is OUT09.
    weights = "0.5,0,0,X-0.2,0,0,0,0,0,0,0,0,0,0,-1,0,0"
    merged, report, _ = merge(tmp_path, prompt=f"<lora:a:0.5:2:lbw={weights}:x=0.9>", lora_dir=tmp_path)
    assert report["recipe"] == ["a:0.5:2:lbw=0.5,0,0,0,0,0.7,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-1,0,0"]
    for key, strength in ((TEXT, 0.25), (ATTENTION, 2 * 0.7), (CONV, -2)):
        close(dense(merged, key), strength * dense(a, key), 1e-6)


def test_a_block_at_zero_is_left_out(pair, tmp_path):
    merged, _, events = merge(tmp_path, prompt="<lora:a:1:OUTD>", lora_dir=tmp_path)  # as written before WebUI 1.5
    assert {key.split(".")[0] for key in merged} == {TEXT}
    assert any("<lora:a:1:lbw=OUTD>" in event.text for event in events if isinstance(event, Note))


def test_a_lora_may_be_cut_to_its_first_ranks(pair, tmp_path):
    _, b = pair
    merged, report, _ = merge(tmp_path, prompt="<lora:b:0.5:dyn=2>", lora_dir=tmp_path)
    first = {key: tensor[:, :2] if "lora_up" in key else tensor[:2] for key, tensor in b.items()}
    close(dense(merged, CONV), 0.5 * dense(first, CONV), 1e-6)
    assert report["recipe"] == ["b:0.5:dyn=2"]


def test_presets_of_ones_own_and_a_list_without_base(pair, tmp_path):
    a, _ = pair
    (tmp_path / "presets.txt").write_text("# mine\n\nMINE:0.5,0,0,3,0,0,0,0,0,0,0,0,0,0,0,0,0\n", encoding="utf-8")
    merged, _, _ = merge(
        tmp_path, prompt="<lora:a:1:lbw=MINE>", lora_dir=tmp_path, presets=tmp_path / "presets.txt", overwrite=True
    )
    close(dense(merged, TEXT), 0.5 * dense(a, TEXT), 1e-6)
    close(dense(merged, ATTENTION), 3 * dense(a, ATTENTION), 1e-6)
    # LOUTX: 25 values, BASE counts 1; IN04 has X, OUT09 has 1.
    merged, _, _ = merge(tmp_path, prompt="<lora:a:1:lbw=LOUTX:x=0.25>", lora_dir=tmp_path, overwrite=True)
    for key, ratio in ((TEXT, 1), (ATTENTION, 0.25), (CONV, 1)):
        close(dense(merged, key), ratio * dense(a, key), 1e-6)


def test_an_elemental_filter_changes_what_it_names(pair, tmp_path):
    a, _ = pair
    (tmp_path / "elements.txt").write_text("# mine\n\nHALF:IN00-IN11:attn:0.5\nBASE::0\n", encoding="utf-8")
    merged, _, _ = merge(
        tmp_path, prompt="<lora:a:2:lbw=NONE:lbwe=HALF>", lora_dir=tmp_path, elements=tmp_path / "elements.txt"
    )
    assert {key.split(".")[0] for key in merged} == {ATTENTION}
    close(dense(merged, ATTENTION), 2 * 0.5 * dense(a, ATTENTION), 1e-6)


def test_an_average_is_a_sum_by_shares(pair, tmp_path):
    a, b = pair
    merged, _, _ = merge(tmp_path, prompt="<lora:a:1:3><lora:b:1:1>", lora_dir=tmp_path, mode="average")
    close(dense(merged, TEXT), 0.5 * dense(a, TEXT) + 0.5 * dense(b, TEXT), 1e-6)
    close(dense(merged, CONV), 0.75 * dense(a, CONV) + 0.25 * dense(b, CONV), 1e-6)


def test_an_average_of_text_encoders_alone(pair, tmp_path):
    a, b = pair
    merged, _, _ = merge(tmp_path, prompt="<lora:a:1:0><lora:b:3:0>", lora_dir=tmp_path, mode="average")
    close(dense(merged, TEXT), 0.25 * dense(a, TEXT) + 0.75 * dense(b, TEXT), 1e-6)
    assert not any(key.startswith((ATTENTION, CONV)) for key in merged)
    with pytest.raises(StudioError, match="add up to 0 have no average"):
        merge(tmp_path, prompt="<lora:a:1:1><lora:b:1:-1>", lora_dir=tmp_path, mode="average", overwrite=True)


def test_ties_trims_elects_and_takes_the_mean_of_those_that_agree(pair, tmp_path):
    a, b = pair
    merged, _, _ = merge(tmp_path, prompt="<lora:a:0.7><lora:b:0.5>", lora_dir=tmp_path, mode="ties", density=0.4)

    def trim(matrix: np.ndarray) -> np.ndarray:
        kept = int(0.4 * matrix.size)
        limit = np.sort(np.abs(matrix).ravel())[-kept]
        return np.where(np.abs(matrix) >= limit, matrix, 0)

    first, second = 0.7 * trim(dense(a, ATTENTION)), 0.5 * trim(dense(b, ATTENTION))
    expected = np.zeros_like(first)
    for place in np.ndindex(first.shape):
        values = [value for value in (first[place], second[place]) if value]
        agree = [value for value in values if value * sum(values) > 0]
        expected[place] = np.mean(agree) if agree else 0
    close(merged[f"{ATTENTION}.diff"].double().numpy(), expected, 1e-6)


def test_the_parts_of_ties_and_dare():
    values = torch.tensor([[3.0, -1.0, 0.5, -4.0]], dtype=torch.float64)
    assert trimmed(values, 0.5).tolist() == [[3, 0, 0, -4]]
    stack = torch.tensor([[2.0, -1.0, 0.0], [4.0, 3.0, 0.0]])
    assert elected(stack).tolist() == [3, 3, 0]
    many = torch.ones(200, 200, dtype=torch.float64)
    kept = dropped(many, 0.25, seed=5)
    assert set(kept.unique().tolist()) == {0.0, 4.0} and float(kept.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(kept, dropped(many, 0.25, seed=5)) and not torch.equal(kept, dropped(many, 0.25, seed=6))


def test_dare_that_drops_nothing_is_the_sum(pair, tmp_path):
    a, b = pair
    merged, _, _ = merge(tmp_path, prompt="<lora:a:0.7><lora:b:0.5>", lora_dir=tmp_path, mode="dare", density=1.0)
    close(merged[f"{TEXT}.diff"].double().numpy(), 0.7 * dense(a, TEXT) + 0.5 * dense(b, TEXT), 1e-6)


def test_the_same_layer_under_two_names_is_one_layer(tmp_path):
    ldm = "lora_unet_output_blocks_2_2_conv"
    diffusers = "lora_unet_up_blocks_0_upsamplers_0_conv"
    te2 = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    tensors = [
        {f"{key}.lora_up.weight": random(8, 2, 1, 1, seed=1), f"{key}.lora_down.weight": random(2, 8, 3, 3, seed=2)}
        for key in (ldm, diffusers)
    ]
    tensors[0] |= {f"{te2}.diff": random(4, 4, seed=3)}  # says that it is SDXL
    for name, own in zip("ab", tensors):
        write(tmp_path, name, own, {"ss_base_model_version": "sdxl_base_v1-0"})
    merged, _, _ = merge(tmp_path, prompt="<lora:a:1><lora:b:2>", lora_dir=tmp_path)
    assert {key.split(".")[0] for key in merged} == {ldm, te2}
    close(dense(merged, ldm), 3 * dense(tensors[0], ldm), 1e-6)


def test_names_that_the_webui_does_not_find_are_told_of(tmp_path):
    tensors = {"lora_unet_up_blocks_0_upsamplers_0_conv.diff": random(8, 8, 3, 3, seed=1)}
    write(tmp_path, "a", tensors, {"ss_base_model_version": "sdxl_base_v1-0"})
    _, _, events = merge(tmp_path, models=[tmp_path / "a.safetensors"])
    (note,) = [event for event in events if isinstance(event, Note)]
    assert "1 modules have names that the WebUI does not find" in note.text


def test_the_result_says_what_it_is_and_its_hash_is_its_own(pair, tmp_path):
    merge(tmp_path, prompt="<lora:a:1:0.5>", lora_dir=tmp_path)
    path = tmp_path / "merged.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_output_name"] == "merged" and metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_network_dim"] == "3" and "a:1:0.5" in metadata["ss_training_comment"]
    import hashlib

    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[begin:]).hexdigest()


def test_a_size_counts_all_that_the_file_holds(pair, tmp_path):
    write(tmp_path, "c", {**pair[0], "bundle_emb.zorb.emb_params": torch.ones(4, 768)})
    files = [tmp_path / "c.safetensors", tmp_path / "b.safetensors"]
    _, report, _ = merge(tmp_path, models=files, size_mb=18.0 / 1024)
    assert report["bytes"] <= 18 * 1024


def test_whole_differences_are_announced(pair, tmp_path):
    options = {"prompt": "<lora:a:1><lora:b:1>", "lora_dir": tmp_path, "mode": "ties", "overwrite": True}
    for more, said in (({}, True), ({"new_rank": 2}, False)):
        notes = [event.text for event in merge(tmp_path, **options, **more)[2] if isinstance(event, Note)]
        assert any("whole difference" in note for note in notes) == said


def test_what_the_loras_say_alike_is_kept(pair, tmp_path):
    for name, tensors, seed in (("a", pair[0], "1"), ("b", pair[1], "2")):
        write(tmp_path, name, tensors, {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "zorb", "ss_seed": seed})
    merge(tmp_path, prompt="<lora:a:1><lora:b:1>", lora_dir=tmp_path)
    with safe_open(tmp_path / "merged.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["ss_sd_model_name"] == "zorb" and "ss_seed" not in metadata


def test_textual_inversions_are_carried_along(pair, tmp_path):
    a, _ = pair
    write(tmp_path, "c", {**a, "bundle_emb.zorb.emb_params": torch.ones(1, 4)})
    merged, _, _ = merge(tmp_path, models=[tmp_path / "c.safetensors"])
    assert torch.equal(merged["bundle_emb.zorb.emb_params"], torch.ones(1, 4))


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "prompt: must be given"),
        ({"prompt": "a cat"}, "names no LoRA"),
        ({"prompt": "<lora:nobody:1>"}, "no LoRA has this name"),
        ({"prompt": "<lora:a:1><lora:a:0.5>"}, "is named twice"),
        ({"prompt": "<lora:a:1:start=5>"}, "steps cannot be written into a file; got: 'start=5'"),
        ({"prompt": "<lora:a:1:lbw=NOBODYS>"}, "lbw: no block weights have this name"),
        ({"prompt": "<lora:a:1:lbw=1,1,1>"}, "3 block weights are no list"),
        ({"prompt": "<lora:a:1:lbwe=NOBODYS>"}, "lbwe: no elemental filter has this name"),
        ({"prompt": "<lora:a:1:lbw=R,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1>"}, "drawn anew"),
        ({"prompt": "<lora:a:1>", "ratios": [1.0]}, "ratios: go with models"),
        ({"models": ["a.safetensors"], "ratios": [1.0, 2.0]}, "ratios: must be as many"),
        ({"prompt": "<lora:a:1><lora:xl:1>"}, "not of one family"),
        ({"prompt": "<lora:odd:1>"}, "of no known type"),
        ({"prompt": "<lora:a:0>"}, "nothing is left"),
        ({"prompt": "<lora:nan:1>"}, "infinite values or none"),
        ({"prompt": "<lora:a:1><lora:nan:1>", "new_rank": 2}, "infinite values or none"),
    ],
)
def test_what_cannot_be_merged_is_said_and_nothing_is_written(pair, tmp_path, options, words):
    write(tmp_path, "xl", lora(3, 2), {"ss_base_model_version": "sdxl_base_v1-0"})
    write(tmp_path, "odd", {f"{TEXT}.magic": torch.ones(2)})
    write(tmp_path, "nan", {key: tensor * float("nan") for key, tensor in lora(3, 2).items()})
    with pytest.raises(StudioError, match=words):
        merge(tmp_path, lora_dir=tmp_path, **options)
    assert not (tmp_path / "merged.safetensors").exists()


def test_an_existing_file_is_replaced_only_when_asked_and_an_input_never(pair, tmp_path):
    options = {"models": [tmp_path / "a.safetensors"]}
    merge(tmp_path, **options)
    before = (tmp_path / "merged.safetensors").read_bytes()
    with pytest.raises(StudioError, match="exists already"):
        merge(tmp_path, **options, ratios=[0.5])
    assert (tmp_path / "merged.safetensors").read_bytes() == before
    merge(tmp_path, **options, ratios=[0.5], overwrite=True)
    assert (tmp_path / "merged.safetensors").read_bytes() != before
    with pytest.raises(StudioError, match="is one of the inputs"):
        merge(tmp_path, models=[tmp_path / "merged.safetensors"], overwrite=True)


def test_a_stopped_merge_writes_nothing(pair, tmp_path):
    control = Control()
    config = from_mapping(
        MergeConfig, {"models": [str(tmp_path / "a.safetensors")], "output": tmp_path / "m.safetensors"}
    )
    events = []
    for event in run(config, control):
        events.append(event)
        control.stop()
    assert isinstance(events[-1], Note) and not (tmp_path / "m.safetensors").exists()


def test_a_name_is_found_by_file_by_folder_and_by_the_name_in_its_metadata(pair, tmp_path):
    a, _ = pair
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "deep", a, {"ss_output_name": "alias", "ss_base_model_version": "sd_v1"})
    for name in ("deep", "sub/deep", "sub/deep.safetensors", "alias"):
        merged, _, _ = merge(tmp_path, prompt=f"<lora:{name}:1>", lora_dir=tmp_path, overwrite=True)
        close(dense(merged, TEXT), dense(a, TEXT), 1e-6)
    write(tmp_path, "deep", a)
    with pytest.raises(StudioError, match="2 LoRAs have this name"):
        merge(tmp_path, prompt="<lora:deep:1>", lora_dir=tmp_path, overwrite=True)


def test_merged_files_are_read_again_as_what_they_do(pair, tmp_path):
    a, b = pair
    merge(tmp_path, prompt="<lora:a:0.7><lora:b:0.5>", lora_dir=tmp_path)
    again = read_lora(tmp_path / "merged.safetensors")
    close(again.modules[CONV].dense().flatten(1).numpy(), 0.7 * dense(a, CONV) + 0.5 * dense(b, CONV), 1e-6)
