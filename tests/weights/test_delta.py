"""The algebra against LyCORIS' own modules at work, and against the formulas written out in numpy's float64."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.delta import lora_from_tensors, module_delta, read_lora

KEY = "lora_unet_mid_block_attentions_0_proj_in"
LAYERS = {
    "linear": lambda: nn.Linear(20, 24),
    "1x1": lambda: nn.Conv2d(20, 24, 1),
    "3x3": lambda: nn.Conv2d(20, 24, 3, padding=1),
}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 7 * sum(shape)), dtype=dtype)


def layer_of(name: str) -> nn.Module:
    torch.manual_seed(3)
    return LAYERS[name]()


def lycoris_module(kind: str, layer: nn.Module, **options: object):
    """LyCORIS' module of one layer, on it, with every parameter random."""
    from lycoris import modules

    classes = {
        "locon": modules.locon.LoConModule,
        "loha": modules.loha.LohaModule,
        "lokr": modules.lokr.LokrModule,
        "ia3": modules.ia3.IA3Module,
        "full": modules.full.FullModule,
        "norm": modules.norms.NormModule,
        "glora": modules.glora.GLoRAModule,
        "dylora": modules.dylora.DyLoraModule,
        "oft": modules.diag_oft.DiagOFTModule,
        "boft": modules.boft.ButterflyOFTModule,
    }
    module = classes[kind](KEY, layer, **options)
    module.apply_to()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("org_"):
                continue
            near = parameter if "dora" in name or name == "rescale" or (kind == "full") else torch.zeros(())
            parameter.copy_(near + 0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def file_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What LyCORIS saves of a module."""
    own = module.custom_state_dict() if hasattr(module, "custom_state_dict") else None
    return {name: tensor.detach() for name, tensor in (own or module.state_dict()).items()}


CASES = [
    *(("locon", layer, {"lora_dim": 4, "alpha": 2.0}, "LoRA") for layer in LAYERS),
    ("locon", "3x3", {"lora_dim": 4, "alpha": 2.0, "use_tucker": True}, "LoRA"),
    ("locon", "linear", {"lora_dim": 4, "alpha": 2.0, "rs_lora": True}, "LoRA"),
    ("locon", "linear", {"lora_dim": 4, "alpha": 2.0, "use_scalar": True}, "LoRA"),
    *(("loha", layer, {"lora_dim": 3, "alpha": 2.0}, "LoHa") for layer in LAYERS),
    ("loha", "3x3", {"lora_dim": 3, "alpha": 2.0, "use_tucker": True}, "LoHa"),
    *(("lokr", layer, {"lora_dim": 2, "alpha": 1.0, "factor": 4}, "LoKr") for layer in LAYERS),
    ("lokr", "3x3", {"lora_dim": 2, "alpha": 1.0, "factor": 4, "use_tucker": True}, "LoKr"),
    ("lokr", "linear", {"lora_dim": 1, "alpha": 3.0, "factor": 4, "decompose_both": True}, "LoKr"),
    ("lokr", "linear", {"lora_dim": 100, "alpha": 3.0, "factor": 4}, "LoKr"),
    *(("glora", layer, {"lora_dim": 3, "alpha": 2.0}, "GLoRA") for layer in LAYERS),
    *(("ia3", layer, {}, "IA3") for layer in LAYERS),
    *(("ia3", layer, {"train_on_input": True}, "IA3") for layer in LAYERS),
    *(("full", layer, {}, "Full") for layer in LAYERS),
    *(("oft", layer, {"lora_dim": 4}, "OFT") for layer in LAYERS),
    ("oft", "linear", {"lora_dim": 4, "constraint": 1e-2, "rescaled": True}, "OFT"),
    *(("boft", layer, {"lora_dim": 6}, "BOFT") for layer in LAYERS),
    ("boft", "3x3", {"lora_dim": 6, "constraint": 1e-2, "rescaled": True}, "BOFT"),
    *(("locon", layer, {"lora_dim": 4, "alpha": 2.0, "weight_decompose": True}, "LoRA with DoRA") for layer in LAYERS),
    (
        "locon",
        "3x3",
        {"lora_dim": 4, "alpha": 2.0, "weight_decompose": True, "wd_on_out": False},
        "LoRA with DoRA",
    ),
    ("loha", "3x3", {"lora_dim": 3, "alpha": 2.0, "weight_decompose": True}, "LoHa with DoRA"),
    ("lokr", "linear", {"lora_dim": 2, "alpha": 1.0, "factor": 4, "weight_decompose": True}, "LoKr with DoRA"),
]


@pytest.mark.parametrize("kind, layer_name, options, name", CASES)
def test_a_layer_with_the_delta_computes_what_lycoris_module_computes(kind, layer_name, options, name):
    layer = layer_of(layer_name)
    base, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    x = random(2, 20, dtype=torch.float32) if layer_name == "linear" else random(2, 20, 5, 5, dtype=torch.float32)
    module = lycoris_module(kind, layer, **options)
    tensors = file_tensors(module)
    if kind == "boft" and version("lycoris_lora").startswith("3."):
        pytest.skip("LyCORIS 3 turns the columns of the weight by the rows' rotation, and fails")
    with torch.no_grad():
        theirs = layer(x)

    delta = module_delta(KEY, tensors, "trained")
    assert delta.name == name and delta.ignored == ()
    change, more_bias = delta.dense(base), delta.bias()
    assert change.shape == base.shape
    ours = _apply(x.double(), base.double() + change, bias.double() + (0 if more_bias is None else more_bias))
    plain = _apply(x.double(), base.double(), bias.double())
    assert float((theirs - plain).norm() / plain.norm()) > 0.01, "the module must do something"
    assert float((ours - theirs).norm() / (theirs - plain).norm()) < 2e-5

    factors = delta.low_rank(base)
    if factors is not None:
        torch.testing.assert_close(
            factors[0] @ factors[1], change.flatten(1), rtol=1e-12, atol=1e-12, msg="factors are exact"
        )


def _apply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias) if weight.dim() == 2 else F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def test_norms_change_weight_and_bias_as_lycoris_does():
    torch.manual_seed(3)
    layer = nn.GroupNorm(4, 24)
    x = random(2, 24, 3, 3, dtype=torch.float32)
    module = lycoris_module("norm", layer)
    delta = module_delta(KEY, file_tensors(module))
    with torch.no_grad():
        theirs = layer(x)
    ours = F.group_norm(x.double(), 4, layer.weight.double() + delta.dense(layer.weight), delta.bias() + layer.bias)
    assert delta.kind == "Norm"
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-5)


def test_dylora_at_its_whole_rank_is_a_lora():
    layer = layer_of("linear")
    module = lycoris_module("dylora", layer, lora_dim=8, alpha=4.0, block_size=4)
    delta = module_delta(KEY, file_tensors(module))
    up, down = torch.cat(list(module.up_list), 1), torch.cat(list(module.down_list))
    assert delta.kind == "LoRA" and delta.rank == 8
    torch.testing.assert_close(delta.dense().float(), (0.5 * up @ down).detach(), rtol=1e-6, atol=1e-6)


# Formulas in numpy, from tensors by suffix: (tensors, delta's own shape, expected).
R, OUT, IN = 3, 12, 10


def _numpy_cases() -> dict[str, tuple[dict[str, Tensor], np.ndarray]]:
    def n(tensor: Tensor) -> np.ndarray:
        return tensor.numpy()

    up, down, mid = random(OUT, R), random(R, IN), random(R, R, 3, 3)
    w1a, w1b, w2a, w2b = random(OUT, R), random(R, IN), random(OUT, R, seed=1), random(R, IN, seed=1)
    k1, k2, k2a, k2b = random(3, 2), random(4, 5), random(4, 2), random(2, 5)
    alpha = torch.tensor(1.5)
    return {
        "no alpha": ({"lora_up.weight": up, "lora_down.weight": down}, n(up) @ n(down)),
        "alpha": ({"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}, 0.5 * n(up) @ n(down)),
        "scale before alpha": (
            {"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha, "scale": torch.tensor(0.25)},
            0.25 * n(up) @ n(down),
        ),
        "tucker": (
            {
                "lora_up.weight": up[..., None, None],
                "lora_down.weight": down[..., None, None],
                "lora_mid.weight": mid,
                "alpha": alpha,
            },
            0.5 * np.einsum("on,nmkl,mi->oikl", n(up), n(mid), n(down)),
        ),
        "dense bias": (
            {"lora_up.weight": up, "lora_down.weight": down, "bias": random(OUT, IN), "alpha": alpha},
            0.5 * (n(up) @ n(down) + n(random(OUT, IN))),
        ),
        "LoHa": (
            {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b, "alpha": alpha},
            0.5 * (n(w1a) @ n(w1b)) * (n(w2a) @ n(w2b)),
        ),
        "LoKr, both whole": ({"lokr_w1": k1, "lokr_w2": k2, "alpha": alpha}, np.kron(n(k1), n(k2))),
        "LoKr": (
            {"lokr_w1": k1, "lokr_w2_a": k2a, "lokr_w2_b": k2b, "alpha": torch.tensor(1.0)},
            0.5 * np.kron(n(k1), n(k2a) @ n(k2b)),
        ),
        "Full": ({"diff": up}, n(up)),
    }


@pytest.mark.parametrize("name", _numpy_cases())
def test_the_formulas_hold_in_float64(name):
    tensors, expected = _numpy_cases()[name]
    delta = module_delta(KEY, tensors)
    actual = delta.dense().numpy()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-14 * np.abs(expected).max()


def test_glora_of_older_files_has_its_pairs_the_other_way_round_and_no_alpha_in_the_webui():
    w, (a1, a2, b1, b2) = random(OUT, IN), (random(R, IN), random(IN, R), random(R, IN, seed=1), random(OUT, R))
    tensors = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(1.5)}
    expected = b2 @ b1 + w @ a2 @ a1
    torch.testing.assert_close(module_delta(KEY, tensors).dense(w), expected)
    torch.testing.assert_close(module_delta(KEY, tensors, "trained").dense(w), 0.5 * expected)


def test_dora_is_normed_by_columns_in_the_webui_whatever_it_was_trained_with():
    w, up, down = random(OUT, IN), random(OUT, R), random(R, IN)
    tensors = {"lora_up.weight": up, "lora_down.weight": down}
    whole = (w + up @ down).numpy()
    by_column = random(1, IN).abs()
    expected = by_column.numpy() * whole / np.linalg.norm(whole, axis=0, keepdims=True) - w.numpy()
    for reading in ("webui", "trained"):
        actual = module_delta(KEY, {**tensors, "dora_scale": by_column}, reading).dense(w)
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-14)
    by_row = random(OUT, 1).abs()
    webui = module_delta(KEY, {**tensors, "dora_scale": by_row}).dense(w)
    expected = by_row.numpy() * whole / np.linalg.norm(whole, axis=0, keepdims=True) - w.numpy()
    np.testing.assert_allclose(webui.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_pefts_names_lose_what_the_webui_leaves_out():
    tensors = {"lora_A.weight": random(R, IN), "lora_B.weight": random(OUT, R), "alpha": torch.tensor(1.5)}
    product = tensors["lora_B.weight"] @ tensors["lora_A.weight"]
    webui, trained = module_delta(KEY, tensors), module_delta(KEY, tensors, "trained")
    torch.testing.assert_close(webui.dense(), product)
    torch.testing.assert_close(trained.dense(), 0.5 * product)
    assert webui.ignored == ("alpha",) and trained.ignored == ()


def test_older_oft_holds_the_rotation_itself():
    turn, _ = torch.linalg.qr(random(3, 4, 4))
    w = random(12, 5)
    delta = module_delta(KEY, {"oft_diag": turn, "alpha": torch.tensor(5.0)})
    expected = torch.cat([turn[k].T @ w[4 * k : 4 * k + 4] for k in range(3)]) - w
    torch.testing.assert_close(delta.dense(w), expected)
    assert delta.name == "OFT"


def test_the_rotation_of_oft_is_orthogonal_and_alpha_limits_its_angle():
    blocks, w = random(3, 4, 4), torch.eye(12, dtype=torch.float64)
    free = w + module_delta(KEY, {"oft_blocks": blocks}).dense(w)
    torch.testing.assert_close(free @ free.T, w)
    tight = module_delta(KEY, {"oft_blocks": blocks, "alpha": torch.tensor(1e-4)}).dense(w)
    # |R - I| is about 2 |Q| for small Q.
    assert float(tight.norm()) == pytest.approx(2 * 12e-4, rel=1e-3)


def test_a_butterfly_is_its_stages_as_whole_matrices():
    stages, pairs, block = 3, 4, 6
    q = 0.3 * random(stages, pairs, block, block)
    size, whole = pairs * block, np.eye(pairs * block)
    for stage in range(stages):
        skew = (q[stage] - q[stage].transpose(1, 2)).numpy()
        turns = [(np.eye(block) + skew[n]) @ np.linalg.inv(np.eye(block) - skew[n]) for n in range(pairs)]
        apart = 2**stage * block // 2
        # Rows c * 2 * apart + g * apart + k stand beside each other as c * 2 * apart + k * 2 + g.
        places = [c + g * apart + k for c in range(0, size, 2 * apart) for k in range(apart) for g in range(2)]
        blocks = np.zeros((size, size))
        for n, turn in enumerate(turns):
            blocks[n * block : (n + 1) * block, n * block : (n + 1) * block] = turn
        gather = np.eye(size)[places]
        whole = gather.T @ blocks @ gather @ whole
    w, rescale = random(size, 5), random(size, 1)
    delta = module_delta(KEY, {"oft_blocks": q, "rescale": rescale})
    expected = rescale.numpy() * (whole @ w.numpy()) - w.numpy()
    np.testing.assert_allclose(delta.dense(w).numpy(), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(whole @ whole.T, np.eye(size), atol=1e-12)


def test_cutting_a_rank_keeps_the_scale_and_leaves_other_types_alone():
    up, down = random(OUT, R), random(R, IN)
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.5)}
    torch.testing.assert_close(module_delta(KEY, tensors).cut(2).dense(), 0.5 * up[:, :2] @ down[:2])
    full = module_delta(KEY, {"diff": up})
    assert full.cut(1) is full


def test_the_first_convolution_of_an_inpainting_model_is_padded():
    down, up = random(R, 4, 3, 3), random(OUT, R, 1, 1)
    delta = module_delta("lora_unet_conv_in", {"lora_up.weight": up, "lora_down.weight": down})
    change = delta.dense(random(OUT, 9, 3, 3))
    assert change.shape == (OUT, 9, 3, 3) and not change[:, 4:].any()
    torch.testing.assert_close(change[:, :4], delta.dense())


def test_a_delta_that_depends_on_the_weights_names_itself_without_them():
    delta = module_delta(KEY, {"weight": random(IN), "on_input": torch.tensor(1)})
    assert delta.needs_base
    with pytest.raises(StudioError, match=f"{KEY} is a IA3"):
        delta.dense()


def test_a_lora_of_another_family_does_not_fit():
    delta = module_delta(KEY, {"lora_up.weight": random(OUT, R), "lora_down.weight": random(R, IN)})
    with pytest.raises(StudioError, match=f"{KEY}: does not fit the layer"):
        delta.dense(random(OUT, IN + 1))
    with pytest.raises(StudioError, match="does not fit"):
        delta.dense(random(IN, OUT))


def test_a_file_is_read_lazily_with_what_nobody_knows_named(tmp_path):
    tensors = {
        f"{KEY}.lora_up.weight": random(OUT, R),
        f"{KEY}.lora_down.weight": random(R, IN),
        f"{KEY}.diff_b": random(OUT),
        "lora_unet_conv_in.magic": random(2),
        "bundle_emb.zorb.emb_params": random(1, 4),
    }
    save_file(tensors, str(tmp_path / "a.safetensors"), metadata={"ss_base_model_version": "sd_v1"})
    torch.save(tensors, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        lora = read_lora(tmp_path / name)
        assert list(lora.modules) == [KEY] and lora.modules[KEY].ignored == ("diff_b",)
        assert lora.unread == {"lora_unet_conv_in": ("magic",)}
        assert list(lora.embeddings) == ["bundle_emb.zorb.emb_params"]
        torch.testing.assert_close(
            lora.modules[KEY].dense(), tensors[f"{KEY}.lora_up.weight"] @ tensors[f"{KEY}.lora_down.weight"]
        )
    assert read_lora(tmp_path / "a.safetensors").family is Family.SD1


@pytest.mark.parametrize("width, family", [(768, Family.SD1), (1024, Family.SD2), (2048, Family.SDXL)])
def test_the_family_is_told_by_the_width_of_cross_attention(width, family):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    for tensors in (
        {"lora_up.weight": random(8, 2), "lora_down.weight": random(2, width)},
        {"lokr_w1": random(2, 4), "lokr_w2": random(2, width // 4)},
        {"diff": random(8, width)},
    ):
        named = {f"{key}.{suffix}": tensor for suffix, tensor in tensors.items()}
        assert lora_from_tensors(named, {"ss_v2": "True"}).family is family
