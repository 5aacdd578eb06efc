"""The analyser on the demo's checkpoint: it ranks blocks by what they change in pictures."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from lib_lora.arch.blocks import BLOCK_LISTS
from lib_lora.arch.family import Family
from lib_lora.base.protocols import PictureRequest
from lib_lora.base.signals import Control
from lib_lora.evaluate.album import Album
from lib_lora.evaluate.analyse import analyse, lora_blocks
from lib_lora.evaluate.options import AnalyseConfig
from lib_lora.hosts.standalone.generator import StandaloneGenerator
from lib_lora.models.loader import load_model

from .conftest import block_tensors

pytestmark = pytest.mark.slow
ALL = BLOCK_LISTS[Family.SD1][26]
# Of a LoRA in all blocks one block's delta is scaled by 3 and another's by 0.3; one is merged from single-block LoRAs
# at 1 and 0.3.
LORAS = {"all": {**dict.fromkeys(ALL, 1.0), "OUT10": 3.0, "OUT11": 0.3}, "merged": {"OUT11": 1.0, "OUT10": 0.3}}
CHECKPOINT = Path(__file__).parents[2] / "demo" / "model" / "lora-studio-demo.safetensors"


@pytest.fixture(scope="module")
def model():
    return load_model(CHECKPOINT)


@pytest.mark.parametrize("name", list(LORAS))
def test_the_ranking_follows_the_picture_change_measured_apart(model, tmp_path, name):
    make, scales = block_tensors(CHECKPOINT), LORAS[name]
    save_file(make(scales), str(tmp_path / f"{name}.safetensors"))
    for block, scale in scales.items():
        save_file(make({block: scale}), str(tmp_path / f"only-{block}.safetensors"))
    generator = StandaloneGenerator(model, tmp_path)

    def picture(prompt: str) -> np.ndarray:
        request = PictureRequest(prompt, seed=5, steps=3, sampler="Euler", cfg_scale=3.0, width=64, height=64)
        return np.asarray(generator.generate(request), dtype=float) / 255

    plain = picture("zorb, red dog")
    apart = {
        block: np.abs(picture(f"zorb, red dog <lora:only-{block}:1>") - plain).mean() if block in scales else 0.0
        for block in ALL
    }
    config = AnalyseConfig(
        lora=name, prompts=("zorb, red dog",), seeds=(5,), steps=3, sampler="Euler", cfg_scale=3.0, width=64,
        height=64, ways="alone",
    )  # fmt: skip
    blocks = lora_blocks(tmp_path / f"{name}.safetensors")
    album = Album(tmp_path / "pictures")
    events = list(
        analyse(config, blocks, lambda _: contextlib.nullcontext(generator), album, tmp_path / "a.png", Control())
    )
    rows = events[-1].report["blocks"]
    print(name, [(row["block"], round(row["alone"]["mean"], 4)) for row in rows[:6]])
    assert [row["block"] for row in rows] == sorted(ALL, key=lambda block: -apart[block])
    for row in rows:
        assert row["alone"]["mean"] == pytest.approx(apart[row["block"]], abs=1e-12)
    assert {row["block"] for row in rows if row["alone"] != {"mean": 0.0, "changed": 0.0}} <= set(scales)
