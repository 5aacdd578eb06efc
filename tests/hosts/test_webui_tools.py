"""The real WebUI as judge of the delta algebra, of merged files and of baked checkpoints.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_lora.arch.family import Family
from lib_lora.arch.keys import kohya_key, module_name, split_prefix
from lib_lora.arch.ldm import sdxl_module_name
from lib_lora.base.options import from_mapping
from lib_lora.base.signals import Control
from lib_lora.weights import bake, convert, extract, merge
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.layers import Layer
from lib_lora.weights.options import BakeConfig, ConvertConfig, ExtractConfig, MergeConfig
from lib_lora.weights.recipe import from_prompt, layer_parts
from lib_lora.weights.webui_names import is_found
from lora_kinds import KINDS, noise

pytestmark = pytest.mark.webui

TE, UNET = 0.7, -0.6
# What the WebUI is asked to draw: the same recipe as separate files, as one file, and in the checkpoint.
LINEAR = "<lora:lora:0.5:0.8> <lora:tucker:-0.4> <lora:loha:0.6>"
ALL = "<lora:lora:0.5:0.8> <lora:dora:0.7> <lora:ia3:0.3> <lora:lokr:-0.4> <lora:oft:0.5> <lora:full:0.6>"
CASE = {
    "negative_prompt": "",
    "seed": 5,
    "steps": 4,
    "sampler_name": "Euler",
    "cfg_scale": 3.0,
    "width": 128,
    "height": 128,
}
WORDS = "zorb, red dog"
# A LoRA of the text encoder's last layer alone, of SDXL's second one.
LAST = "last"
NORMS = "norm"


def is_wanted(layer: Layer) -> bool:
    """The middle of the UNet, an upsampler, and the first layer of each text encoder."""
    places = (".middle_block.", ".output_blocks.2.", "layers.0.", "resblocks.0.")
    return any(place in layer.weight for place in places)


@pytest.fixture(scope="module", params=["SD1", "SD2", "SDXL"])
def checkpoint(request, webui_families) -> Path:
    return webui_families(request.param)


@pytest.fixture(scope="module")
def base(checkpoint) -> BaseModel:
    return BaseModel(checkpoint)


@pytest.fixture(scope="module")
def layers(base) -> list[Layer]:
    return [layer for layer in base.layers.values() if is_wanted(layer)]


@pytest.fixture(scope="module")
def data(tmp_path_factory, base, layers) -> Path:
    """A folder with a LoRA of every kind on every layer that the kind can change."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "Lora").mkdir()
    for name, make in KINDS.items():
        tensors = {}
        for seed, layer in enumerate(layers):
            own = make(layer.shape, seed) if len(layer.shape) > 1 else None
            tensors |= {f"{layer.key}.{suffix}": tensor for suffix, tensor in (own or {}).items()}
        save(folder, name, tensors)
    norms = {}
    found = [layer for layer in layers if len(layer.shape) == 1 and is_found(layer.key, base.family, base.layers)]
    for seed, layer in enumerate(found):
        for number, suffix in enumerate(("w_norm", "b_norm")):
            norms[f"{layer.key}.{suffix}"] = noise(*layer.shape, seed=2 * seed + number)
    save(folder, NORMS, norms)
    return folder


