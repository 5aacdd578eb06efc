from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lora.base.errors import StudioError
from lib_lora.base.events import ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.weights.compare import likeness, report_text, run
from lib_lora.weights.delta import module_delta
from lib_lora.weights.options import CompareConfig
from tiny import write_checkpoint

IN01 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
M00 = "lora_unet_mid_block_attentions_0_proj_in"
BASE = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def lora(key, rank=4, out=24, size=20, seed=0, strength=1.0):
    return {
        f"{key}.lora_up.weight": strength * draw(out, rank, seed=seed),
        f"{key}.lora_down.weight": draw(rank, size, seed=seed + 1),
        f"{key}.alpha": torch.tensor(float(rank)),
    }


def delta(tensors, key):
    return (tensors[f"{key}.lora_up.weight"].double() @ tensors[f"{key}.lora_down.weight"].double()).numpy()


def compared(tmp_path, first, second, **options):
    paths = {}
    for name, tensors in (("first", first), ("second", second)):
        paths[name] = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(paths[name]))
    events = list(run(from_mapping(CompareConfig, {**paths, **options}), Control()))
    assert isinstance(events[-1], ToolDone) and report_text(events[-1].report)
    return events[-1].report


def cosine(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def overlap(a, b, k):
    """Hu et al., section 7.2, of both sides."""
    (ua, _, va), (ub, _, vb) = np.linalg.svd(a), np.linalg.svd(b)
    left = np.linalg.norm(ua[:, :k].T @ ub[:, :k]) ** 2 / k
    right = np.linalg.norm(va[:k] @ vb[:k].T) ** 2 / k
    return (left + right) / 2


def test_a_file_is_like_itself_at_any_strength(tmp_path):
    first = lora(IN01) | lora(BASE)
    report = compared(tmp_path, first, lora(IN01, strength=0.3) | lora(BASE, strength=0.3))
    assert report["cosine"] == pytest.approx(1, abs=1e-6) and report["overlap"] == pytest.approx(1, abs=1e-6)
    report = compared(tmp_path, first, lora(IN01, strength=-1) | lora(BASE, strength=-1))
    assert report["cosine"] == pytest.approx(-1, abs=1e-6) and report["overlap"] == pytest.approx(1, abs=1e-6)


def test_cosine_and_overlap_are_those_of_the_whole_matrices(tmp_path):
    first, second = lora(IN01, 4) | lora(BASE, 4, seed=3), lora(IN01, 6, seed=9) | lora(BASE, 3, seed=7)
    report = compared(tmp_path, first, second, directions=3)
    for row, key in zip(report["blocks"], (BASE, IN01)):
        a, b = delta(first, key), delta(second, key)
        assert row["block"] == ("BASE" if key == BASE else "IN01")
        assert row["cosine"] == pytest.approx(cosine(a, b), rel=1e-6)
        assert row["overlap"] == pytest.approx(overlap(a, b, 3), rel=1e-6)
        assert (row["first"], row["second"]) == pytest.approx((np.linalg.norm(a), np.linalg.norm(b)), rel=1e-6)
    whole = [np.concatenate([delta(tensors, key).ravel() for key in (BASE, IN01)]) for tensors in (first, second)]
    assert report["cosine"] == pytest.approx(cosine(*whole), rel=1e-6)


def test_layers_of_one_file_alone_count_as_changes_that_the_other_does_not_make(tmp_path):
    first, second = lora(IN01) | lora(M00, seed=5), lora(IN01) | lora(BASE, seed=8)
    report = compared(tmp_path, first, second)
    assert (report["only_first"], report["only_second"]) == ([M00], [BASE])
    a = np.concatenate([delta(first, IN01).ravel(), delta(first, M00).ravel(), np.zeros(480)])
    b = np.concatenate([delta(second, IN01).ravel(), np.zeros(480), delta(second, BASE).ravel()])
    assert report["cosine"] == pytest.approx(cosine(a, b), rel=1e-6)


def test_types_of_full_rank_are_compared_too():
    a, b = draw(24, 20), draw(24, 20, seed=4)
    one, other = module_delta(IN01, {"diff": a}), module_delta(IN01, {"diff": b})
    alike = likeness(one, other, 3)
    assert alike.cosine == pytest.approx(cosine(a.double().numpy(), b.double().numpy()), rel=1e-6)
    assert alike.overlap == pytest.approx(overlap(a.numpy(), b.numpy(), 3), rel=1e-4)
    norms = [module_delta(IN01, {"w_norm": draw(8, seed=s), "b_norm": draw(8)}) for s in (0, 1)]
    assert likeness(*norms, 3).overlap is None


def test_types_that_depend_on_the_weights_want_the_checkpoint(tmp_path):
    path = write_checkpoint(tmp_path / "model")
    weight = load_file(path)["model.diffusion_model.middle_block.1.proj_in.weight"].flatten(1).double()
    shares = [0.1 * draw(weight.shape[0], 1, seed=seed) for seed in (0, 1)]
    files = [{f"{M00}.weight": share, f"{M00}.on_input": torch.tensor(False)} for share in shares]
    with pytest.raises(StudioError) as caught:
        compared(tmp_path, *files)
    assert caught.value.field == "base"
    report = compared(tmp_path, *files, base=path)
    assert report["cosine"] == pytest.approx(cosine(*((weight * share).numpy() for share in shares)), rel=1e-5)


def test_two_families_and_files_without_a_common_layer_are_refused(tmp_path):
    with pytest.raises(StudioError, match="no layer"):
        compared(tmp_path, lora(IN01), lora(BASE))
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    with pytest.raises(StudioError, match="families"):
        compared(tmp_path, lora(key, size=768), lora(key, size=1024))


def test_the_picture_shows_both_measures(tmp_path):
    compared(tmp_path, lora(IN01) | lora(BASE), lora(IN01) | lora(BASE, seed=3), picture=tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).astype(int)
    for colour in ((58, 110, 190), (222, 128, 44)):
        assert (abs(pixels - np.array(colour)).sum(2) < 8).sum() > 1000


def test_the_checkpoint_counts_where_a_change_depends_on_it_alone(tmp_path):
    path = write_checkpoint(tmp_path / "model")
    tensors = lora("lora_unet_of_another_model") | lora(IN01, seed=3)
    alone = lora("lora_unet_of_a_third_model")
    report = compared(tmp_path, tensors, tensors | alone, base=path)
    assert report["cosine"] == pytest.approx(compared(tmp_path, tensors, tensors | alone)["cosine"])
    assert report["only_second"] == ["lora_unet_of_a_third_model"]
