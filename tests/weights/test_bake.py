"""Baked checkpoints against W + strength * alpha / rank * U D in float64, and everything else byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.models.loader import load_model
from lib_lora.weights.bake import report_text, run
from lib_lora.weights.options import BakeConfig

# Names in LoRA files and in the checkpoint, for each tiny family.
LAYERS = {
    "SD1": {
        "lora_unet_down_blocks_1_attentions_0_proj_in": "model.diffusion_model.input_blocks.4.1.proj_in.weight",
        "lora_unet_up_blocks_0_upsamplers_0_conv": "model.diffusion_model.output_blocks.2.1.conv.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (
            "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
        ),
    },
    "SD2": {
        "lora_unet_mid_block_attentions_0_proj_out": "model.diffusion_model.middle_block.1.proj_out.weight",
        "lora_te_text_model_encoder_layers_1_self_attn_k_proj": (
            "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"
        ),
    },
    "SDXL": {
        "lora_unet_output_blocks_2_2_conv": "model.diffusion_model.output_blocks.2.2.conv.weight",
        "lora_unet_mid_block_resnets_0_conv1": "model.diffusion_model.middle_block.0.in_layers.2.weight",
        "lora_te1_text_model_encoder_layers_0_self_attn_out_proj": (
            "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.out_proj.weight"
        ),
        "lora_te2_text_model_encoder_layers_1_self_attn_v_proj": (
            "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"
        ),
    },
}
FUSED = {"k_proj": 1, "v_proj": 2}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows_of(key: str, weight: Tensor) -> slice:
    """Which rows of a checkpoint's tensor a LoRA's module means."""
    place = next((place for name, place in FUSED.items() if key.endswith(name)), None)
    size = len(weight) // 3
    return slice(None) if place is None else slice(place * size, (place + 1) * size)


def make_lora(checkpoint: dict[str, Tensor], layers: dict[str, str], rank: int = 3) -> dict[str, Tensor]:
    tensors = {}
    for number, (key, name) in enumerate(layers.items()):
        out, size, *kernel = checkpoint[name][rows_of(key, checkpoint[name])].shape
        tensors[f"{key}.lora_up.weight"] = 0.1 * random(out, rank, *[1] * len(kernel), seed=number)
        tensors[f"{key}.lora_down.weight"] = random(rank, size, *kernel, seed=50 + number)
        tensors[f"{key}.alpha"] = torch.tensor(2.0)
    return tensors


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, str(path), metadata=metadata)
    return path


def bake(folder: Path, checkpoint: Path, **options: object) -> tuple[dict[str, Tensor], dict, list[Event]]:
    output = folder / "baked.safetensors"
    config = from_mapping(BakeConfig, {"checkpoint": checkpoint, "output": output, **options})
    events = list(run(config, Control()))
    assert isinstance(events[-1], ToolDone) and report_text(events[-1].report)
    return load_file(output), events[-1].report, events


def delta(tensors: dict[str, Tensor], key: str) -> np.ndarray:
    up, down = (tensors[f"{key}.lora_{name}.weight"].double().flatten(1).numpy() for name in ("up", "down"))
    return 2.0 / len(down) * up @ down


@pytest.mark.parametrize("family", LAYERS)
def test_the_layers_get_their_changes_and_nothing_else_does(tiny_checkpoints, tmp_path, family):
    checkpoint = load_file(tiny_checkpoints[family])
    lora = make_lora(checkpoint, LAYERS[family])
    write(tmp_path / "a.safetensors", lora)
    baked, report, _ = bake(tmp_path, tiny_checkpoints[family], prompt="<lora:a:-0.6:0.8>", lora_dir=tmp_path)
    assert baked.keys() == checkpoint.keys()
    for key, name in LAYERS[family].items():
        strength = -0.6 if key.startswith("lora_te") else 0.8
        rows = rows_of(key, checkpoint[name])
        expected = checkpoint[name].double().clone()
        expected[rows] += strength * torch.from_numpy(delta(lora, key)).reshape(expected[rows].shape)
        torch.testing.assert_close(baked[name], expected.float(), rtol=0, atol=1e-6)
        assert float((baked[name] - checkpoint[name]).abs().max()) > 0.01
    for name in checkpoint.keys() - set(LAYERS[family].values()):
        assert baked[name].dtype == checkpoint[name].dtype and torch.equal(baked[name], checkpoint[name]), name
    assert report["changed"] == report["layers"] == len(LAYERS[family])
    assert (tmp_path / "baked.yaml").read_bytes() == tiny_checkpoints[family].with_suffix(".yaml").read_bytes()


def test_a_negative_strength_takes_it_out_again(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    write(tmp_path / "a.safetensors", make_lora(checkpoint, LAYERS["SD1"]))
    bake(tmp_path, tiny_checkpoint, prompt="<lora:a:0.8>", lora_dir=tmp_path)
    (tmp_path / "again").mkdir()
    back, _, _ = bake(tmp_path / "again", tmp_path / "baked.safetensors", prompt="<lora:a:-0.8>", lora_dir=tmp_path)
    for name in LAYERS["SD1"].values():
        torch.testing.assert_close(back[name], checkpoint[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "precision, eps", [("fp16", 2**-11), ("bf16", 2**-8), ("fp8_e4m3", 2**-4), ("fp8_e5m2", 2**-3)]
)
def test_the_precision_is_as_chosen_and_integers_stay(tiny_checkpoint, tmp_path, precision, eps):
    checkpoint = load_file(tiny_checkpoint)
    checkpoint["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    path = write(tmp_path / "model.safetensors", checkpoint)
    lora = make_lora(checkpoint, LAYERS["SD1"])
    write(tmp_path / "a.safetensors", lora)
    baked, _, _ = bake(tmp_path, path, prompt="<lora:a:0.5>", lora_dir=tmp_path, save_precision=precision)
    assert baked["cond_stage_model.transformer.text_model.embeddings.position_ids"].dtype == torch.int64
    assert not any(tensor.dtype == torch.float32 for tensor in baked.values())
    for key, name in LAYERS["SD1"].items():
        expected = checkpoint[name].double() + 0.5 * torch.from_numpy(delta(lora, key)).reshape(checkpoint[name].shape)
        error = float((baked[name].double() - expected).norm() / expected.norm())
        assert error <= eps, error
    norm = baked["model.diffusion_model.input_blocks.1.0.in_layers.0.weight"]
    assert norm.dtype == (torch.bfloat16 if precision == "bf16" else torch.float16)


def test_half_precision_is_rounded_once(tiny_checkpoint, tmp_path):
    checkpoint = {key: tensor.half() for key, tensor in load_file(tiny_checkpoint).items()}
    path = write(tmp_path / "half.safetensors", checkpoint)
    lora = make_lora(checkpoint, LAYERS["SD1"])
    write(tmp_path / "a.safetensors", lora)
    baked, _, _ = bake(tmp_path, path, prompt="<lora:a:0.5>", lora_dir=tmp_path)
    for key, name in LAYERS["SD1"].items():
        exact = checkpoint[name].double() + 0.5 * torch.from_numpy(delta(lora, key)).reshape(checkpoint[name].shape)
        assert baked[name].dtype == torch.float16
        # All but those that stand between two half-precision numbers are float64's own roundings.
        assert float((baked[name] == exact.half()).double().mean()) > 0.999


def test_pytorchs_own_files_are_read(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    name = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    stored = {**checkpoint, name: checkpoint[name].transpose(0, 1).contiguous().transpose(0, 1)}
    torch.save({"state_dict": stored, "epoch": 3}, tmp_path / "model.ckpt")
    lora = make_lora(checkpoint, LAYERS["SD1"])
    write(tmp_path / "a.safetensors", lora)
    baked, _, _ = bake(tmp_path, tmp_path / "model.ckpt", prompt="<lora:a:0.5>", lora_dir=tmp_path)
    assert baked.keys() == checkpoint.keys()
    key = "lora_unet_down_blocks_1_attentions_0_proj_in"
    change = 0.5 * torch.from_numpy(delta(lora, key)).float().reshape(checkpoint[name].shape)
    torch.testing.assert_close(baked[name], checkpoint[name] + change)
    with safe_open(tmp_path / "baked.safetensors", "pt") as file:
        (digest,) = json.loads(file.metadata()["sd_merge_models"])
    assert digest == hashlib.sha256((tmp_path / "model.ckpt").read_bytes()).hexdigest()


def test_an_inpainting_models_first_convolution_keeps_its_mask_channels(tiny_checkpoints, tmp_path):
    checkpoint = load_file(tiny_checkpoints["SD1 inpainting"])
    name = "model.diffusion_model.input_blocks.0.0.weight"
    out = len(checkpoint[name])
    lora = {
        "lora_unet_conv_in.lora_up.weight": random(out, 2, 1, 1, seed=1),
        "lora_unet_conv_in.lora_down.weight": random(2, 4, 3, 3, seed=2),
    }
    write(tmp_path / "a.safetensors", lora)
    baked, _, _ = bake(tmp_path, tiny_checkpoints["SD1 inpainting"], models=[str(tmp_path / "a.safetensors")])
    assert torch.equal(baked[name][:, 4:], checkpoint[name][:, 4:])
    up, down = (
        lora["lora_unet_conv_in.lora_up.weight"].flatten(1),
        lora["lora_unet_conv_in.lora_down.weight"].flatten(1),
    )
    torch.testing.assert_close(baked[name][:, :4], checkpoint[name][:, :4] + (up @ down).reshape(out, 4, 3, 3))


def test_norms_biases_and_types_that_depend_on_the_weights(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    norm, layer = "model.diffusion_model.input_blocks.1.0.in_layers.0", "model.diffusion_model.middle_block.1.proj_in"
    size = len(checkpoint[f"{norm}.weight"])
    lora = {
        "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": random(size, seed=1),
        "lora_unet_down_blocks_0_resnets_0_norm1.b_norm": random(size, seed=2),
        "lora_unet_mid_block_attentions_0_proj_in.diff": random(64, 64, 1, 1, seed=3),
        "lora_unet_mid_block_attentions_0_proj_in.diff_b": random(64, seed=4),
        "lora_unet_mid_block_resnets_0_conv1.weight": random(64, seed=5),
        "lora_unet_mid_block_resnets_0_conv1.on_input": torch.tensor(1),
    }
    write(tmp_path / "a.safetensors", lora)
    baked, _, _ = bake(tmp_path, tiny_checkpoint, prompt="<lora:a:0.5>", lora_dir=tmp_path)
    values = list(lora.values())
    for name, change in (
        (f"{norm}.weight", values[0]),
        (f"{norm}.bias", values[1]),
        (f"{layer}.weight", values[2]),
        (f"{layer}.bias", values[3]),
    ):
        torch.testing.assert_close(baked[name], checkpoint[name] + 0.5 * change)
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    torch.testing.assert_close(baked[name], checkpoint[name] * (1 + 0.5 * values[4].reshape(1, -1, 1, 1)))


def test_metadata_stay_with_a_recipe_and_without_stale_hashes(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    path = write(
        tmp_path / "model.safetensors", checkpoint, {"modelspec.title": "Zorb", "modelspec.hash_sha256": "0x1"}
    )
    write(tmp_path / "a.safetensors", make_lora(checkpoint, LAYERS["SD1"]))
    bake(tmp_path, path, prompt="<lora:a:0.5>", lora_dir=tmp_path)
    with safe_open(tmp_path / "baked.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.title"] == "Zorb" and metadata["format"] == "pt"
    assert "modelspec.hash_sha256" not in metadata
    recipe, models = (json.loads(metadata[name]) for name in ("sd_merge_recipe", "sd_merge_models"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert recipe["type"] == "lora-studio" and recipe["primary_model_hash"] == digest
    assert recipe["loras"][0]["strengths"] == "a:0.5" and recipe["custom_name"] == "baked"
    legacy = hashlib.sha256(path.read_bytes()[0x100000:0x110000]).hexdigest()[:8]
    assert models == {digest: {"name": "model.safetensors", "legacy_hash": legacy, "sd_merge_recipe": None}}


def test_what_went_into_a_merged_checkpoint_is_kept(tiny_checkpoint, tmp_path):
    """As the WebUI's merger does: the recipe before goes to its model, whose own models stay."""
    before = {"type": "webui", "interp_method": "Weighted sum"}
    parents = {"ab" * 32: {"name": "a.safetensors", "legacy_hash": "12345678", "sd_merge_recipe": None}}
    checkpoint = load_file(tiny_checkpoint)
    metadata = {"sd_merge_recipe": json.dumps(before), "sd_merge_models": json.dumps(parents)}
    path = write(tmp_path / "merged.safetensors", checkpoint, metadata)
    write(tmp_path / "a.safetensors", make_lora(checkpoint, LAYERS["SD1"]))
    bake(tmp_path, path, prompt="<lora:a:1>", lora_dir=tmp_path)
    with safe_open(tmp_path / "baked.safetensors", "pt") as file:
        models = json.loads(file.metadata()["sd_merge_models"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(models) == [digest, *parents] and models[digest]["sd_merge_recipe"] == before
    assert {key: models[key] for key in parents} == parents


def test_a_vae_replaces_the_checkpoints_own(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    prefix = "first_stage_model."
    vae = {key[len(prefix) :]: tensor + 1 for key, tensor in checkpoint.items() if key.startswith(prefix)}
    write(tmp_path / "vae.safetensors", {**vae, "loss.logvar": torch.zeros(())})
    baked, report, _ = bake(tmp_path, tiny_checkpoint, vae=tmp_path / "vae.safetensors")
    for key, tensor in checkpoint.items():
        assert torch.equal(baked[key], vae[key[len(prefix) :]] if key.startswith(prefix) else tensor), key
    assert report["changed"] == len(vae)
    write(tmp_path / "bad.safetensors", {key: t for key, t in vae.items() if "decoder.conv_out" not in key})
    with pytest.raises(StudioError, match="vae: has no decoder.conv_out"):
        bake(tmp_path, tiny_checkpoint, vae=tmp_path / "bad.safetensors", overwrite=True)


def test_the_baked_checkpoint_is_a_model(tiny_checkpoints, tmp_path):
    for family in ("SD2", "SDXL"):
        checkpoint = load_file(tiny_checkpoints[family])
        write(tmp_path / "a.safetensors", make_lora(checkpoint, LAYERS[family]))
        for item in tiny_checkpoints[family].parent.iterdir():
            if item.is_dir() and not (tmp_path / item.name).exists():
                (tmp_path / item.name).symlink_to(item)
        bake(tmp_path, tiny_checkpoints[family], prompt="<lora:a:1>", lora_dir=tmp_path, overwrite=True)
        assert load_model(tmp_path / "baked.safetensors").family.value == family


@pytest.mark.parametrize(
    "change, options, words",
    [
        ({}, {}, "prompt: must be given"),
        ({"lora_unet_nowhere.diff": torch.ones(2)}, {"prompt": "<lora:a:1>"}, "1 of 4 layers of the LoRAs are unknown"),
        (
            {"lora_unet_mid_block_attentions_0_proj_in.diff": torch.ones(3, 3)},
            {"prompt": "<lora:a:1>"},
            "proj_in: does not fit the layer",
        ),
        (
            {"lora_unet_mid_block_attentions_0_proj_in.diff": torch.full((64, 64, 1, 1), 1e6)},
            {"prompt": "<lora:a:1>", "save_precision": "fp16"},
            "not finite in this precision",
        ),
        (
            {
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.diff": torch.ones(64, 64),
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.diff_b": torch.ones(64),
            },
            {"prompt": "<lora:a:1>"},
            "has no bias",
        ),
    ],
)
def test_what_cannot_be_baked_is_said_and_nothing_is_left(tiny_checkpoint, tmp_path, change, options, words):
    checkpoint = load_file(tiny_checkpoint)
    write(tmp_path / "a.safetensors", {**make_lora(checkpoint, LAYERS["SD1"]), **change})
    with pytest.raises(StudioError, match=words):
        bake(tmp_path, tiny_checkpoint, lora_dir=tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_large_values_are_finite_though_their_sum_is_not(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    key, name = next(iter(LAYERS["SD1"].items()))
    write(tmp_path / "a.safetensors", {f"{key}.diff": torch.full(checkpoint[name].shape, 1e36)})
    baked, _, _ = bake(tmp_path, tiny_checkpoint, prompt="<lora:a:1>", lora_dir=tmp_path)
    assert baked[name].isfinite().all() and not baked[name].sum().isfinite()


def test_a_configuration_of_the_file_that_is_replaced_does_not_stay(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    write(tmp_path / "a.safetensors", make_lora(checkpoint, LAYERS["SD1"]))
    plain = write(tmp_path / "plain.safetensors", checkpoint)
    (tmp_path / "baked.safetensors").write_bytes(b"old")
    (tmp_path / "baked.yaml").write_text("model: another\n", encoding="utf-8")
    bake(tmp_path, plain, prompt="<lora:a:1>", lora_dir=tmp_path, overwrite=True)
    assert not (tmp_path / "baked.yaml").exists()


def test_the_vae_is_never_the_output(tiny_checkpoint, tmp_path):
    vae = tmp_path / "vae.safetensors"
    vae.write_bytes(tiny_checkpoint.read_bytes())
    with pytest.raises(StudioError, match="output"):
        bake(tmp_path, tiny_checkpoint, vae=vae, output=vae, overwrite=True)
    assert vae.read_bytes() == tiny_checkpoint.read_bytes()


def test_unknown_layers_are_left_out_when_asked_for(tiny_checkpoint, tmp_path):
    checkpoint = load_file(tiny_checkpoint)
    lora = {**make_lora(checkpoint, LAYERS["SD1"]), "lora_unet_nowhere.diff": torch.ones(2)}
    write(tmp_path / "a.safetensors", lora)
    _, report, _ = bake(tmp_path, tiny_checkpoint, prompt="<lora:a:1>", lora_dir=tmp_path, skip_unknown=True)
    assert report["unknown"] == ["lora_unet_nowhere"] and report["layers"] == 3


def test_a_lora_of_another_family_is_refused(tiny_checkpoints, tmp_path):
    checkpoint = load_file(tiny_checkpoints["SDXL"])
    write(tmp_path / "a.safetensors", make_lora(checkpoint, LAYERS["SDXL"]))
    with pytest.raises(StudioError, match="not of one family: the checkpoint for SD1 and a for SDXL"):
        bake(tmp_path, tiny_checkpoints["SD1"], prompt="<lora:a:1>", lora_dir=tmp_path)


@pytest.mark.parametrize("stop_at", [1, 200])
def test_a_stopped_bake_leaves_nothing(tiny_checkpoint, tmp_path, stop_at):
    write(tmp_path / "a.safetensors", make_lora(load_file(tiny_checkpoint), LAYERS["SD1"]))
    control = Control()
    options = {"checkpoint": tiny_checkpoint, "output": tmp_path / "b.safetensors", "prompt": "<lora:a:1>"}
    config = from_mapping(BakeConfig, {**options, "lora_dir": tmp_path})
    events = []
    for event in run(config, control):
        events.append(event)
        if len(events) == stop_at:
            control.stop()
    assert isinstance(events[-1], Note) and [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_truncated_checkpoint_is_refused(tiny_checkpoint, tmp_path):
    write(tmp_path / "a.safetensors", make_lora(load_file(tiny_checkpoint), LAYERS["SD1"]))
    (tmp_path / "cut.safetensors").write_bytes(tiny_checkpoint.read_bytes()[:100_000])
    with pytest.raises(StudioError, match="truncated"):
        bake(tmp_path, tmp_path / "cut.safetensors", prompt="<lora:a:1>", lora_dir=tmp_path)
    assert not (tmp_path / "baked.safetensors").exists()
