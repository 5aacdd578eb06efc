"""Converted files against numpy, the names of diffusers' own modules, and those in checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Saved, ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.models.compat_transformers import clip_key_prefix
from lib_lora.models.loader import load_model
from lib_lora.weights.convert import check, report_text, run
from lib_lora.weights.delta import module_delta
from lib_lora.weights.options import ConvertConfig
from tiny import SHAPES, write_checkpoint

LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def module(key, **tensors):
    return {f"{key}.{suffix.replace('_weight', '.weight')}": tensor for suffix, tensor in tensors.items()}


def plain(key=LINEAR, out=24, size=20, rank=4, alpha=2.0, kernel=()):
    ones = (1,) * len(kernel)
    up, down = draw(out, rank, *ones), draw(rank, size, *kernel, seed=1)
    return module(key, lora_up_weight=up, lora_down_weight=down, alpha=torch.tensor(alpha))


def delta_of(tensors, key):
    up, down = (tensors[f"{key}.lora_{side}.weight"].flatten(1).double().numpy() for side in ("up", "down"))
    return float(tensors[f"{key}.alpha"]) / down.shape[0] * (up @ down)


def converted(tmp_path, tensors, metadata=None, name="out", **options):
    source, output = tmp_path / f"{name}-in.safetensors", tmp_path / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(source), metadata)
    config = from_mapping(ConvertConfig, {"model": source, "output": output, **options})
    events = list(run(config, Control()))
    assert isinstance(events[-1], ToolDone) and events[-2] == Saved(output, 0, final=True)
    assert report_text(events[-1].report)
    return load_file(output), events[-1].report, events


def notes(events):
    return " ".join(event.text for event in events if isinstance(event, Note))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Per family, the model and a LoRA file's tensors for every layer that sd-scripts adapts."""
    found = {}
    for family, shape in SHAPES.items():
        path = write_checkpoint(tmp_path_factory.mktemp(family), shape=shape)
        model = load_model(path)
        network = Network.create(model.unet, model.text_encoders, NetworkSpec(2, 1, conv_rank=3, conv_alpha=1), seed=0)
        generator = torch.Generator().manual_seed(0)
        tensors = {
            key: torch.randn(t.shape, generator=generator) if t.dim() else t
            for key, t in network.state_tensors().items()
        }
        found[family] = path, model, tensors
    return found


@pytest.mark.parametrize("family", SHAPES)
def test_diffusers_names_are_those_of_diffusers_modules(networks, tmp_path, family):
    _, model, tensors = networks[family]
    result, _, events = converted(tmp_path, tensors, names="diffusers")
    shapes = {f"unet.{name[:-7]}": t.shape for name, t in model.unet.named_parameters() if name.endswith(".weight")}
    for encoder, part in zip(model.text_encoders, ("text_encoder", "text_encoder_2")):
        lacks = "" if clip_key_prefix(encoder) else "text_model."
        shapes |= {f"{part}.{lacks}{name[:-7]}": t.shape for name, t in encoder.named_parameters()}
    assert len(result) == 2 * len({key.split(".")[0] for key in tensors})
    for key, tensor in result.items():
        name, side = key.rsplit(".lora_", 1)
        out, size = shapes[name][:2]
        assert tensor.shape[:2] == ((3, size) if side == "A.weight" else (out, 3))  # all filled up to rank 3
    assert "filled up" in notes(events)


