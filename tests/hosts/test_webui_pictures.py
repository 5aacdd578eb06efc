"""Our pictures are the real WebUI's.

Wants ``SD_WEBUI_DIR`` (a checkout of A1111 v1.10.1) and ``SD_WEBUI_PYTHON`` (its interpreter). The checkpoint is
``SD_WEBUI_CKPT``, or the demo's, or a tiny one with random weights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lib_lora.models.loader import load_model
from lib_lora.models.sampling import generate

WEBUI, PYTHON = os.environ.get("SD_WEBUI_DIR"), os.environ.get("SD_WEBUI_PYTHON")
HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "demo" / "model"
GREY_LEVELS = 3  # rounding in another order; a wrong formula gives dozens

pytestmark = pytest.mark.skipif(
    not (WEBUI and PYTHON), reason="SD_WEBUI_DIR and SD_WEBUI_PYTHON do not name a WebUI and its interpreter"
)

PLAIN = {"prompt": "red cat, (blue dog:1.3), [circle]", "negative_prompt": "a (green:0.8) star", "seed": 7, "steps": 8,
         "sampler_name": "Euler a", "cfg_scale": 4.0, "width": 128, "height": 128}
LONG = ", ".join(f"a red cat and (blue:1.2) dog number {number}" for number in range(14))
CASES = {
    **{name: {**PLAIN, "sampler_name": name} for name in ("Euler", "Euler a", "DPM++ 2M Karras", "DPM++ 2M", "DDIM")},
    "long": {**PLAIN, "prompt": LONG},
    "both long": {**PLAIN, "prompt": LONG, "negative_prompt": LONG + " BREAK green", "sampler_name": "DPM++ 2M Karras"},
    "clip skip 2": {**PLAIN, "options": {"CLIP_stop_at_last_layers": 2}},
    "clip skip 2, long, DDIM": {**PLAIN, "prompt": LONG, "sampler_name": "DDIM", "steps": 15,
                                "options": {"CLIP_stop_at_last_layers": 2}},
    "NV noise": {**PLAIN, "options": {"randn_source": "NV"}},
    "editing": {**PLAIN, "prompt": "a [red:blue:0.5] [cat|dog] AND a star :0.6"},
    "uneven size": {**PLAIN, "width": 136, "height": 72},
    "odd characters": {**PLAIN, "prompt": "\u201cred\u201d \uff43\uff41\uff54 &amp; caf\u00e9 \U0001f642"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_checkpoint) -> Path:
    """The checkpoint where its yaml names the text encoder's folder absolutely: the WebUI knows no other way."""
    demos = sorted(DEMO.glob("*.safetensors"))
    source = Path(os.environ.get("SD_WEBUI_CKPT") or (demos[0] if demos else tiny_checkpoint)).resolve()
    copy = tmp_path_factory.mktemp("webui") / source.name
    shutil.copyfile(source, copy)
    config = source.with_suffix(".yaml")
    if config.is_file():
        text = re.sub(r"(?m)^(\s*version:\s*)(\S+)", lambda m: m[1] + absolute(m[2], source.parent), config.read_text("utf-8"))
        copy.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return copy


def absolute(version: str, folder: Path) -> str:
    version = version.strip("'\"")
    return str(folder / version) if (folder / version).is_dir() else version


@pytest.fixture(scope="module")
def theirs(checkpoint, tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cases.json").write_text(json.dumps(list(CASES.values())), encoding="utf-8")
    command = [PYTHON, HERE / "webui_driver.py", WEBUI, checkpoint, folder / "cases.json", folder / "out.npz", folder / "data"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(folder / "out.npz") as pictures:
        return {name: pictures[str(index)] for index, name in enumerate(CASES)}


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_the_webuis(name, theirs, model):
    case = CASES[name]
    options = case.get("options", {})
    ours = generate(
        model, case["prompt"], case["negative_prompt"], seed=case["seed"], steps=case["steps"],
        sampler=case["sampler_name"], cfg_scale=case["cfg_scale"], width=case["width"], height=case["height"],
        clip_skip=options.get("CLIP_stop_at_last_layers", 1), randn_source=options.get("randn_source", "CPU"),
    )
    difference = np.abs(ours.astype(int) - theirs[name].astype(int))
    print(f"{name}: at most {difference.max()}, on average {difference.mean():.4f} grey levels")
    assert theirs[name].std() > 5, "a flat picture would prove nothing"
    assert difference.max() <= GREY_LEVELS


def test_the_cases_differ_from_each_other(theirs):
    pictures = [pixels for name, pixels in theirs.items() if name not in ("DPM++ 2M", "uneven size")]
    for index, first in enumerate(pictures):
        for second in pictures[index + 1 :]:
            assert np.abs(first.astype(int) - second).max() > GREY_LEVELS
