"""Files with one fault each; which names the real WebUI finds is tested in tests/hosts/test_webui_tools.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import save_network
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.arch.family import Family
from lib_lora.base.events import ToolDone
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.models.loader import load_model
from lib_lora.weights.layers import checkpoint_layers
from lib_lora.weights.options import VerifyConfig
from lib_lora.weights.verify import report_text, run
from lib_lora.weights.webui_names import published_layers
from tiny import FULL_SIZE, meta_tensors

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
TO_Q, TO_K = f"{UNET}_attn2_to_q", f"{UNET}_attn2_to_k"
PEFT_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


def lora(**changes: Tensor | None) -> dict[str, Tensor]:
    """A file for SD1, by its width of cross attention; changes by key with __ for a dot, None to leave one out."""
    tensors = {
        f"{TO_K}.lora_up.weight": torch.ones(320, 2),
        f"{TO_K}.lora_down.weight": torch.ones(2, 768),
        f"{TO_K}.alpha": torch.tensor(2.0),
    }
    tensors |= {key.replace("__", "."): tensor for key, tensor in changes.items()}
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


def look(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, **options: object) -> dict:
    path = folder / "a.safetensors"
    save_file(tensors, str(path), metadata=metadata)
    return look_at(path, **options)


def look_at(path: Path, **options: object) -> dict:
    *_, last = run(from_mapping(VerifyConfig, {"model": path, **options}), Control())
    assert isinstance(last, ToolDone)
    return last.report


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_the_published_layers_are_those_of_the_published_sizes(family):
    shapes = {key: tuple(tensor.shape) for key, tensor in meta_tensors(FULL_SIZE[family]).items()}
    real = set(checkpoint_layers(shapes, Family(family)))
    # A shortcut stands where the channels change; some files are named as if it stood everywhere.
    named = {key for key in published_layers(Family(family)) if not key.endswith(("conv_shortcut", "skip_connection"))}
    assert named <= real
    assert real - named == {key for key in real if key.endswith(("conv_shortcut", "skip_connection"))}


def test_a_trained_file_has_no_problems(tiny_checkpoints, tmp_path):
    for family, checkpoint in tiny_checkpoints.items():
        model = load_model(checkpoint)
        network = Network.create(model.unet, model.text_encoders, NetworkSpec(rank=2, alpha=1, conv_rank=2), seed=1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1)
        version = {"SD1": "sd_v1", "SD2": "sd_v2", "SDXL": "sdxl_base_v1-0"}[family.split()[0]]
        save_network(tmp_path / "a.safetensors", network, "fp16", {"ss_base_model_version": version})
        report = look_at(tmp_path / "a.safetensors", base=checkpoint)
        assert report["problems"] == [] and report["ok"] and report["kinds"] == {"LoRA": len(network)}, family


CASES = {
    "unknown layer": (lora(lora_unet_nowhere__diff=torch.ones(2)), None, "error", "does not find in SD1"),
    "other names": (
        lora(**{f"{PEFT_Q}.lora_A.weight": torch.ones(2, 320), f"{PEFT_Q}.lora_B.weight": torch.ones(320, 2)}),
        None,
        "error",
        "names of diffusers: the WebUI finds none of them; `convert` renames them",
    ),
    "unknown names beside diffusers'": (
        {f"{PEFT_Q}.lora_A.weight": torch.ones(2, 320), "unet.magic": torch.ones(2)},
        None,
        "error",
        "names of diffusers",
    ),
    "unknown suffixes": (lora(**{f"{TO_Q}__magic": torch.ones(2)}), None, "error", "rejects the whole file"),
    "half a norm": (
        lora(lora_unet_mid_block_resnets_0_norm1__w_norm=torch.ones(1280)),
        None,
        "error",
        "rejects the whole file",
    ),
    "left out": (lora(**{f"{TO_K}__diff_b": torch.ones(320)}), None, "warning", "leaves out"),
    "new GLoRA": (
        lora(
            **{
                f"{TO_Q}__a1.weight": torch.ones(320, 2),
                f"{TO_Q}__a2.weight": torch.ones(2, 320),
                f"{TO_Q}__b1.weight": torch.ones(320, 2),
                f"{TO_Q}__b2.weight": torch.ones(2, 320),
                f"{TO_Q}__alpha": torch.tensor(1.0),
            }
        ),
        None,
        "error",
        "GLoRA",
    ),
    "DoRA by rows": (lora(**{f"{TO_K}__dora_scale": torch.ones(320, 1)}), None, "warning", "DoRA"),
    "NaN": (lora(**{f"{TO_K}__lora_up.weight": torch.full((320, 2), float("nan"))}), None, "error", "NaN"),
    "zero": (lora(**{f"{TO_K}__lora_up.weight": torch.zeros(320, 2)}), None, "warning", "does nothing"),
    "another family's metadata": (
        lora(),
        {"ss_base_model_version": "sdxl_base_v1-0"},
        "error",
        "metadata say SDXL, the layers are of SD1",
    ),
    "stale hash": (lora(), {"sshs_model_hash": "0" * 64}, "error", "stale hashes"),
    "stale legacy hash": (lora(), {"sshs_legacy_hash": "0" * 8}, "error", "stale hashes"),
    "nothing": ({"bundle_emb.zorb.emb_params": torch.ones(1, 4)}, None, "error", "holds no LoRA"),
    "no family": (
        {"lora_unet_conv_in.diff": torch.ones(320, 4, 3, 3)},
        None,
        "warning",
        "its family is not known",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_alone(tmp_path, name):
    tensors, metadata, level, words = CASES[name]
    report = look(tmp_path, tensors, metadata)
    found, *more = report["problems"]
    assert len(more) == (name == "unknown names beside diffusers'")
    assert found["level"] == level and words in found["text"]
    assert report["ok"] is (level == "warning")
    assert words in report_text(report)


def test_a_sound_file_is_sound(tmp_path):
    report = look(tmp_path, lora(), {"ss_base_model_version": "sd_v1"})
    assert report["ok"] and report["problems"] == [] and report["family"] == "SD1"


def test_attention_of_open_clip_goes_together(tmp_path):
    key = "lora_te_text_model_encoder_layers_0_self_attn"
    tensors = {
        f"{UNET}_attn2_to_k.lora_up.weight": torch.ones(320, 2),
        f"{UNET}_attn2_to_k.lora_down.weight": torch.ones(2, 1024),
    }
    for name in ("q_proj", "k_proj", "v_proj"):
        tensors[f"{key}_{name}.diff"] = torch.ones(1024, 1024)
    (found,) = look(tmp_path, tensors)["problems"]
    assert "skips it" in found["text"] and found["count"] == 3
    tensors[f"{key}_out_proj.diff"] = torch.ones(1024, 1024)
    assert look(tmp_path, tensors)["problems"] == []


def test_the_same_layer_twice(tmp_path):
    tensors = lora(**{"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k__diff": torch.ones(320, 768)})
    (found,) = look(tmp_path, tensors)["problems"]
    assert "twice" in found["text"]


def test_a_checkpoint_of_another_family_or_size_is_told(tiny_checkpoints, tmp_path):
    (found,) = look(tmp_path, lora(), base=tiny_checkpoints["SDXL"])["problems"]
    assert found["text"] == "the LoRA is for SD1, the checkpoint is SDXL"
    problems = look(tmp_path, lora(), base=tiny_checkpoints["SD1"])["problems"]
    assert [found["text"] for found in problems] == ["modules that do not fit the checkpoint's layers"]
    assert problems[0]["names"] == [TO_K]


def test_a_file_in_diffusers_names_is_looked_at_as_a_whole(tmp_path):
    tensors = {f"{PEFT_Q[:-1]}k.lora_A.weight": torch.ones(2, 768), f"{PEFT_Q[:-1]}k.lora_B.weight": torch.ones(320, 2)}
    report = look(tmp_path, tensors)
    assert (report["family"], report["kinds"], report["ok"]) == ("SD1", {"LoRA": 1}, False)
    (found,) = report["problems"]
    assert found["count"] == 2 and found["names"] == sorted(tensors)
    # In the spelling of diffusers before PEFT, and of no effect.
    old = {f"{PEFT_Q}.lora.down.weight": torch.ones(2, 320), f"{PEFT_Q}.lora.up.weight": torch.zeros(320, 2)}
    assert "does nothing" in report_text(look(tmp_path, old))


def test_hashes_of_a_file_in_another_order_are_right(tmp_path):
    path = tmp_path / "a.safetensors"
    write_in_reverse(path, lora())
    assert look_at(path)["problems"] == []
    raw = bytearray(path.read_bytes())
    raw[0x108000] ^= 1  # of a number behind the first MiB its last bit
    path.write_bytes(raw)
    (found,) = look_at(path)["problems"]
    assert found["names"] == ["modelspec.hash_sha256", "sshs_legacy_hash", "sshs_model_hash"]


def write_in_reverse(path: Path, tensors: dict[str, Tensor]) -> None:
    """A file as another writer may make it, its tensors from Z to A, with its own hashes and large enough for all."""
    data, entries = b"", {}
    tensors = {**tensors, f"{TO_Q}.diff": torch.rand(768, 768, generator=torch.Generator().manual_seed(0))}
    for key in sorted(tensors, reverse=True):
        raw = tensors[key].numpy().tobytes()
        entries[key] = {
            "dtype": "F32",
            "shape": list(tensors[key].shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw

    def head(metadata: dict[str, str]) -> bytes:
        text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    own = {"ss_output_name": "a"}
    whole = hashlib.sha256(data).hexdigest()
    legacy = hashlib.sha256((head(own) + data)[0x100000:0x110000]).hexdigest()[:8]
    hashes = {"sshs_model_hash": whole, "sshs_legacy_hash": legacy, "modelspec.hash_sha256": f"0x{whole}"}
    path.write_bytes(head({**own, **hashes}) + data)


def test_the_file_stays_as_it_is(tmp_path):
    look(tmp_path, lora())
    before = (tmp_path / "a.safetensors").read_bytes()
    look_at(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert load_file(tmp_path / "a.safetensors").keys() == lora().keys()
