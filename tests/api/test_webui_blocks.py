"""Grids and analyses in a running WebUI: their pictures are its own, and it is as before afterwards."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lora.weights.base_model import BaseModel
from lib_lora.weights.layers import block_of_key
from webui_server import WebuiServer

pytestmark = [pytest.mark.webui, pytest.mark.slow]

PROMPT, SEED = "zorb, red dog", 5
PICTURES = {
    **{"prompts": [PROMPT], "seeds": [SEED], "steps": 4, "sampler": "Euler", "cfg_scale": 3.0},
    **{"width": 128, "height": 128},
}
# One block's delta is scaled by 3 and another's by 0.3.
SCALES = {"BASE": 1.0, "IN01": 1.0, "OUT10": 3.0, "OUT11": 0.3}
LOW_RANK = ("lora_up.weight", "lora_down.weight")
OTHER = "more/other.safetensors"


@pytest.fixture(scope="module")
def server(start_webui) -> WebuiServer:
    started = start_webui("--api")
    write_loras(started)
    write_faulty(started)
    write_other(started.checkpoint)
    started.post("/sdapi/v1/refresh-checkpoints", {})
    # It loads its model behind its start, and cannot do so twice at once: a picture waits for that.
    picture(started)
    return started


def write_other(checkpoint: Path) -> None:
    """The checkpoint with another middle block, with its yaml."""
    path = checkpoint.parent / OTHER
    path.parent.mkdir()
    tensors = load_file(checkpoint)
    for key, tensor in tensors.items():
        if ".middle_block." in key and tensor.dim() > 1:
            tensors[key] = tensor * 0.5
    save_file(tensors, str(path))
    shutil.copyfile(checkpoint.with_suffix(".yaml"), path.with_suffix(".yaml"))


def write_loras(server: WebuiServer) -> None:
    """The LoRA "blocks", and for each of its blocks a file that holds that block only."""
    layers: dict[str, Any] = {}
    for layer in BaseModel(server.checkpoint).layers.values():
        block = block_of_key(layer.key)
        if len(layer.shape) > 1 and (block not in layers or math.prod(layer.shape) > math.prod(layers[block].shape)):
            layers[block] = layer
    whole = {}
    for number, (block, scale) in enumerate(SCALES.items()):
        out, size, *kernel = layers[block].shape
        draw = torch.Generator().manual_seed(number)
        own = {
            "lora_up.weight": 0.5 * scale * torch.randn(out, 4, *[1] * len(kernel), generator=draw),
            "lora_down.weight": torch.randn(4, size, *kernel, generator=draw),
            "alpha": torch.tensor(4.0),
        }
        tensors = {f"{layers[block].key}.{suffix}": tensor for suffix, tensor in own.items()}
        save_file(tensors, str(server.lora_dir / f"only-{block}.safetensors"))
        whole |= tensors
    save_file(whole, str(server.lora_dir / "blocks.safetensors"))


def write_faulty(server: WebuiServer) -> None:
    """A LoRA for SDXL, one whose layers have other sizes, one of no layer that there is, and one that is no LoRA."""
    sizes = {f"lora_unet_mid_block_attentions_0_proj_in.{name}": torch.ones(3, 3) for name in LOW_RANK}
    for name, tensors in {
        "large": {f"lora_te2_text_model_encoder_layers_0_mlp_fc1.{name}": torch.ones(2, 2) for name in LOW_RANK},
        "sizes": sizes,
        "elsewhere": {f"lora_unet_up_blocks_9_attentions_0_proj_in.{name}": torch.ones(2, 2) for name in LOW_RANK},
    }.items():
        save_file(tensors, str(server.lora_dir / f"{name}.safetensors"))
    (server.lora_dir / "broken.safetensors").write_bytes(b"nothing of a LoRA")


def picture(server: WebuiServer, tag: str = "", **more: Any) -> np.ndarray:
    """By the WebUI's own route, int [h, w, 3]."""
    request = {"prompt": f"{PROMPT} {tag}".strip(), "seed": SEED, "steps": 4, "cfg_scale": 3.0, "sampler_name": "Euler"}
    answer = server.post("/sdapi/v1/txt2img", {**request, "width": 128, "height": 128, **more})
    return pixels(base64.b64decode(answer["images"][0]))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def added(server: WebuiServer, kind: str, **values: Any) -> dict[str, Any]:
    return server.post("/lora-studio/jobs", {"kind": kind, "values": {**PICTURES, **values}})