@pytest.mark.parametrize("family", SHAPES)
def test_to_diffusers_and_back_changes_no_layer(networks, tmp_path, family):
    _, _, tensors = networks[family]
    converted(tmp_path, tensors, names="diffusers", name="there")
    result, _, _ = converted(tmp_path, load_file(tmp_path / "there.safetensors"), name="back")
    modules = {key.split(".")[0] for key in tensors}
    assert {key.split(".")[0] for key in result} == modules
    for key in modules:
        again = dict(result)
        again.setdefault(f"{key}.alpha", torch.tensor(3.0))  # PEFT: without alpha, alpha is the rank
        assert np.allclose(delta_of(again, key), delta_of(tensors, key), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_ldm_names_are_those_of_checkpoints(networks, tmp_path, family):
    path, _, tensors = networks[family]
    # Nobody could tell the family of so narrow a model by its widths.
    metadata = {"ss_base_model_version": {"SD1": "sd_v1", "SDXL": "sdxl_base_v1-0"}[family]}
    result, _, _ = converted(tmp_path, tensors, metadata, names="ldm")
    prefix = "model.diffusion_model."
    layers = {
        "lora_unet_" + key[len(prefix) : -len(".weight")].replace(".", "_")
        for key in load_file(path)
        if key.startswith(prefix) and key.endswith(".weight")
    }
    assert {key.split(".")[0] for key in result if key.startswith("lora_unet_")} <= layers
    back, _, _ = converted(tmp_path, result, metadata, name="back")
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_the_alphas_of_pefts_metadata_count(tmp_path):
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_"
    tensors = {}
    for side in "qkv":
        tensors |= {f"unet.{name}{side}.lora_A.weight": draw(4, 20), f"unet.{name}{side}.lora_B.weight": draw(24, 4)}
    settings = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_k": 2}, "unet.use_rslora": False}
    result, _, _ = converted(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(settings)})
    wanted = (draw(24, 4).double() @ draw(4, 20).double()).numpy()
    for side, scale in (("q", 2.0), ("k", 0.5), ("v", 2.0)):
        assert np.allclose(delta_of(result, LINEAR[:-1] + side), scale * wanted, rtol=1e-6)
    settings["unet.use_rslora"] = True
    result, _, _ = converted(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(settings)}, overwrite=True)
    assert np.allclose(delta_of(result, LINEAR), 8 / 4**0.5 * wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "name, module_key",
    [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.{}.weight", LINEAR),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.{}.weight", LINEAR),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.{}.weight", TEXT),
        ("text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.{}.weight", TEXT),
    ],
)
def test_older_spellings_of_diffusers_are_read(tmp_path, name, module_key):
    result, _, _ = converted(tmp_path, {name.format("down"): draw(4, 20), name.format("up"): draw(24, 4)})
    assert set(result) == {f"{module_key}.lora_down.weight", f"{module_key}.lora_up.weight"}


def test_the_output_projection_of_an_old_processor_is_its_first_layer(tmp_path):
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.{}.weight"
    result, _, _ = converted(tmp_path, {name.format("down"): draw(4, 20), name.format("up"): draw(24, 4)})
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_up.weight" in result


def test_precision_alone_rounds_and_nothing_else(tmp_path):
    tensors = plain()
    result, _, _ = converted(tmp_path, tensors, {"ss_tag_frequency": "{}"}, save_precision="bf16")
    assert all(torch.equal(result[key], tensor.bfloat16()) for key, tensor in tensors.items())
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["ss_tag_frequency"] == "{}"


def test_numbers_that_a_precision_cannot_hold_are_refused(tmp_path):
    tensors = plain()
    tensors[f"{LINEAR}.lora_up.weight"][0, 0] = 1e6
    with pytest.raises(StudioError, match="infinite"):
        converted(tmp_path, tensors, save_precision="fp16")
    assert not (tmp_path / "out.safetensors").exists()


