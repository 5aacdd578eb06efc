from __future__ import annotations

import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lora.arch.ldm import text_keys
from lib_lora.base.errors import StudioError
from lib_lora.models.checkpoint_file import open_checkpoint
from lib_lora.models.config_yaml import ModelYaml, yaml_beside
from lib_lora.models.loader import build_model, load_model
from lib_lora.models.prompt import encode_captions
from tiny import SDXL, SHAPES, checkpoint_tensors, write_checkpoint


def predict(model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 16, 16, generator=generator).to(dtype)
    context = torch.randn(1, 77, 32, generator=generator).to(dtype)
    with torch.no_grad():
        return model.unet(latents, torch.tensor([500]), encoder_hidden_states=context).sample


def addresses(tensors):
    return sorted((t.data_ptr(), t.numel() * t.element_size()) for t in tensors)


def test_every_parameter_is_a_view_of_the_given_tensors(tiny_checkpoint):
    tensors = open_checkpoint(tiny_checkpoint).tensors
    model = build_model(
        tensors, ModelYaml(heads=2, text_folders=(tiny_checkpoint.parent / "clip",)), name="tiny", file=tiny_checkpoint
    )
    given = [t for key, t in tensors.items() if not key.endswith("position_ids")]
    ours = [p for module in model.modules() for p in module.parameters()]
    assert addresses(ours) == addresses(given)


# What no module takes: SD2's last layer and projection are never used.
UNUSED = re.compile(r"position_ids|logit_scale|cond_stage_model\.model\.(text_projection|transformer\.resblocks\.3\.)")


@pytest.mark.parametrize("name", ["SD2", "SDXL", "SDXL inpainting"])
def test_every_parameter_of_the_other_families_shares_its_storage_with_the_file(tiny_checkpoints, name):
    path = tiny_checkpoints[name]
    tensors = checkpoint_tensors(shape=SHAPES[name.split()[0]])
    model = build_model(tensors, yaml_beside(path), name=name, file=path)
    # An address and a size each; open_clip's fused projections are three parameters of ours, one after the other.
    given = {t.data_ptr(): t for key, t in tensors.items() if not UNUSED.search(key)}
    starts = {t.untyped_storage().data_ptr() for t in given.values()}
    ours = [p for module in model.modules() for p in module.parameters()]
    assert {p.untyped_storage().data_ptr() for p in ours} == starts
    assert sum(p.numel() for p in ours) == sum(t.numel() for t in given.values())
    assert not any(p.requires_grad for p in ours)


@pytest.mark.parametrize("name", ["SD1", "SD2", "SDXL", "SD1 inpainting", "SD2 inpainting", "SDXL inpainting"])
def test_families_are_known_by_their_names_and_shapes(tiny_checkpoints, name):
    family, *inpainting = name.split()
    model = load_model(tiny_checkpoints[name])
    assert model.family.value == family and model.inpainting == bool(inpainting)
    assert len(model.text_encoders) == len(model.tokenizers) == (2 if family == "SDXL" else 1)
    assert model.vae.config.scaling_factor == (0.13025 if family == "SDXL" else 0.18215)
    assert model.prediction_type == ("v_prediction" if family == "SD2" else "epsilon")


def test_sdxls_second_encoder_in_transformers_names_is_the_same(tiny_checkpoints, tmp_path):
    source = tiny_checkpoints["SDXL"]
    prefix = "conditioner.embedders.1."
    tensors = {}
    for key, tensor in load_file(source).items():
        if not key.startswith(f"{prefix}model."):
            tensors[key] = tensor
            continue
        if "logit_scale" in key:
            continue
        names = text_keys(key[len(prefix) :])
        parts = tensor.chunk(3) if len(names) == 3 else [tensor.t() if key.endswith("text_projection") else tensor]
        tensors |= {f"{prefix}transformer.{name}": part.contiguous() for name, part in zip(names, parts)}
    save_file(tensors, str(tmp_path / "renamed.safetensors"))
    shutil.copy(source.with_suffix(".yaml"), tmp_path / "renamed.yaml")
    for folder in ("clip", "open_clip"):
        shutil.copytree(source.parent / folder, tmp_path / folder)
    first, second = (
        encode_captions(load_model(path), ["red cat"]) for path in (source, tmp_path / "renamed.safetensors")
    )
    assert torch.allclose(first.context, second.context, atol=1e-6)
    assert torch.allclose(first.pooled, second.pooled, atol=1e-6)


