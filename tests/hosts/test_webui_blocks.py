"""Block weights in the prompts of the real WebUI: its own pictures, compared pixel by pixel.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lora.base.options import from_mapping
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.hosts.standalone.generator import StandaloneGenerator
from lib_lora.models.loader import load_model
from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.blocks import apply
from lib_lora.weights.blocks.elements import webui_name
from lib_lora.weights.layers import Layer
from lib_lora.weights.options import ApplyBlocksConfig
from lora_kinds import KINDS, noise

pytestmark = pytest.mark.webui

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("SDXL", "SD1")  # the WebUI starts with the first, and the scenes are played with the last
WORDS = "zorb, red dog"
ONE_BLOCK, ITS_WEIGHT = "OUT04", 8  # of which eight bits a channel show something
BLOCKS = {
    "SD1": ["BASE", *(f"IN{n:02d}" for n in range(12)), "M00", *(f"OUT{n:02d}" for n in range(12))],
    "SDXL": ["BASE", *(f"IN{n:02d}" for n in range(9)), "M00", *(f"OUT{n:02d}" for n in range(9))],
}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "hr_second_pass_steps": 2, "steps": 2}
HIRES["denoising_strength"] = 0.99
WAYS = {
    **{"": {}, "hires ": HIRES, "batch ": {"batch_size": 4}},
    "negative ": {"negative_prompt": "blue cat", "cfg_scale": 3},
}
SCENES = (
    *("drawn", "pasted", "edited_preset", "schedules", "ten_in_a_row", "beside_the_other", "weights_after"),
    *("plot", "plot_of_nonsense", "twice_and_disabled"),
)
FAULTS = {
    "preset": (":lbw=OUTSIDE", "'OUTSIDE'"),
    "length": (":lbw=1,0,1", "3 block weights"),
    "value": (":lbw=" + ",".join(["1"] * 16 + ["one"]), "'one' is no number"),
    "x": (":lbw=OUTX:x=much", "'much'"),
    "filter": (":lbwe=NOBODY", "'NOBODY'"),
    "step": (":start=soon", "'soon'"),
    "strength": (":1@0,0@0.5", "'1@0,0@0.5'"),
    "rank": (":dyn=\u00b2", "'\u00b2'"),
}
OLD = {"a preset": (":OUTX:0.5", ":1:lbw=OUTX:x=0.5"), "both strengths": (":0.8:0.6:MIDD", ":0.8:0.6:lbw=MIDD")}


def with_bias(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    return {**KINDS["full"](shape, seed), "diff_b": noise(shape[0], seed=seed + 1)}


def brief_loha(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """In 16 bits, to which the WebUI rounds the whole weight, even for a change of nothing."""
    return {name: tensor.bfloat16() for name, tensor in KINDS["loha"](shape, seed).items()}


TYPES = {
    **{name: KINDS[name] for name in ("lora", "loha", "lokr", "ia3", "dora", "oldglora", "oft")},
    "full": with_bias,
    "loha16": brief_loha,
}
NORM = "norm"
TYPES_OF = {"SD1": (*TYPES, NORM), "SDXL": ("lora", "loha", "lokr", "ia3", "full", "dora", NORM)}
CASES = {
    family: [*(("", kind) for kind in kinds), ("hires ", "lora"), ("batch ", "dora"), ("negative ", "lora")]
    for family, kinds in TYPES_OF.items()
}


def block_of(layer: Layer) -> str | None:
    """By the checkpoint's own names, which count the blocks as people do."""
    if not layer.weight.startswith("model.diffusion_model."):
        return "BASE"
    if ".middle_block." in layer.weight:
        return "M00"
    match = re.search(r"\.(in|out)put_blocks\.(\d+)\.", layer.weight)
    return f"{match[1].upper()}{int(match[2]):02d}" if match else None


def is_wanted(layer: Layer) -> bool:
    """Some of each block's layers, and of each text encoder's first."""
    places = ("attn2.to_v.", "proj_in.", "in_layers.", ".op.", ".2.conv.", ".0.0.weight", "layers.0.", "resblocks.0.")
    return block_of(layer) is not None and any(place in layer.weight for place in places)


