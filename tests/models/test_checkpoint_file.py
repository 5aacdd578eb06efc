"""Every format gives the same tensors by the same names; folders are held against diffusers' own modules."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lora.arch.family import Family
from lib_lora.arch.prediction import V_PREDICTION
from lib_lora.base.errors import StudioError
from lib_lora.models.checkpoint_file import open_checkpoint, open_vae
from lib_lora.models.diffusers_folder import find_weights
from lib_lora.models.loader import load_model
from tiny import checkpoint_tensors, write_checkpoint
from tiny_folders import TinyPipeline, text_output, unet_output, vae_output

KINDS = ("SD1", "SD2", "SDXL", "inpainting")


@pytest.fixture(scope="module", params=KINDS)
def pipeline(request, tmp_path_factory):
    """(kind, modules, folder)."""
    made = TinyPipeline.make(request.param)
    return request.param, made, made.write(tmp_path_factory.mktemp("folders") / f"tiny-v1.5-{request.param}")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    made = TinyPipeline.make("SD1")
    return made, made.write(tmp_path_factory.mktemp("folders") / "sd1")


@pytest.fixture
def copy(sd1, tmp_path):
    """A folder to spoil."""
    return shutil.copytree(sd1[1], tmp_path / "copy")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in right)


# --- single files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["safetensors", "ckpt", "old.ckpt", "bin", "renamed.safetensors", "renamed.ckpt"])
def test_every_file_format_gives_the_same_tensors(tmp_path, extension):
    tensors = checkpoint_tensors()
    path = tmp_path / f"x.{extension}"
    if extension in ("safetensors", "renamed.ckpt"):
        save_file(tensors, str(path), metadata={"modelspec.title": "x"})
    else:
        is_zip = not extension.startswith("old")
        torch.save({"state_dict": tensors, "epoch": 1}, path, _use_new_zipfile_serialization=is_zip)
    opened = open_checkpoint(path)
    assert same(opened.tensors, tensors)
    assert opened.facts is None and opened.name == path.stem


def test_metadata_come_with_the_file(tmp_path):
    save_file({"a": torch.ones(1)}, str(tmp_path / "x.safetensors"), metadata={"modelspec.title": "t"})
    assert open_checkpoint(tmp_path / "x.safetensors").metadata == {"modelspec.title": "t"}


def test_a_ckpt_is_loaded_as_the_safetensors_file_is(tmp_path):
    path = write_checkpoint(tmp_path)
    torch.save({"state_dict": load_file(path), "global_step": 5}, tmp_path / "tiny.ckpt")
    one, other = load_model(path), load_model(tmp_path / "tiny.ckpt")
    for left, right in zip(one.modules(), other.modules()):
        assert same(left.state_dict(), right.state_dict())
    assert other.unet.config.attention_head_dim == 2, "the yaml beside the .ckpt counts, too"


@pytest.mark.parametrize("extension", ["safetensors", "ckpt"])
def test_writing_to_a_tensor_never_changes_the_file(tmp_path, extension):
    path = tmp_path / f"x.{extension}"
    tensors = {"a": torch.arange(4096.0)}
    save_file(tensors, str(path)) if extension == "safetensors" else torch.save(tensors, path)
    before = path.read_bytes()
    open_checkpoint(path).tensors["a"].fill_(7)
    assert path.read_bytes() == before
    assert same(open_checkpoint(path).tensors, tensors)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(StudioError, match=r"no such file.*\.safetensors.*\.ckpt.*diffusers"):
        open_checkpoint(tmp_path / "none.ckpt")


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_into_the_very_modules_that_diffusers_wrote(pipeline):
    kind, made, folder = pipeline
    model = load_model(folder)
    assert model.family is (Family.SD1 if kind == "inpainting" else Family[kind])
    assert model.inpainting == (kind == "inpainting")
    assert model.name == folder.name
    assert torch.equal(unet_output(model.unet), unet_output(made.unet))
    assert torch.equal(vae_output(model.vae), vae_output(made.vae))
    assert model.vae.config.scaling_factor == made.vae.config.scaling_factor
    assert len(model.text_encoders) == len(made.text_encoders)
    for ours, theirs in zip(model.text_encoders, made.text_encoders):
        for left, right in zip(text_output(ours), text_output(theirs)):
            assert torch.equal(left, right)


def test_a_folder_has_the_names_of_single_files(pipeline):
    kind, _, folder = pipeline
    keys = set(open_checkpoint(folder).tensors)
    text = "conditioner.embedders.0." if kind == "SDXL" else "cond_stage_model."
    assert {key.split(".")[0] for key in keys} == {"model", "first_stage_model", text.split(".")[0]}
    assert "model.diffusion_model.input_blocks.0.0.weight" in keys
    assert "first_stage_model.encoder.down.0.block.0.conv1.weight" in keys
    assert any(key.startswith(f"{text}transformer.") and key.endswith("mlp.fc1.weight") for key in keys)
    if kind == "SDXL":
        assert "conditioner.embedders.1.transformer.text_projection.weight" in keys


@pytest.mark.skipif(sys.platform != "linux", reason="the system's list of memory maps is read")
def test_a_folders_tensors_are_views_of_its_files(sd1):
    _, folder = sd1
    opened = open_checkpoint(folder).tensors["model.diffusion_model.input_blocks.0.0.weight"]
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert opened.untyped_storage().nbytes() == opened.numel() * 4
    with open("/proc/self/maps", encoding="utf-8") as maps:
        ranges = [line.split()[0] for line in maps if str(file) in line]
    bounds = [tuple(int(end, 16) for end in span.split("-")) for span in ranges]
    assert any(begin <= opened.data_ptr() < end for begin, end in bounds)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "fp16"},
        {"safe_serialization": False},
        {"safe_serialization": False, "variant": "fp16"},
        {"max_shard_size": "200KB"},
        {"max_shard_size": "200KB", "variant": "fp16"},
        {"max_shard_size": "200KB", "safe_serialization": False},
    ],
    ids=["fp16", "bin", "fp16 bin", "shards", "fp16 shards", "bin shards"],
)
def test_every_variant_gives_the_same_tensors(sd1, tmp_path, options):
    made, plain = sd1
    folder = tmp_path / "x"
    for name in ("unet", "vae"):
        made.parts()[name].save_pretrained(folder / name, **options)
    shutil.copytree(plain / "text_encoder", folder / "text_encoder")
    made.write_rest(folder)
    opened = open_checkpoint(folder)
    assert same(opened.tensors, open_checkpoint(plain).tensors)
    (note,) = opened.notes
    if "variant" in options:
        assert "unet/diffusion_pytorch_model.fp16" in note
    if "max_shard_size" in options:
        assert " more" in note


def test_the_plain_variant_is_taken_where_there_are_several(copy):
    unet = copy / "unet"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"):
        save_file({"conv_in.weight": torch.zeros(1)}, str(unet / name))
    torch.save({}, unet / "diffusion_pytorch_model.bin")
    opened = open_checkpoint(copy)
    assert "unet/diffusion_pytorch_model.safetensors" in opened.notes[0]
    assert opened.tensors["model.diffusion_model.input_blocks.0.0.weight"].shape == (32, 4, 3, 3)
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    assert "unet/diffusion_pytorch_model.bin" in _taken(copy)
    (unet / "diffusion_pytorch_model.bin").unlink()
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in _taken(copy)


def _taken(folder):
    return f"unet/{find_weights(folder / 'unet').files[0].name}"


def test_the_scheduler_tells_what_the_unet_predicts(copy):
    path = copy / "scheduler" / "scheduler_config.json"
    config = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    path.write_text(json.dumps(config), encoding="utf-8")
    model = load_model(copy)
    assert (model.prediction_type, model.zero_terminal_snr) == (V_PREDICTION, True)
    assert "scheduler_config.json" in model.prediction_source
    path.write_text(json.dumps({"beta_schedule": "squaredcos_cap_v2"}), encoding="utf-8")
    with pytest.raises(StudioError, match="beta_schedule.*squaredcos_cap_v2"):
        open_checkpoint(copy)


def _index(folder, **changes):
    path = folder / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(index), encoding="utf-8")


def _spoil(folder, kind):
    if kind == "no index":
        (folder / "model_index.json").unlink()
    elif kind == "damaged index":
        (folder / "model_index.json").write_text("<html>", encoding="utf-8")
    elif kind == "flux":
        _index(
            folder, _class_name="FluxPipeline", unet=[None, None], transformer=["diffusers", "FluxTransformer2DModel"]
        )
    elif kind == "kandinsky":
        _index(folder, _class_name="KandinskyPipeline", text_encoder=["kandinsky", "MultilingualCLIP"])
    elif kind == "refiner":
        _index(folder, text_encoder=[None, None], text_encoder_2=["transformers", "CLIPTextModelWithProjection"])
    elif kind == "upscaler":
        _index(folder, _class_name="StableDiffusionUpscalePipeline")
    elif kind == "no vae":
        shutil.rmtree(folder / "vae")
    elif kind == "no weights":
        (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    elif kind == "cut":
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
    elif kind == "foreign tensor":
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        save_file(load_file(file) | {"class_embedding.weight": torch.ones(1)}, str(file))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no index", "no model_index.json"),
        ("damaged index", "not a configuration"),
        ("flux", "another family.*FluxPipeline"),
        ("kandinsky", "another family.*MultilingualCLIP"),
        ("refiner", "refiner of SDXL"),
        ("upscaler", "StableDiffusionUpscalePipeline; an upscaler"),
        ("no vae", "the part 'vae'"),
        ("no weights", "no weights"),
        ("cut", "truncated"),
        ("foreign tensor", "class_embedding"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(copy, kind, words):
    _spoil(copy, kind)
    with pytest.raises(StudioError, match=words) as caught:
        open_checkpoint(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/etc/passwd", "missing.safetensors", "..\\x.safetensors"]
)
def test_shards_outside_the_folder_are_not_touched(copy, name):
    unet = copy / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(copy / "elsewhere.safetensors")
    index = {"weight_map": {"conv_in.weight": name}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(StudioError, match="a shard that the index names is missing"):
        open_checkpoint(copy)


def test_a_tensor_that_no_shard_holds_is_named(copy):
    unet = copy / "unet"
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / shard)
    index = {"weight_map": {"conv_in.weight": shard, "not.there": shard}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(StudioError, match="not.there"):
        open_checkpoint(copy)


# --- VAEs ----------------------------------------------------------------------------------------------------------


def test_a_vae_is_read_from_every_place_that_people_have(sd1, tmp_path):
    made, folder = sd1
    expected = open_vae(folder)
    assert torch.equal(expected["encoder.mid.attn_1.q.weight"][:, :, 0, 0], _query(made.vae))
    ldm = {f"first_stage_model.{key}": tensor.contiguous() for key, tensor in expected.items()}
    save_file(ldm, str(tmp_path / "prefixed.safetensors"))
    torch.save({"state_dict": dict(expected)}, tmp_path / "x.vae.pt")
    torch.save(made.vae.state_dict(), tmp_path / "diffusers.bin")
    save_file({**ldm, "model.diffusion_model.x": torch.ones(1)}, str(tmp_path / "checkpoint.safetensors"))
    for path in (folder / "vae", *tmp_path.iterdir()):
        assert same(open_vae(path), expected), path


def _query(vae):
    state = vae.state_dict()
    return state["encoder.mid_block.attentions.0.to_q.weight"]


@pytest.mark.parametrize("kind", ["folder", "pt"])
def test_a_vae_of_another_format_replaces_the_checkpoints_own(sd1, tmp_path, kind):
    made, folder = sd1
    path = folder / "vae"
    if kind == "pt":
        path = tmp_path / "x.vae.pt"
        torch.save({"state_dict": dict(open_vae(folder))}, path)
    model = load_model(write_checkpoint(tmp_path), vae_path=path)
    assert torch.equal(vae_output(model.vae), vae_output(made.vae))
