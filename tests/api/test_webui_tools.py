"""The tools through the routes of a running WebUI: their files are offered there, and draw what they should."""

from __future__ import annotations

import base64
import io
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lora.weights.base_model import BaseModel
from webui_server import WebuiServer, prepare_data_dir

pytestmark = [pytest.mark.webui, pytest.mark.slow]

WORDS = "zorb, red dog"
PLACES = (".middle_block.", ".output_blocks.2.", "layers.0.", "layers.1.mlp")
TUNED, BAKED = "more/tuned.safetensors", "baked.safetensors"


def noise(shape: tuple[int, ...], seed: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write_loras(checkpoint: Path, folder: Path) -> None:
    """Two LoRAs, "one" and "sub/two"."""
    wanted = [
        layer for layer in BaseModel(checkpoint).layers.values() if any(place in layer.weight for place in PLACES)
    ]
    (folder / "sub").mkdir()
    for number, (name, rank) in enumerate((("one", 4), ("sub/two", 6))):
        tensors = {}
        for seed, layer in enumerate(layer for layer in wanted if len(layer.shape) > 1):
            out, size, *kernel = layer.shape
            up = noise((out, rank, *[1] * len(kernel)), 100 * number + seed, 0.1)
            down = noise((rank, size, *kernel), 500 + 100 * number + seed, 0.1)
            tensors |= {f"{layer.key}.lora_up.weight": up, f"{layer.key}.lora_down.weight": down}
            tensors[f"{layer.key}.alpha"] = torch.tensor(float(rank))
        save_file(tensors, str(folder / f"{name}.safetensors"))


def write_tuned(checkpoint: Path, path: Path) -> None:
    """The checkpoint with some of its layers moved, with its yaml."""
    path.parent.mkdir()
    tensors = load_file(checkpoint)
    for seed, (key, tensor) in enumerate(sorted(tensors.items())):
        if any(place in key for place in PLACES) and key.endswith("weight") and tensor.dim() > 1:
            tensors[key] = (tensor + noise(tuple(tensor.shape), seed, 0.01)).to(tensor.dtype)
    save_file(tensors, str(path))
    shutil.copyfile(checkpoint.with_suffix(".yaml"), path.with_suffix(".yaml"))


@pytest.fixture(scope="module")
def server(start_webui, tmp_path_factory) -> WebuiServer:
    data = tmp_path_factory.mktemp("webui_tools")
    checkpoint = prepare_data_dir(data)
    write_loras(checkpoint, data / "models" / "Lora")
    write_tuned(checkpoint, checkpoint.parent / TUNED)
    started = start_webui("--api", data_dir=data)
    # It loads its model behind its start, and cannot do so twice at once: a picture waits for that.
    picture(started)
    return started


@pytest.fixture(scope="module")
def made(server) -> Callable[..., dict[str, Any]]:
    """Does the work of a tool, once for the same values: ``made("resize", model="one", ...)`` is the finished job."""
    done: dict[str, dict[str, Any]] = {}

    def make(kind: str, **values: Any) -> dict[str, Any]:
        key = f"{kind} {sorted(values.items())}"
        if key not in done:
            server.post(f"/lora-studio/tools/{kind}/plan", {"values": values})
            job = server.post("/lora-studio/jobs", {"kind": kind, "values": values})
            deadline = time.monotonic() + 120
            while not job["ended"]:
                assert time.monotonic() < deadline
                time.sleep(0.1)
                job = server.get(f"/lora-studio/jobs/{job['id']}")
            assert job["status"] == "done", job["error"]
            assert "could not be told" not in (job["note"] or "")
            done[key] = job
        return done[key]

    return make


def picture(server: WebuiServer, prompt: str = "", checkpoint: str | None = None) -> np.ndarray:
    """uint8 [h, w, 3]; of the checkpoint that is chosen where none is named."""
    if checkpoint is not None:
        server.post("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})
    request = {"prompt": f"{WORDS} {prompt}", "seed": 5, "steps": 4, "cfg_scale": 3.0, "width": 128, "height": 128}
    answer = server.post("/sdapi/v1/txt2img", {**request, "sampler_name": "Euler"})
    image = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    return np.asarray(image.convert("RGB")).astype(int)


def levels(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first - second).max())


def bake(made: Callable[..., dict], server: WebuiServer, strength: float, name: str = "baked") -> dict[str, Any]:
    prompt = f"<lora:one:{strength}> <lora:sub/two:-0.4:0.8>"
    return made("bake", checkpoint=str(server.checkpoint), prompt=prompt, output=name, overwrite=True)


@pytest.fixture(scope="module")
def plain(server) -> np.ndarray:
    return picture(server, checkpoint=server.checkpoint.name)


def test_the_page_is_offered_the_webuis_files(server):
    schema = server.get("/lora-studio/tools")
    assert {"one", "sub/two"} <= {each["name"] for each in schema["loras"]}
    assert {server.checkpoint.name, TUNED} <= {each["name"] for each in schema["checkpoints"]}
    assert schema["subfolders"]["lora"] == ["sub"] and schema["subfolders"]["checkpoint"] == ["more"]


def test_an_extracted_lora_turns_the_original_into_the_tuned_checkpoint(server, made, plain):
    values = {"model_org": server.checkpoint.name, "model_tuned": TUNED, "conv_dim": 2000, "dim": 2000}
    job = made("extract", **values, output="extracted", output_subfolder="new", save_precision="float")
    assert job["tool"]["name"] == "new/extracted"
    assert "extracted" in [each["name"] for each in server.get("/sdapi/v1/loras")]
    expected = picture(server, checkpoint=TUNED)
    difference = levels(picture(server, "<lora:extracted:1>", server.checkpoint.name), expected)
    print(f"extracted against tuned: {difference} grey levels of {levels(plain, expected)}")
    assert levels(plain, expected) > 20 and difference <= 1


def test_a_converted_lora_draws_as_before(server, made, plain):
    made("convert", model="one", output="converted", names="ldm")
    expected = picture(server, "<lora:one:1>")
    assert levels(plain, expected) > 20
    assert levels(picture(server, "<lora:converted:1>"), expected) <= 1


def test_a_merged_lora_draws_as_the_prompt_does(server, made, plain):
    separate = "<lora:one:0.7> <lora:two:-0.4:0.8>"
    made("merge", prompt="<lora:one:0.7> <lora:sub/two:-0.4:0.8>", output="merged", save_precision="float")
    expected = picture(server, separate)
    difference = levels(picture(server, "<lora:merged:1>"), expected)
    print(f"merged against the prompt: {difference} grey levels of {levels(plain, expected)}")
    assert levels(plain, expected) > 20 and difference <= 1


def test_a_resized_lora_is_offered_and_draws_nearly_as_before(server, made, plain):
    made("resize", model="sub/two", output="resized", new_rank=5)
    before, after = picture(server, "<lora:two:1>"), picture(server, "<lora:resized:1>")
    whole = np.abs(before - plain).mean()
    print(f"rank 6 to 5: {np.abs(after - before).mean():.2f} grey levels of {whole:.2f}")
    assert 0 < np.abs(after - before).mean() < whole / 2


def test_a_baked_checkpoint_is_offered_and_draws_what_the_loras_do(server, made, plain):
    job = bake(made, server, 0.7)
    assert job["tool"]["output"] == str(server.checkpoint.parent / BAKED)
    assert BAKED in [each["title"].split(" [")[0] for each in server.get("/sdapi/v1/sd-models")]
    assert BAKED in [each["name"] for each in server.get("/lora-studio/tools")["checkpoints"]]
    expected = picture(server, "<lora:one:0.7> <lora:two:-0.4:0.8>", server.checkpoint.name)
    difference = levels(picture(server, checkpoint=BAKED), expected)
    print(f"baked against the prompt: {difference} grey levels of {levels(plain, expected)}")
    assert levels(plain, expected) > 20 and difference <= 1


def test_the_loaded_checkpoint_is_loaded_anew_when_it_is_baked_over(server, made):
    bake(made, server, 0.7)
    before = picture(server, checkpoint=BAKED)
    values = {"checkpoint": server.checkpoint.name, "prompt": "<lora:one:-0.9> <lora:sub/two:-0.4:0.8>"}
    plan = server.post("/lora-studio/tools/bake/plan", {"values": {**values, "output": "baked"}})
    assert plan["exists"] and "load it anew" in plan["warnings"][0]
    bake(made, server, -0.9)
    chosen = server.get("/sdapi/v1/options")["sd_model_checkpoint"]
    assert chosen.split(" [")[0] == BAKED, "the choice stays, whatever --ckpt names"
    after = picture(server)
    assert server.get("/sdapi/v1/options")["sd_model_checkpoint"].split(" [")[0] == BAKED
    expected = picture(server, "<lora:one:-0.9> <lora:two:-0.4:0.8>", server.checkpoint.name)
    print(f"baked over: {levels(after, expected)} grey levels of {levels(before, expected)}")
    assert levels(before, expected) > 20 and levels(after, expected) <= 1
    assert levels(picture(server, checkpoint=BAKED), expected) <= 1


def test_what_the_webui_keeps_in_memory_of_a_file_goes_with_it(server, made):
    """With "Maximum number of checkpoints loaded at the same time" and "Checkpoints to cache in RAM"."""
    settings = {"sd_checkpoints_limit": 2, "sd_checkpoint_cache": 2}
    before = {name: server.get("/sdapi/v1/options")[name] for name in settings}
    server.post("/sdapi/v1/options", settings)
    try:
        bake(made, server, 0.3, "kept")
        picture(server, checkpoint="kept.safetensors")
        picture(server, checkpoint=server.checkpoint.name)
        bake(made, server, -0.6, "kept")
        expected = picture(server, "<lora:one:-0.6> <lora:two:-0.4:0.8>", server.checkpoint.name)
        assert levels(picture(server, checkpoint="kept.safetensors"), expected) <= 1
    finally:
        server.post("/sdapi/v1/options", before)


def test_the_charts_are_there(server, made):
    for kind, values in (("inspect", {"model": "one"}), ("compare", {"first": "one", "second": "sub/two"})):
        job = made(kind, **values)
        assert job["tool"]["picture"] and job["tool"]["report"]["blocks"]
        url = f"{server.url}/lora-studio/jobs/{job['id']}/picture"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.read(4) == b"\x89PNG"


def test_an_edited_title_is_the_webuis(server, made):
    made("inspect", model="one", set=["ss_output_name=zorb the first"])
    alias = {each["name"]: each["alias"] for each in server.get("/sdapi/v1/loras")}
    assert alias["one"] == "zorb the first"


def test_the_log_is_clean(server):
    log = server.log.read_text("utf-8", "replace")
    assert "Traceback" not in log and "loading fallback" not in log