@pytest.fixture(scope="module")
def checkpoints(webui_families) -> dict[str, Path]:
    return {family: webui_families(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def data(tmp_path_factory, checkpoints) -> Path:
    """A folder with a LoRA of every type in all blocks, and another that holds one block's modules only."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "Lora").mkdir()
    for family, checkpoint in checkpoints.items():
        layers = [layer for layer in BaseModel(checkpoint).layers.values() if is_wanted(layer)]
        assert {block_of(layer) for layer in layers} == set(BLOCKS[family])
        for name, make in TYPES.items():
            # The WebUI cannot take out again what gave a layer its first bias.
            fitting = [layer for layer in layers if len(layer.shape) > 1 and (layer.bias or make is not with_bias)]
            write(folder, f"{family}{name}", {layer: make(layer.shape, place) for place, layer in enumerate(fitting)})
        norms = {layer: norm(layer, seed) for seed, layer in enumerate(layers) if len(layer.shape) == 1}
        write(folder, f"{family}{NORM}", norms)
        write_by_the_webuis_names(folder / "Lora", f"{family}lora")
        for kind in TYPES_OF[family]:
            save_weighted(folder / "Lora" / f"{family}{kind}.safetensors", checkpoint, various(family))
    return folder


def write_by_the_webuis_names(folder: Path, name: str) -> None:
    named = {}
    for key, tensor in load_file(folder / f"{name}.safetensors").items():
        module, _, suffix = key.partition(".")
        named[f"{webui_name(module)}.{suffix}"] = tensor
    save_file(named, str(folder / f"{name}renamed.safetensors"))


def save_weighted(lora: Path, checkpoint: Path, weights: str) -> None:
    output = lora.with_stem(f"{lora.stem}saved")
    config = from_mapping(ApplyBlocksConfig, {"model": lora, "base": checkpoint, "lbw": weights, "output": output})
    assert list(apply.run(config, Control()))[-1].report


def norm(layer: Layer, seed: int) -> dict[str, Tensor]:
    return {name: noise(*layer.shape, seed=seed + place, scale=0.3) for place, name in enumerate(("w_norm", "b_norm"))}


def write(folder: Path, name: str, modules: dict[Layer, dict[str, Tensor] | None]) -> None:
    for file, keeps in ((name, None), (f"{name}one", ONE_BLOCK)):
        tensors = {
            f"{layer.key}.{suffix}": tensor.contiguous()
            for layer, own in modules.items()
            for suffix, tensor in (own or {}).items()
            if keeps in (None, block_of(layer))
        }
        save_file(tensors, str(folder / "Lora" / f"{file}.safetensors"))


def vector(family: str, **weights: float) -> str:
    """All blocks in full; those not named count ``rest``."""
    return ",".join(str(weights.get(block, weights["rest"])) for block in BLOCKS[family])


def various(family: str) -> str:
    """Another weight for each block, from 0 to 1."""
    return ",".join(f"{(7 * place % 11) / 10:g}" for place in range(len(BLOCKS[family])))


def pictures(family: str) -> dict[str, dict]:
    """What is asked of the WebUI, by name."""
    with_x = ",".join({"0.5": "X", "0.8": "X+0.3"}.get(value, value) for value in various(family).split(","))
    found = {f"{way}none": {"prompt": WORDS, **fields} for way, fields in WAYS.items()}
    for way, kind in CASES[family]:
        name = f"{family}{kind}"
        prompts = {
            "plain": f"<lora:{name}:0.8>",
            "ones": f"<lora:{name}:0.8:lbw={vector(family, rest=1)}>",
            "zeros": f"<lora:{name}:0.8:lbw={vector(family, rest=0)}>",
            "one": f"<lora:{name}:0.8:lbw={vector(family, rest=0, **{ONE_BLOCK: ITS_WEIGHT})}>",
            "file": f"<lora:{name}one:{0.8 * ITS_WEIGHT}>",
        }
        if not way:
            prompts["numbers"] = f"<lora:{name}:0.8:lbw={various(family)}>"
            prompts["saved"] = f"<lora:{name}saved:0.8>"
        fields = WAYS[way]
        found |= {f"{way}{kind} {word}": {"prompt": f"{WORDS} {tag}", **fields} for word, tag in prompts.items()}
    found["x"] = {"prompt": f"{WORDS} <lora:{family}lora:0.8:lbw={with_x}:x=0.5>"}
    if family != FAMILIES[-1]:
        return found
    found |= {name: {"prompt": f"{WORDS} {tags}"} for name, tags in several(family).items()}
    found |= {name: {"prompt": one, "hr_prompt": other, **HIRES} for name, (one, other) in own_hires(family).items()}
    for name, (words, _) in FAULTS.items():
        found[f"fault {name}"] = {"prompt": f"{WORDS} <lora:{family}lora:0.8{words}>"}
    for name, ways in OLD.items():
        for way, words in zip(("old", "new"), ways):
            found[f"{way} {name}"] = {"prompt": f"{WORDS} <lora:{family}lora{words}>"}
    return found


def several(family: str) -> dict[str, str]:
    """LoRAs that stand twice, or beside another, or that act in some steps only."""
    name, other = f"{family}lora", f"{family}loha"
    evens, odds = (",".join("01"[(place + odd) % 2] for place in range(len(BLOCKS[family]))) for odd in range(2))
    one = vector(family, rest=0, **{ONE_BLOCK: ITS_WEIGHT})
    return {
        "halves": f"<lora:{name}:0.8:lbw={evens}> <lora:{name}:0.8:lbw={odds}>",
        "one and the rest": f"<lora:{name}:0.5> <lora:{name}:0.3:lbw={vector(family, rest=1)}>",
        "turns": f"<lora:{name}:0.4:0.8:stop=0.5> <lora:{name}:0.4:0.8:start=0.5>",
        "two": f"<lora:{name}:0.8:lbw={one}> <lora:{other}:0.8:lbw={one}>",
        "two files": f"<lora:{name}one:{0.8 * ITS_WEIGHT}> <lora:{other}one:{0.8 * ITS_WEIGHT}>",
        "renamed": f"<lora:{name}renamed:0.8:lbw={various(family)}>",
        "from the end": f"<lora:{name}:0.8:start=1.0>",
        "text alone": f"<lora:{name}:0.8:0>",
        "to the end": f"<lora:{name}:0.8:stop=1.0>",
        "second half": f"<lora:{name}:0.8:start=0.5>",
    }


def own_hires(family: str) -> dict[str, tuple[str, str]]:
    """Prompts for the first pass and for the second."""
    one, zeros = vector(family, rest=0, **{ONE_BLOCK: ITS_WEIGHT}), vector(family, rest=0)
    first = f"{WORDS} <lora:{family}lora:0.8:lbw={one}>"
    return {
        "own hires": (first, f"{WORDS} <lora:{family}lora:0.8:lbw={zeros}>"),
        "own hires files": (f"{WORDS} <lora:{family}loraone:{0.8 * ITS_WEIGHT}>", f"{WORDS} "),
        "own hires turned": (f"{WORDS} <lora:{family}lora:0.8:lbw={zeros}>", first),
    }


@pytest.fixture(scope="module")
def theirs(data, checkpoints, run_in_webui) -> dict[str, dict]:
    """By family what the WebUI drew and said."""
    rounds = [
        {
            "checkpoint": str(checkpoint),
            "pictures": pictures(family),
            "scenes": SCENES if family == FAMILIES[-1] else [],
            "lora": f"{family}lora",
        }
        for family, checkpoint in checkpoints.items()
    ]
    (data / "task.json").write_text(json.dumps({"project": str(ROOT), "rounds": rounds}), encoding="utf-8")
    first = checkpoints[FAMILIES[0]]
    run_in_webui("webui_blocks_driver.py", first, data / "task.json", data / "out.npz", data)
    with np.load(data / "out.npz") as file:
        told = json.loads(str(file["told"]))
        return {
            family: {"told": told[number], **{name: file[f"{number} {name}"] for name in pictures(family)}}
            for number, family in enumerate(checkpoints)
        }


@pytest.fixture(scope="module")
def drawn(theirs) -> dict:
    return theirs[FAMILIES[-1]]


@pytest.fixture(scope="module")
def told(theirs) -> dict:
    return theirs[FAMILIES[-1]]["told"]


@pytest.mark.parametrize("family, way, kind", [(family, *case) for family in FAMILIES for case in CASES[family]])
def test_pictures_are_those_of_the_same_lora_without_block_weights(theirs, family, way, kind):
    drawn = theirs[family]
    found = {word: drawn[f"{way}{kind} {word}"] for word in ("plain", "ones", "zeros", "one", "file")}
    none = drawn[f"{way}none"]
    assert len(none) == WAYS[way].get("batch_size", 1)
    assert np.array_equal(found["ones"], found["plain"])
    assert np.array_equal(found["zeros"], none)
    assert np.array_equal(found["one"], found["file"])
    assert differ(none, found["plain"], found["file"])


def differ(*pictures: np.ndarray) -> bool:
    return all(not np.array_equal(a, b) for place, a in enumerate(pictures) for b in pictures[:place])


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("halves", "lora plain"),
        ("one and the rest", "lora plain"),
        ("turns", "lora plain"),
        ("two", "two files"),
        ("renamed", "lora numbers"),
        ("from the end", "text alone"),
        ("to the end", "lora plain"),
    ],
)
def test_tags_add_up_and_steps_are_seen_in_the_picture(drawn, name, same):
    assert np.array_equal(drawn[name], drawn[same])
    assert differ(drawn[same], drawn["none"], drawn["second half"])


def test_each_pass_has_its_own_prompts_weights(drawn):
    assert np.array_equal(drawn["own hires"], drawn["own hires files"])
    assert differ(drawn["own hires"], drawn["own hires turned"], drawn["hires none"], drawn["hires lora one"])
    (infotext,) = drawn["told"]["own hires"]["infotexts"]
    numbers = [infotext.split(f'{words}: "')[1] for words in (", Block weights", "Hires block weights")]
    first, second = (text.split('"')[0].split("lbw=")[1] for text in numbers)
    assert first == vector(FAMILIES[-1], rest=0, **{ONE_BLOCK: ITS_WEIGHT})
    assert second == vector(FAMILIES[-1], rest=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_x_stands_for_its_number(theirs, family):
    drawn = theirs[family]
    assert np.array_equal(drawn["x"], drawn["lora numbers"])
    assert differ(drawn["x"], drawn["lora plain"], drawn["none"])


@pytest.mark.parametrize("family, kind", [(family, kind) for family in FAMILIES for kind in TYPES_OF[family]])
def test_the_saved_file_gives_the_picture_that_the_prompt_gave(theirs, family, kind):
    live, saved = theirs[family][f"{kind} numbers"], theirs[family][f"{kind} saved"]
    difference = np.abs(live.astype(int) - saved.astype(int))
    print(f"{family} {kind}: {difference.max()} grey levels, in {100 * (difference > 0).mean():.2f} % of the values")
    assert differ(live, theirs[family]["none"], theirs[family][f"{kind} plain"])
    assert difference.max() <= 1


def test_the_standalone_app_draws_the_same(theirs, checkpoints, data):
    family = FAMILIES[-1]
    generator = StandaloneGenerator(load_model(checkpoints[family]), data / "Lora")
    fields = {"seed": 3, "steps": 2, "sampler": "Euler", "cfg_scale": 1, "width": 64, "height": 64}
    ours = generator.generate(PictureRequest(pictures(family)["lora numbers"]["prompt"], **fields))
    difference = np.abs(np.asarray(ours).astype(int) - theirs[family]["lora numbers"][0])
    assert difference.max() <= 1


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_understood_is_named_and_the_rest_counts(drawn, name):
    assert FAULTS[name][1] in drawn["told"][f"fault {name}"]["comments"]
    assert np.array_equal(drawn[f"fault {name}"], drawn["lora plain"])


@pytest.mark.parametrize("name", OLD)
def test_the_form_from_before_webui_1_5_is_applied(drawn, name):
    assert np.array_equal(drawn[f"old {name}"], drawn[f"new {name}"])
    assert not np.array_equal(drawn[f"old {name}"], drawn["lora plain"])
    assert drawn["told"][f"old {name}"]["comments"] == ""


def test_the_page_says_nothing_where_nothing_is_wrong(drawn):
    said = {name: each["comments"] for name, each in drawn["told"].items() if name in pictures(FAMILIES[-1])}
    assert {name for name, text in said.items() if text} == {f"fault {name}" for name in FAULTS}


def test_ten_pictures_load_the_files_once_and_leave_memory_flat(told):
    scene = told["ten_in_a_row"]
    assert scene["loads"] <= len(scene["names"])
    assert len(set(scene["tensors"][2:])) == 1
    assert scene["kib"][-1] - scene["kib"][2] < 8 * 1024
    assert scene["names"] == [f"{FAMILIES[-1]}lora", f"{FAMILIES[-1]}loha"]


def test_a_presets_base_that_was_edited_is_seen_though_the_prompt_is_the_same(told):
    assert told["edited_preset"] == {"other": True, "again": True}


def test_schedules_follow_each_passs_own_steps(told):
    assert told["schedules"] == {
        "start=3": [0, 0, 1, 1],
        "stop=3": [1, 1, 0, 0],
        "start=0.5": [0, 0, 1, 1],
        "step=2-4": [0, 1, 1, 0],
        "step=0.2-0.6": [0, 1, 1, 0, 0],
        "stop=2": [1, 1, 0, 0, 0],  # Heun's method evaluates the UNet twice a step, but for the last
        "stop=0.5": [1, 1, 0],  # the WebUI's DDIM takes a step less than it is asked for
        "start=2": [0, 1, 1, 0, 1],
    }


def test_r_and_u_are_drawn_from_the_seed_and_written_down(told):
    scene = told["drawn"]
    assert scene["again"] and scene["typed"]
    numbers = [float(value) for value in scene["numbers"].split(",")]
    assert all(0 <= value <= 1 for value in numbers[:13]) and len(set(numbers)) > 20
    assert all(-0.5 <= value <= 1.5 for value in numbers[13:]) and not all(0 <= value <= 1 for value in numbers[13:])
    assert scene["other"] != scene["numbers"]


def test_a_prompt_is_pasted_as_it_was_typed(told):
    for each in told["pasted"]:
        assert each["pasted"] == each["typed"]


def test_beside_the_established_extension_ours_stands_back_and_says_so(told):
    scene = told["beside_the_other"]
    assert scene["plain"] and scene["acts"]
    assert "LoRA Block Weight is installed" in scene["comments"]


def test_a_job_that_borrows_the_model_finds_its_own_weights(told):
    assert told["weights_after"] == {"merged": True, "after": True, "again": True}


def test_each_axis_of_the_plot_draws_what_its_words_would(told):
    scene = told["plot"]
    assert all(scene["same"].values()), scene["same"]
    assert sorted(f"[LoRA] {label}" for label in scene["same"]) == scene["labels"]


def test_the_plot_refuses_what_it_does_not_know_before_it_draws(told):
    preset, block, file, prompt = told["plot_of_nonsense"]
    assert "'OUTSIDE'" in preset and "'IN77'" in block and "'nobody'" in file and "no LoRA to change" in prompt


def test_the_webuis_methods_are_replaced_once_and_put_back(told):
    assert told["twice_and_disabled"] == {"replaced": True, "once": True, "put back": True}