def test_live_module_tensors_are_shared_and_stay_as_they_are(tiny_checkpoint):
    live = torch.nn.ParameterDict(
        {k.replace(".", "/"): torch.nn.Parameter(t) for k, t in checkpoint_tensors().items() if t.is_floating_point()}
    )
    before = {key: p.detach().clone() for key, p in live.items()}
    tensors = {key.replace("/", "."): p for key, p in live.items()}
    model = build_model(
        tensors, ModelYaml(heads=2, text_folders=(tiny_checkpoint.parent / "clip",)), name="live", file="live"
    )
    conv_in = live["model/diffusion_model/input_blocks/0/0/weight"]
    assert model.unet.conv_in.weight.untyped_storage().data_ptr() == conv_in.untyped_storage().data_ptr()
    predict(model)
    assert all(p.requires_grad for p in live.values()), "the host's flags are its own"
    assert not any(p.requires_grad for p in model.unet.parameters())
    assert all(torch.equal(before[key], p) for key, p in live.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_stay_and_compute_in_single(tmp_path, dtype):
    path = write_checkpoint(tmp_path, dtype=dtype)
    kept = load_model(path, keep_weights=True)
    assert kept.unet.conv_in.weight.dtype == dtype
    cast_once = load_model(path)
    assert cast_once.unet.conv_in.weight.dtype == torch.float32
    assert torch.allclose(predict(kept), predict(cast_once), rtol=1e-5, atol=1e-5)
    assert kept.unet.conv_in.weight.dtype == dtype


def test_gradients_through_kept_half_weights_equal_those_through_cast_ones(tmp_path):
    path = write_checkpoint(tmp_path, dtype=torch.float16)
    gradients = []
    for keep in (True, False):
        model = load_model(path, keep_weights=keep)
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        context = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
        model.unet(latents, torch.tensor([300]), encoder_hidden_states=context).sample.square().mean().backward()
        gradients.append((latents.grad, context.grad))
    for kept, cast in zip(*gradients):
        assert torch.allclose(kept, cast, rtol=1e-3, atol=1e-7)


def test_old_text_encoder_keys_give_the_same_model(tiny_checkpoint, tmp_path):
    tensors = {
        key.replace("transformer.text_model.", "transformer."): t for key, t in load_file(tiny_checkpoint).items()
    }
    save_file(tensors, str(tmp_path / "old.safetensors"))
    shutil.copy(tiny_checkpoint.with_suffix(".yaml"), tmp_path / "old.yaml")
    shutil.copytree(tiny_checkpoint.parent / "clip", tmp_path / "clip")
    ids = torch.tensor([[1, 2, 3]])
    old, new = (
        load_model(path).text_encoders[0](ids).last_hidden_state
        for path in (tmp_path / "old.safetensors", tiny_checkpoint)
    )
    assert torch.equal(old, new)


def test_the_yamls_head_count_is_used(tiny_checkpoint, tmp_path):
    path = write_checkpoint(tmp_path)
    assert load_model(path).unet.config.attention_head_dim == 2
    yaml = path.with_suffix(".yaml")
    yaml.write_text(yaml.read_text().replace("num_heads: 2", "num_heads: 4"))
    other = load_model(path)
    assert other.unet.config.attention_head_dim == 4
    assert not torch.allclose(predict(other), predict(load_model(tiny_checkpoint)))


def test_another_vae_replaces_the_checkpoints_own(tiny_checkpoint, tmp_path):
    vae = {
        k[len("first_stage_model.") :]: t for k, t in checkpoint_tensors(seed=7).items() if k.startswith("first_stage")
    }
    save_file(vae, str(tmp_path / "vae.safetensors"))
    model = load_model(tiny_checkpoint, vae_path=tmp_path / "vae.safetensors")
    assert torch.equal(model.vae.decoder.conv_in.weight, vae["decoder.conv_in.weight"])
    assert model.vae_path == tmp_path / "vae.safetensors"


def broken(tmp_path, kind):
    path = write_checkpoint(tmp_path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "web page":
        path.write_text("<!DOCTYPE html><html>404</html>")
    elif kind == "access denied":
        path.write_text("Access denied. Please sign in to download this model.")
    elif kind == "picture":
        Image.new("RGB", (8, 8)).save(path, format="PNG")
    elif kind == "unfinished download":
        path.write_bytes(bytes(10_000))
    elif kind == "truncated ckpt":
        torch.save(checkpoint_tensors(), path)
        path.write_bytes(path.read_bytes()[:-10_000])
    elif kind == "truncated old ckpt":
        torch.save(checkpoint_tensors(), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "hypernetwork":
        torch.save({"step": 5, 768: [{"linear.0.weight": torch.ones(2)}]}, path)
    elif kind == "pickle":
        torch.save({"just": "words"}, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "lora":
        save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, str(path))
    elif kind == "incomplete":
        tensors = load_file(path)
        del tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"]
        save_file(tensors, str(path))
    elif kind == "refiner":
        tensors = load_file(path) | {"conditioner.embedders.0.model.ln_final.weight": torch.zeros(1)}
        save_file(tensors, str(path))
    elif kind == "half an sdxl":
        path = write_checkpoint(tmp_path, shape=SDXL)
        save_file({key: t for key, t in load_file(path).items() if "embedders.1." not in key}, str(path))
    elif kind == "yaml":
        path.with_suffix(".yaml").write_text("just: words")
    elif kind == "clip":
        shutil.rmtree(tmp_path / "clip")
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "truncated|incomplete|cut"),
        ("web page", "web page"),
        ("empty", "empty|truncated|too short"),
        ("access denied", "text saved under this name.*Access denied"),
        ("picture", "a picture"),
        ("unfinished download", "unfinished download"),
        ("truncated ckpt", "truncated"),
        ("truncated old ckpt", "truncated"),
        ("hypernetwork", "a hypernetwork"),
        ("pickle", "holds no tensors"),
        ("lora", "a LoRA"),
        ("incomplete", "missing"),
        ("refiner", "the refiner of SDXL"),
        ("half an sdxl", "text encoder 2 is incomplete"),
        ("yaml", "configuration"),
        ("clip", "folder"),
        ("missing", "no such file"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path, kind, words):
    path = broken(tmp_path, kind)
    with pytest.raises(StudioError, match=words) as caught:
        load_model(path)
    assert path.stem in str(caught.value)


def test_loading_leaves_the_global_generator_alone(tiny_checkpoint):
    state = torch.get_rng_state()
    load_model(tiny_checkpoint)
    assert torch.equal(state, torch.get_rng_state())
