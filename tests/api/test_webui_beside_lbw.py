"""A running WebUI with sd-webui-lora-block-weight installed as well: block weights are left to that."""

from __future__ import annotations

import base64
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lbw_reference import needs_lbw
from lib_lora.weights.base_model import BaseModel
from webui_server import WebuiServer, prepare_data_dir

pytestmark = [pytest.mark.webui, pytest.mark.slow, needs_lbw]

PRESETS = "NONE:" + ",".join(["0"] * 17)
SENTENCE = "LoRA Block Weight is installed: block weights in prompts are left to it"


@pytest.fixture(scope="module")
def server(start_webui, tmp_path_factory) -> WebuiServer:
    data_dir = tmp_path_factory.mktemp("beside")
    prepare_data_dir(data_dir)
    shutil.copytree(Path(os.environ["LBW_DIR"]), data_dir / "extensions" / "sd-webui-lora-block-weight")
    started = start_webui("--api", data_dir=data_dir)
    layers = BaseModel(started.checkpoint).layers.values()
    (layer,) = [layer for layer in layers if "mid_block_attentions_0" in layer.key and layer.key.endswith("attn1_to_v")]
    out, size = layer.shape
    draw = torch.Generator().manual_seed(0)
    own = {"up": torch.randn(out, 4, generator=draw), "down": torch.randn(4, size, generator=draw)}
    tensors = {f"{layer.key}.lora_{name}.weight": tensor for name, tensor in own.items()}
    save_file(tensors, str(started.lora_dir / "zorb.safetensors"))
    return started


def picture(server: WebuiServer, tag: str, *, active: bool) -> np.ndarray:
    request = {"prompt": f"red dog {tag}", "seed": 5, "steps": 4, "sampler_name": "Euler", "width": 64, "height": 64}
    scripts = {"LoRA Block Weight": {"args": [PRESETS, active]}}
    answer = server.post("/sdapi/v1/txt2img", {**request, "alwayson_scripts": scripts})
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))


def test_ours_leaves_the_words_to_it_and_says_so(server):
    none, plain = (picture(server, tag, active=False) for tag in ("", "<lora:zorb:1>"))
    assert not np.array_equal(none, plain)
    assert SENTENCE not in server.log.read_text("utf-8", "replace")
    assert np.array_equal(picture(server, "<lora:zorb:1:lbw=NONE>", active=False), plain)
    assert SENTENCE in server.log.read_text("utf-8", "replace")
    assert np.array_equal(picture(server, "<lora:zorb:1:lbw=NONE>", active=True), none)
    assert np.array_equal(picture(server, "<lora:zorb:1>", active=False), plain)
