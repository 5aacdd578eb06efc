"""Our pictures are the real WebUI's.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter). The checkpoint is
``SD_WEBUI_CKPT``, or the demo's, or a tiny one with random weights.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from lib_lora.models.loader import load_model
from lib_lora.models.sampling import generate

GREY_LEVELS = 3  # rounding in another order; a wrong formula gives dozens

pytestmark = pytest.mark.webui

PLAIN = {
    "prompt": "red cat, (blue dog:1.3), [circle]",
    "negative_prompt": "a (green:0.8) star",
    "seed": 7,
    "steps": 8,
    "sampler_name": "Euler a",
    "cfg_scale": 4.0,
    "width": 128,
    "height": 128,
}
LONG = ", ".join(f"a red cat and (blue:1.2) dog number {number}" for number in range(14))
CASES = {
    **{name: {**PLAIN, "sampler_name": name} for name in ("Euler", "Euler a", "DPM++ 2M Karras", "DPM++ 2M", "DDIM")},
    "long": {**PLAIN, "prompt": LONG},
    "both long": {**PLAIN, "prompt": LONG, "negative_prompt": LONG + " BREAK green", "sampler_name": "DPM++ 2M Karras"},
    "clip skip 2": {**PLAIN, "options": {"CLIP_stop_at_last_layers": 2}},
    "clip skip 2, long, DDIM": {
        **PLAIN,
        "prompt": LONG,
        "sampler_name": "DDIM",
        "steps": 15,
        "options": {"CLIP_stop_at_last_layers": 2},
    },
    "NV noise": {**PLAIN, "options": {"randn_source": "NV"}},
    "editing": {**PLAIN, "prompt": "a [red:blue:0.5] [cat|dog] AND a star :0.6"},
    "uneven size": {**PLAIN, "width": 136, "height": 72},
    "odd characters": {**PLAIN, "prompt": "\u201cred\u201d \uff43\uff41\uff54 &amp; caf\u00e9 \U0001f642"},
}

# What differs between the families: the prompt's way to the UNet, the prediction type, the masked picture.
FAMILY_CASES = {
    "emphasis": {**PLAIN, "negative_prompt": "a (green:0.8) star BREAK dog"},
    "DDIM": {**PLAIN, "sampler_name": "DDIM", "negative_prompt": ""},
    "long, uneven size": {**PLAIN, "prompt": LONG, "sampler_name": "DPM++ 2M Karras", "width": 192, "height": 72},
    "clip skip 2": {**PLAIN, "sampler_name": "Euler", "options": {"CLIP_stop_at_last_layers": 2}},
    "clip skip 1": {**PLAIN, "sampler_name": "Euler"},
    "AND": {**PLAIN, "prompt": "a cat AND a star BREAK dog :0.6"},
    "zero terminal SNR": {**PLAIN, "sampler_name": "Euler", "options": {"sd_noise_schedule": "Zero Terminal SNR"}},
    "SDXL's first encoder skips": {**PLAIN, "options": {"CLIP_stop_at_last_layers": 3, "sdxl_clip_l_skip": True}},
}
INPAINTING_CASES = {name: FAMILY_CASES[name] for name in ("DDIM", "long, uneven size", "clip skip 1", "clip skip 2")}
FAMILIES = ("SD2", "SDXL", "SD1 inpainting", "SD2 inpainting", "SDXL inpainting")


@pytest.fixture(scope="module")
def theirs(webui_checkpoint, run_in_webui, tmp_path_factory) -> dict[str, np.ndarray]:
    return pictures(webui_checkpoint, CASES, run_in_webui, tmp_path_factory.mktemp("driver"))


def pictures(checkpoint, cases, run_in_webui, folder) -> dict[str, np.ndarray]:
    (folder / "cases.json").write_text(json.dumps(list(cases.values())), encoding="utf-8")
    run_in_webui("webui_driver.py", checkpoint, folder / "cases.json", folder / "out.npz", folder / "data")
    with np.load(folder / "out.npz") as made:
        return {name: made[str(index)] for index, name in enumerate(cases)}


@pytest.fixture(scope="module")
def model(webui_checkpoint):
    return load_model(webui_checkpoint)


def ours(model, case) -> np.ndarray:
    options = case.get("options", {})
    model.zero_terminal_snr = options.get("sd_noise_schedule") == "Zero Terminal SNR"
    model.clip_l_skip = options.get("sdxl_clip_l_skip", False)
    return generate(
        model,
        case["prompt"],
        case["negative_prompt"],
        seed=case["seed"],
        steps=case["steps"],
        sampler=case["sampler_name"],
        cfg_scale=case["cfg_scale"],
        width=case["width"],
        height=case["height"],
        clip_skip=options.get("CLIP_stop_at_last_layers", 1),
        randn_source=options.get("randn_source", "CPU"),
    )


def compare(name, model, case, expected):
    difference = np.abs(ours(model, case).astype(int) - expected.astype(int))
    print(f"{name}: at most {difference.max()}, on average {difference.mean():.4f} grey levels")
    assert expected.std() > 5, "a flat picture would prove nothing"
    assert difference.max() <= GREY_LEVELS


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_the_webuis(name, theirs, model):
    compare(name, model, CASES[name], theirs[name])


def test_the_cases_differ_from_each_other(theirs):
    pictures = [pixels for name, pixels in theirs.items() if name not in ("DPM++ 2M", "uneven size")]
    for index, first in enumerate(pictures):
        for second in pictures[index + 1 :]:
            assert np.abs(first.astype(int) - second).max() > GREY_LEVELS


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_the_other_families_are_the_webuis(family, webui_families, run_in_webui, tmp_path):
    checkpoint = webui_families(family)
    cases = INPAINTING_CASES if family.endswith("inpainting") else FAMILY_CASES
    theirs, model = pictures(checkpoint, cases, run_in_webui, tmp_path), load_model(checkpoint)
    for name, case in cases.items():
        compare(f"{family}, {name}", model, case, theirs[name])
    skips_alike = np.array_equal(theirs["clip skip 2"], theirs["clip skip 1"])
    assert skips_alike == (not family.startswith("SD1")), "clip skip is SD1's alone"