LOW_RANK = {
    "LoHa": module(LINEAR, hada_w1_a=draw(24, 2), hada_w1_b=draw(2, 20), hada_w2_a=draw(24, 2), hada_w2_b=draw(2, 20)),
    "Tucker": module(
        CONV, lora_up_weight=draw(24, 3, 1, 1), lora_down_weight=draw(3, 20, 1, 1), lora_mid_weight=draw(3, 3, 3, 3)
    ),
    "LoKr": module(LINEAR, lokr_w1=draw(2, 2), lokr_w2_a=draw(12, 3), lokr_w2_b=draw(3, 10), alpha=torch.tensor(1.5)),
}
FULL_RANK = {
    "Full": module(LINEAR, diff=draw(24, 20)),
    "LoKr": module(LINEAR, lokr_w1=draw(2, 2), lokr_w2=draw(12, 10)),
    "LoHa": module(LINEAR, hada_w1_a=draw(24, 6), hada_w1_b=draw(6, 20), hada_w2_a=draw(24, 6), hada_w2_b=draw(6, 20)),
}
ON_WEIGHTS = {
    "IA3": lambda out, size: {"weight": 0.1 * draw(out, 1), "on_input": torch.tensor(False)},
    "OFT": lambda out, size: {"oft_blocks": 0.1 * draw(4, out // 4, out // 4), "alpha": torch.tensor(0.0)},
    "DoRA": lambda out, size: {
        "lora_up.weight": 0.1 * draw(out, 2),
        "lora_down.weight": draw(2, size),
        "dora_scale": draw(1, size).abs(),
    },
}


def own(tensors):
    key = next(iter(tensors)).split(".")[0]
    return key, {full[len(key) + 1 :]: tensor for full, tensor in tensors.items()}


@pytest.mark.parametrize("name", LOW_RANK)
def test_types_of_low_rank_become_lora_without_loss(tmp_path, name):
    key, tensors = own(LOW_RANK[name])
    result, report, _ = converted(tmp_path, LOW_RANK[name], network_type="LoRA")
    wanted = module_delta(key, tensors).dense().flatten(1).numpy()
    assert np.allclose(delta_of(result, key), wanted, rtol=1e-5, atol=1e-5)
    assert report["lost"] < 1e-7
    down = result[f"{key}.lora_down.weight"]
    assert down.dim() == (4 if key == CONV else 2)


@pytest.mark.parametrize("name", FULL_RANK)
def test_types_of_full_rank_become_lora_at_the_best_error_for_the_rank(tmp_path, name):
    key, tensors = own(FULL_RANK[name])
    wanted = module_delta(key, tensors).dense().flatten(1).numpy()
    singular = np.linalg.svd(wanted, compute_uv=False)
    result, report, _ = converted(tmp_path, FULL_RANK[name], network_type="LoRA", dim=5)
    error = np.linalg.norm(delta_of(result, key) - wanted)
    assert error == pytest.approx(np.linalg.norm(singular[5:]), rel=1e-6)
    assert report["layers"][0]["lost"] == pytest.approx(error / np.linalg.norm(wanted), rel=1e-6)
    _, report, _ = converted(tmp_path, FULL_RANK[name], network_type="LoRA", max_loss=0.3, overwrite=True)
    shares = np.sqrt(1 - np.cumsum(singular**2) / (singular**2).sum())
    assert report["layers"][0]["rank"] == int((shares > 0.3).sum()) + 1 and report["lost"] <= 0.3
    with pytest.raises(StudioError, match="full rank") as caught:
        converted(tmp_path, FULL_RANK[name], network_type="LoRA", overwrite=True)
    assert caught.value.field == "dim"


@pytest.mark.parametrize("name", ON_WEIGHTS)
def test_types_that_depend_on_the_weights_want_the_checkpoint(networks, tmp_path, name):
    path, _, _ = networks["SD1"]
    weight = load_file(path)["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"]
    tensors = ON_WEIGHTS[name](*weight.shape)
    named = {f"{LINEAR}.{suffix}": tensor for suffix, tensor in tensors.items()}
    with pytest.raises(StudioError) as caught:
        converted(tmp_path, named, network_type="LoRA", dim=4)
    assert caught.value.field == "base" and LINEAR in str(caught.value)
    result, _, _ = converted(tmp_path, named, network_type="LoRA", dim=4, base=path, exact=True)
    wanted = module_delta(LINEAR, tensors).dense(weight).numpy()
    best = np.linalg.norm(np.linalg.svd(wanted, compute_uv=False)[4:])
    assert np.linalg.norm(delta_of(result, LINEAR) - wanted) == pytest.approx(best, rel=1e-5)


def test_a_lokr_of_a_convolution_gets_its_kernel_back(tmp_path):
    tensors = module(CONV, lokr_w1=draw(2, 2), lokr_w2_a=draw(12, 2), lokr_w2_b=draw(2, 6 * 9))
    result, _, _ = converted(tmp_path, tensors, network_type="LoRA")
    assert result[f"{CONV}.lora_down.weight"].shape[1:] == (12, 3, 3)


def test_the_first_ranks_of_a_dylora_keep_their_scale(tmp_path):
    tensors = plain(rank=8, alpha=4.0)
    result, _, _ = converted(tmp_path, tensors, first_ranks=3)
    up, down = (tensors[f"{LINEAR}.lora_{side}.weight"].double().numpy() for side in ("up", "down"))
    assert np.allclose(delta_of(result, LINEAR), 0.5 * up[:, :3] @ down[:3], rtol=1e-6)


def test_norms_stay_and_lost_biases_are_told(tmp_path):
    norm = module("lora_unet_mid_block_resnets_0_norm1", w_norm=draw(8), b_norm=draw(8))
    full = module(LINEAR, diff=draw(24, 20), diff_b=draw(24))
    result, _, events = converted(tmp_path, norm | full, network_type="LoRA", dim=4)
    assert all(torch.equal(result[key], tensor) for key, tensor in norm.items())
    assert not [key for key in result if key.endswith("diff_b")] and "1 layers' changes of the bias" in notes(events)


def test_what_diffusers_cannot_name_is_refused(tmp_path):
    with pytest.raises(StudioError, match=LINEAR) as caught:
        converted(tmp_path, FULL_RANK["Full"], names="diffusers")
    assert caught.value.field == "names"
    with pytest.raises(StudioError):
        converted(tmp_path, {"transformer.single_blocks.0.lora_A.weight": draw(2, 4)})


def test_a_stop_writes_nothing(tmp_path):
    source = tmp_path / "in.safetensors"
    save_file(plain() | plain(TEXT), str(source))
    control = Control()
    events = run(ConvertConfig(model=source, output=tmp_path / "out.safetensors"), control)
    next(events)
    control.stop()
    assert not [event for event in events if isinstance(event, (Saved, ToolDone))]
    assert not (tmp_path / "out.safetensors").exists()


def a_file(tmp_path, tensors, **options):
    """A config for a file of these tensors."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(tmp_path / "in.safetensors"))
    values = {"model": tmp_path / "in.safetensors", "output": tmp_path / "out.safetensors", **options}
    return from_mapping(ConvertConfig, values)


def test_a_rank_as_large_as_the_layer_is_exact_without_a_rule(tmp_path):
    key, (up, down, mid) = "lora_unet_conv_out", (draw(4, 8, 1, 1), draw(8, 20, 1, 1, seed=1), draw(8, 8, 3, 3, seed=2))
    tensors = module(key, lora_up_weight=up, lora_down_weight=down, lora_mid_weight=mid, alpha=torch.tensor(4.0))
    result, report, _ = converted(tmp_path, tensors, network_type="LoRA")
    wanted = 0.5 * np.einsum("or,rskl,si->oikl", *(t.double().numpy().squeeze() for t in (up, mid, down)))
    assert result[f"{key}.lora_down.weight"].shape == (4, 20, 3, 3)
    assert np.allclose(delta_of(result, key), wanted.reshape(4, -1), rtol=1e-5, atol=1e-5)
    assert report["lost"] < 1e-6


def test_a_whole_difference_of_a_norm_stays_as_it_is(tmp_path):
    norm = "lora_unet_mid_block_resnets_0_norm1"
    tensors = plain() | module(norm, diff=draw(32), diff_b=draw(32, seed=1))
    result, _, events = converted(tmp_path, tensors, network_type="LoRA")
    assert torch.equal(result[f"{norm}.diff"], tensors[f"{norm}.diff"])
    assert torch.equal(result[f"{norm}.diff_b"], tensors[f"{norm}.diff_b"])
    assert "1 norms stay as they are" in notes(events)


@pytest.mark.parametrize("tensors", [plain(rank=4), module(LINEAR, diff=draw(24, 20))], ids=["rank 4", "no LoRA"])
def test_first_ranks_that_leave_nothing_out_are_refused(tmp_path, tensors):
    with pytest.raises(StudioError) as caught:
        check(a_file(tmp_path, tensors, first_ranks=4))
    assert caught.value.field == "first_ranks"


def test_modules_that_keep_all_their_ranks_are_told(tmp_path):
    tensors = plain(rank=4) | plain(TEXT, rank=2) | module(CONV, diff=draw(16, 12, 3, 3))
    _, _, events = converted(tmp_path, tensors, first_ranks=2)
    assert "2 modules are no LoRA of more than 2 ranks" in notes(events)


FAULTS = {
    "no base": (module(LINEAR, weight=draw(24, 1), on_input=torch.tensor(False)), {"network_type": "LoRA"}, "base"),
    "DoRA without base": (plain() | module(LINEAR, dora_scale=draw(1, 20)), {"network_type": "LoRA"}, "base"),
    "no rank": (module(LINEAR, diff=draw(24, 20)), {"network_type": "LoRA"}, "dim"),
    "no name": (module(LINEAR, diff=draw(24, 20)), {"names": "diffusers"}, "names"),
    "embeddings": (plain() | {"bundle_emb.zorb.emb_params": draw(1, 4)}, {"names": "diffusers"}, "names"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_is_found_before_the_work(tmp_path, fault):
    tensors, options, field = FAULTS[fault]
    with pytest.raises(StudioError) as caught:
        check(a_file(tmp_path, tensors, **options))
    assert caught.value.field == field


def test_a_checkpoint_of_another_family_is_found_before_the_work(networks, tmp_path):
    tensors = module("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", diff=draw(1280, 768))
    with pytest.raises(StudioError) as caught:
        check(a_file(tmp_path, tensors, network_type="LoRA", dim=4, base=networks["SDXL"][0]))
    assert (caught.value.field, caught.value.came) == ("base", "SDXL")


def test_a_file_that_can_be_converted_passes_the_check(tmp_path):
    """Of LoKr one half is whole, of which the factors are worked out beside an identity."""
    lokr = module(LINEAR, lokr_w1=draw(2, 2), lokr_w2_a=draw(12, 2), lokr_w2_b=draw(2, 10), alpha=torch.tensor(1.0))
    check(a_file(tmp_path, lokr, network_type="LoRA"))


def test_the_result_has_a_name_of_its_own(tmp_path):
    converted(tmp_path, plain(), {"ss_output_name": "in", "modelspec.title": "in"}, save_precision="fp16")
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        assert opened.metadata()["ss_output_name"] == "out"
        assert opened.metadata().get("modelspec.title") != "in"