def save(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    save_file({key: t.contiguous() for key, t in tensors.items()}, str(folder / "Lora" / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def spellings(base, data) -> dict[str, list[str]]:
    """Files with modules under every name that a layer may have: one file for each way of naming them."""
    names: dict[str, list[str]] = {way: [] for way in WAYS}
    for key in base.layers:
        for way, spell in WAYS.items():
            with contextlib.suppress(KeyError):
                names[way].append(spell(*split_prefix(key)))
    for way, own in names.items():
        save(data, f"names-{way}", {f"{name}.diff": torch.zeros(1) for name in own})
    return names


def _ldm(prefix: str, own: str) -> str:
    return kohya_key(prefix, sdxl_module_name(module_name(prefix + own)))


WAYS: dict[str, Callable[[str, str], str]] = {
    "studio": lambda prefix, own: prefix + own,
    "diffusers": lambda prefix, own: kohya_key(prefix, module_name(prefix + own)),
    "ldm": _ldm,
    "oft": lambda prefix, own: f"oft_unet_{own}",
    "oftldm": lambda prefix, own: _ldm(prefix, own).replace("lora_unet_", "oft_unet_"),
    "te": lambda prefix, own: f"lora_te_{own}",
    "te1": lambda prefix, own: f"lora_te1_{own}",
}


@pytest.fixture(scope="module")
def merged(data, checkpoint) -> None:
    """Files of what the two recipes come to."""
    recipes = {"merged": {"prompt": LINEAR}, "mergedall": {"prompt": ALL, "base": checkpoint}}
    for name, options in recipes.items():
        for precision in ("float", "fp16"):
            output = data / "Lora" / f"{name}{precision}.safetensors"
            done(merge, MergeConfig, output=output, save_precision=precision, lora_dir=data / "Lora", **options)


def done(tool, config: type, **options: object) -> None:
    assert list(tool.run(from_mapping(config, options), Control()))[-1].report


@pytest.fixture(scope="module")
def baked(data, checkpoint, tmp_path_factory) -> list[Path]:
    """The checkpoint with the second recipe in it, in the checkpoint's own precision and in half."""
    folder, paths = tmp_path_factory.mktemp("baked"), []
    for precision in (None, "fp16"):
        output = folder / f"baked{precision}.safetensors"
        options = {} if precision is None else {"save_precision": precision}
        done(bake, BakeConfig, checkpoint=checkpoint, output=output, prompt=ALL, lora_dir=data / "Lora", **options)
        copy_open_clip(checkpoint, output)
        paths.append(output)
    return paths


def copy_open_clip(checkpoint: Path, to: Path) -> None:
    beside = checkpoint.with_suffix(".open_clip.json")
    if beside.is_file():
        shutil.copy(beside, to.with_suffix(".open_clip.json"))


@pytest.fixture(scope="module")
def tuned(checkpoint, base, tmp_path_factory) -> Path:
    """The checkpoint with a change of rank 1 in every matrix and convolution."""
    path = tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
    tensors = {key: tensor.clone() for key, tensor in base.file.tensors.items()}
    changed = {layer.weight for layer in base.layers.values() if len(layer.shape) > 1}
    for seed, key in enumerate(sorted(changed)):
        flat = tensors[key].flatten(1)
        size = 0.05 * float(flat.float().norm()) / flat.numel() ** 0.5
        change = noise(len(flat), 1, seed=seed, scale=1) @ noise(1, flat.shape[1], seed=seed + 1, scale=size)
        tensors[key] = tensors[key] + change.reshape(tensors[key].shape).to(tensors[key].dtype)
    save_file(tensors, str(path))
    shutil.copy(checkpoint.with_suffix(".yaml"), path.with_suffix(".yaml"))
    copy_open_clip(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def extracted(checkpoint, tuned, base, data) -> None:
    """What turns the checkpoint into the tuned one, also by way of diffusers' names and back."""
    folder = data / "Lora"
    files = [folder / f"{name}.safetensors" for name in ("extracted", "diffusers", "converted")]
    models = {"model_org": checkpoint, "model_tuned": tuned, "dim": 1, "conv_dim": 1, "full": False, "exact": True}
    done(extract, ExtractConfig, **models, output=files[0], save_precision="float")
    done(convert, ConvertConfig, model=files[0], output=files[1], names="diffusers")
    done(convert, ConvertConfig, model=files[1], output=files[2])
    texts = [layer for layer in base.layers.values() if "_encoder_layers_" in layer.key and len(layer.shape) > 1]
    last = max(text_layer(layer) for layer in texts)
    idle = {f"{layer.key}.diff": noise(*layer.shape, seed=3) for layer in texts if text_layer(layer) == last}
    save(data, LAST, idle)


def text_layer(layer: Layer) -> int:
    """The number of a text encoder's layer."""
    return int(layer.key.split("_encoder_layers_")[1].split("_")[0])


@pytest.fixture(scope="module")
def theirs(checkpoint, layers, data, spellings, merged, baked, tuned, extracted, run_in_webui) -> dict[str, np.ndarray]:
    others = [f"<lora:{name}:1>" for name in ("extracted", "converted", LAST)]
    keys = sorted({key for layer in layers for key in (layer.weight, layer.bias) if key})
    files = [f"<lora:{name}{precision}:1>" for name in ("merged", "mergedall") for precision in ("float", "fp16")]
    task = {
        "names": [*(f"names-{way}" for way in spellings), "extracted", "converted"],
        "applied": [[name, TE, UNET] for name in (*KINDS, NORMS)],
        "keys": keys,
        "prompts": [f"{WORDS} {text}" for text in ("", LINEAR, ALL, *files, *others)],
        "checkpoints": [[str(path), WORDS] for path in (*baked, tuned)],
        "case": CASE,
    }
    (data / "task.json").write_text(json.dumps(task), encoding="utf-8")
    run_in_webui("webui_tools_driver.py", checkpoint, data / "task.json", data / "out.npz", data)
    with np.load(data / "out.npz") as file:
        return dict(file)


@pytest.mark.parametrize("kind", [*KINDS, NORMS])
def test_a_baked_layer_is_what_the_webui_has_at_work(theirs, base, layers, data, kind):
    parts = layer_parts(from_prompt(f"<lora:{kind}:{TE}:{UNET}>", data / "Lora"), base.family)
    weights, biases = bake.plan_changes(parts, base)
    assert json.loads(str(theirs["errors"]))[kind] == {} and weights
    worst = 0.0
    for key in {key for layer in layers for key in (layer.weight, layer.bias) if key}:
        before, expected = base.file.tensors[key], torch.from_numpy(theirs[f"{kind} {key}"]).double()
        if key in weights:
            ours = bake.baked_weight(before, weights[key], torch.float32)
        elif key in biases:
            ours = bake.baked_bias(before, biases[key], torch.float32)
        else:
            assert torch.equal(expected, before.double()), key
            continue
        worst = max(worst, float((expected - ours).norm() / (ours.double() - before).norm()))
    print(f"{kind}: {len(weights) + len(biases)} tensors, worst {worst:.1e} of the change")
    assert worst < 2e-5


def levels(first: np.ndarray, second: np.ndarray) -> int:
    """The largest difference of two pictures in grey levels."""
    return int(np.abs(first.astype(int) - second.astype(int)).max())


# Pictures by their number in the task: with the separate files, and with the one file.
@pytest.mark.parametrize(
    "separate, one, allowed",
    [(1, "prompt 3", 1), (1, "prompt 4", 3), (2, "prompt 5", 1), (2, "prompt 6", 3), (2, "checkpoint 0", 1)],
)
def test_a_merged_file_and_a_baked_checkpoint_draw_the_prompts_picture(theirs, separate, one, allowed):
    expected = theirs[f"prompt {separate}"]
    difference = levels(expected, theirs[one])
    print(f"{one} for prompt {separate}: {difference} grey levels")
    assert levels(expected, theirs["prompt 0"]) > 20, "the LoRAs must do something"
    assert difference <= allowed


def test_a_baked_checkpoint_in_half_precision_draws_nearly_the_same(theirs):
    difference = np.abs(theirs["prompt 2"].astype(int) - theirs["checkpoint 1"].astype(int))
    print(f"in half: {difference.max()} grey levels, {difference.mean():.2f} on average")
    assert difference.mean() < 1


@pytest.mark.parametrize("way", WAYS)
def test_verify_knows_which_names_the_webui_finds(theirs, spellings, base, way):
    lost = {name for name in spellings[way] if not is_found(name, base.family, base.layers)}
    assert lost == set(json.loads(str(theirs["unmatched"]))[f"names-{way}"])
    assert spellings[way]


def test_every_key_of_an_extracted_and_of_a_converted_lora_is_found(theirs):
    unmatched = json.loads(str(theirs["unmatched"]))
    assert unmatched["extracted"] == unmatched["converted"] == []


@pytest.mark.parametrize("number", [7, 8])
def test_an_extracted_and_a_converted_lora_draw_the_tuned_checkpoints_picture(theirs, number):
    expected = theirs["checkpoint 2"]
    difference = levels(theirs[f"prompt {number}"], expected)
    print(f"prompt {number}: {difference} grey levels of {levels(theirs['prompt 0'], expected)}")
    assert levels(theirs["prompt 0"], expected) > 20, "the checkpoints must differ"
    assert difference <= 1


def test_the_webui_runs_the_text_encoders_last_layer_except_in_sd2(theirs, base):
    assert (levels(theirs["prompt 9"], theirs["prompt 0"]) == 0) is (base.family is Family.SD2)