def ended(server: WebuiServer, job: dict[str, Any], seconds: float = 240) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while not job["ended"]:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
        job = server.get(f"/lora-studio/jobs/{job['id']}")
    return job


def done(server: WebuiServer, kind: str, **values: Any) -> dict[str, Any]:
    job = ended(server, added(server, kind, **values))
    assert job["status"] == "done", job["error"]
    return job


def fetched(server: WebuiServer, job: dict[str, Any], name: str) -> bytes:
    with urllib.request.urlopen(f"{server.url}/lora-studio/jobs/{job['id']}/pictures/{name}", timeout=60) as answer:
        return answer.read()


def loaded(server: WebuiServer) -> str:
    (name,) = [each["name"] for each in server.get("/lora-studio/blocks")["checkpoints"] if each["loaded"]]
    return name


def test_a_grid_s_pictures_are_those_of_txt2img(server):
    job = done(server, "grid", loras=["blocks"], weights=["OUTALL", ",".join(["0"] * 26)], unet=[0.5, 1])
    cells = {tuple(cell["place"]): cell for cell in job["grid"]["cells"]}
    plain = picture(server)
    for place, tag in (
        ((0, 0), ""),
        ((0, 1), "<lora:blocks:0.5:0.5:lbw=OUTALL>"),
        ((1, 1), "<lora:blocks:1:1:lbw=OUTALL>"),
        ((1, 2), ""),  # all blocks off
    ):
        made = pixels(fetched(server, job, cells[place]["picture"]))
        assert np.array_equal(made, picture(server, tag)), place
        assert cells[place]["change"] == pytest.approx(np.abs(made - plain).mean() / 255)
    assert cells[1, 1]["change"] > 0 == cells[1, 2]["change"]
    infotext = Image.open(io.BytesIO(fetched(server, job, cells[1, 1]["picture"]))).info["parameters"]
    assert infotext.startswith(f"{PROMPT} <lora:blocks:1:1:lbw=OUTALL>\n")


def test_the_webui_s_current_settings_count(server):
    before = server.get("/sdapi/v1/options")["CLIP_stop_at_last_layers"]
    server.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": 2})
    try:
        own = done(server, "grid", loras=["blocks"])
        chosen = done(server, "grid", loras=["blocks"], clip_skip=1)
        assert server.get("/sdapi/v1/options")["CLIP_stop_at_last_layers"] == 2
        expected = picture(server)
    finally:
        server.post("/sdapi/v1/options", {"CLIP_stop_at_last_layers": before})
    for job, wanted in ((own, expected), (chosen, picture(server, override_settings={"CLIP_stop_at_last_layers": 1}))):
        assert np.array_equal(pixels(fetched(server, job, job["grid"]["cells"][0]["picture"])), wanted)


def test_the_analyser_ranks_by_the_picture_change_measured_apart(server):
    job = done(server, "analyse", lora="blocks", ways="alone")
    plain = picture(server)
    apart = {block: np.abs(picture(server, f"<lora:only-{block}:1>") - plain).mean() / 255 for block in SCALES}
    ranked = [row["block"] for row in job["blocks"]]
    assert ranked[:4] == sorted(apart, key=apart.get, reverse=True)
    for row in job["blocks"]:
        assert row["alone"]["mean"] == pytest.approx(apart.get(row["block"], 0.0), abs=1e-9)
        assert row["block"] in SCALES or (row["alone"] == {"mean": 0.0, "changed": 0.0} and not row["pictures"])
    print("analyser:", {row["block"]: round(row["alone"]["mean"], 4) for row in job["blocks"][:5]})


def test_another_checkpoint_is_loaded_for_a_while(server):
    before = loaded(server)
    job = done(server, "grid", loras=["blocks"], checkpoints=[before, OTHER])
    assert loaded(server) == before
    rows = {cell["values"]["checkpoint"]: cell for cell in job["grid"]["cells"] if cell["values"]["lora"] is None}
    made = {name: pixels(fetched(server, job, cell["picture"])) for name, cell in rows.items()}
    assert np.array_equal(made[before], picture(server))
    assert not np.array_equal(made[before], made[OTHER])


@pytest.mark.parametrize("kind, values", [("grid", {"loras": ["large"]}), ("analyse", {"lora": "large"})])
def test_a_lora_for_another_family_is_refused_at_once(server, kind, values):
    with pytest.raises(urllib.error.HTTPError) as caught:
        added(server, kind, **values)
    error = json.loads(caught.value.read())["error"]
    assert caught.value.code == 422 and error["came"] == "large" and "is made for SDXL" in error["message"]


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("<lora:nobody:1>", "nobody"),
        ("<lora:broken:1>", "<lora:broken>"),
        ("<lora:sizes:1>", "sizes (1)"),
        ("<lora:elsewhere:1>", "<lora:elsewhere>"),
        ("<lora:only-BASE:1:lbw=OUTSIDE>", "'OUTSIDE'"),
    ],
)
def test_a_lora_that_does_not_act_as_the_prompt_says_ends_the_job_and_is_named(server, tag, said):
    job = ended(server, added(server, "grid", loras=["blocks"], prompts=[f"{PROMPT} {tag}"]))
    assert (job["status"], job["grid"]["cells"]) == ("failed", [])
    assert said in job["error"]["message"], job["error"]


def test_what_does_not_act_ends_an_analysis_too(server):
    job = ended(server, added(server, "analyse", lora="sizes"))
    assert job["status"] == "failed" and "sizes" in job["error"]["message"]
    assert all(row["alone"]["mean"] == 0 for row in job["blocks"])


@pytest.mark.parametrize("of_another", [False, True])
def test_who_chooses_another_checkpoint_meanwhile_has_it_and_no_cell_is_made_with_it(server, of_another):
    """A grid of another checkpoint keeps the WebUI: the choice waits for its end, and counts."""
    before = loaded(server)
    titles = {each["model_name"]: each["title"] for each in server.get("/sdapi/v1/sd-models")}
    chosen = before if of_another else OTHER
    (title,) = [title for title in titles.values() if title.startswith(chosen)]
    unet = [0.05 * number for number in range(1, 40)]
    job = added(server, "grid", loras=["blocks"], unet=unet, **({"checkpoints": [OTHER]} if of_another else {}))
    while not server.get(f"/lora-studio/jobs/{job['id']}")["grid"]["cells"]:
        time.sleep(0.05)
    server.post("/sdapi/v1/options", {"sd_model_checkpoint": title})
    job = ended(server, job)
    try:
        assert job["status"] == "failed" and "another checkpoint" in job["error"]["message"]
        assert loaded(server) == chosen
    finally:
        (own,) = [title for title in titles.values() if title.startswith(before)]
        server.post("/sdapi/v1/options", {"sd_model_checkpoint": own})
    assert loaded(server) == before


def test_somebody_s_picture_comes_between_two_of_a_grid(server):
    alone = picture(server)
    job = added(server, "grid", loras=["blocks"], unet=[0.1 * number for number in range(1, 13)])
    while not server.get(f"/lora-studio/jobs/{job['id']}")["grid"]["cells"]:
        time.sleep(0.05)
    between = picture(server)
    assert not server.get(f"/lora-studio/jobs/{job['id']}")["ended"]
    assert np.array_equal(between, alone)
    assert ended(server, job)["status"] == "done"


@pytest.mark.parametrize("how", ["the page's Stop", "the WebUI's Interrupt"])
def test_a_stop_is_at_once(server, how):
    job = added(server, "grid", loras=["blocks"], steps=1000)
    while not server.get("/sdapi/v1/progress")["state"]["sampling_step"]:
        time.sleep(0.05)
    began = time.monotonic()
    if how == "the page's Stop":
        server.post(f"/lora-studio/jobs/{job['id']}/stop", {})
    else:
        server.post("/sdapi/v1/interrupt", {})
    assert ended(server, job, 20)["status"] == "stopped"
    print(f"{how}: {time.monotonic() - began:.1f} s")
    assert not server.get("/sdapi/v1/progress")["state"]["job"]


def test_what_the_checkpoint_knows_is_looked_up_on_the_loaded_model(server):
    before = picture(server)
    picture(server, "<lora:blocks:1>")  # which the WebUI leaves in the weights
    job = done(server, "knowledge", tags=["dog", "zorb"])
    report = job["tool"]["report"]
    assert [row["tag"] for row in report["tags"]] == ["dog", "zorb"] and all(
        row["effect"] > 0 for row in report["tags"]
    )
    print("knows:", {row["tag"]: round(row["over_nonsense"], 2) for row in report["tags"]})
    assert np.array_equal(picture(server), before)


def test_a_page_s_answer_does_not_wait_for_the_pictures(server):
    job = added(server, "grid", loras=["blocks"], steps=200)
    answers: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        server.get("/lora-studio/blocks")
        answers.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.post(f"/lora-studio/jobs/{job['id']}/stop", {})
    ended(server, job)
    assert len(answers) == 3 and max(answers) < 20
