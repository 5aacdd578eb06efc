"""Grids, analyses and looks at what a checkpoint knows, as jobs."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from lib_lora.base.errors import StudioError
from lib_lora.hosts.standalone.generator import StandaloneGenerator
from lib_lora.jobs.evaluate_form import evaluate_forms, prompt_lists, read_form
from lib_lora.jobs.evaluate_job import evaluation_view, table_of
from lib_lora.weights.blocks.presets import save_preset
from tiny_loras import write_lora

from .conftest import wait_for

LOW_RANK = ("lora_up.weight", "lora_down.weight")
SMALL = {"prompts": ["a zorb"], "seeds": [1, 2], "steps": 2, "width": 64, "height": 64}
VALUES = {
    "grid": {**SMALL, "loras": ["zorb"], "unet": [0.5, 1]},
    "analyse": {**SMALL, "lora": "zorb"},
    "knowledge": {**SMALL, "tags": ["1girl"]},
}


@pytest.fixture
def loras(host):
    write_lora(host.loras / "zorb.safetensors")
    write_lora(host.loras / "people" / "ann.safetensors", seed=1)
    return host.loras


@pytest.fixture
def made(monkeypatch):
    """The requests of all pictures that are made; ``made.each`` is called before each."""
    real = StandaloneGenerator.generate

    class Made(list):
        each = staticmethod(lambda: None)

    requests = Made()

    def generate(self, request, **more):
        requests.append(request)
        requests.each()
        return real(self, request, **more)

    monkeypatch.setattr(StandaloneGenerator, "generate", generate)
    return requests


@pytest.mark.parametrize("kind", list(VALUES))
def test_a_job_of_each_kind_makes_pictures_and_a_table(host, loras, open_queue, kind):
    job = open_queue(host).add(kind, VALUES[kind])
    wait_for(lambda: job.status not in ("queued", "running"))
    view = job.view()
    assert (view["status"], view["error"], view["progress"], view["way"]) == ("done", None, None, "live")
    assert view["name"] == ("1girl" if kind == "knowledge" else "zorb") and view["tool"]["picture"] is True
    found = evaluation_view(job)
    if kind == "analyse":
        assert [row["block"] for row in found["blocks"][:2]] in (["BASE", "M00"], ["M00", "BASE"])
        names = found["blocks"][0]["pictures"]["alone"]
    else:
        names = [cell["picture"] for cell in found["grid"]["cells"]]
    assert names and all(job.picture(name).is_file() for name in names)
    assert len(table_of(job).splitlines()) == 1 + len(found.get("blocks") or found["grid"]["cells"])
    with pytest.raises(StudioError, match="no such picture"):
        job.picture("../job.json")


def test_a_stop_keeps_what_there_is_and_done_again_makes_the_rest(host, loras, open_queue, made):
    queue = open_queue(host, start=False)
    job = queue.add("grid", VALUES["grid"])
    made.each = lambda: len(made) == 4 and queue.stop(job.id)
    queue.start()
    wait_for(lambda: job.status == "stopped")
    assert len(made) == 4 and len(evaluation_view(job)["grid"]["cells"]) == 3
    assert "retry" in job.can() and "pause" not in job.can()
    queue.retry(job.id)
    wait_for(lambda: job.status == "done")
    assert len(made) == 7 and len({(each.prompt, each.seed) for each in made}) == 6
    assert len(evaluation_view(job)["grid"]["cells"]) == 6


@pytest.mark.parametrize("change", ["lora", "preset", "preset in a prompt", "LoRA in a prompt"])
def test_pictures_of_what_has_changed_since_are_made_again(host, loras, open_queue, made, change):
    save_preset(host.data_dir, "MINE", ",".join(["1"] * 12))
    queue = open_queue(host, start=False)
    prompt = {"preset in a prompt": "<lora:ann:1:lbw=THEIRS>", "LoRA in a prompt": "<lora:ann:1>"}.get(change, "")
    save_preset(host.data_dir, "THEIRS", ",".join(["1"] * 12))
    values = {"prompts": [f"a zorb {prompt}"], "unet": [1], "weights": ["MINE"], "seeds": [1]}
    job = queue.add("grid", {**VALUES["grid"], **values})
    made.each = lambda: len(made) == 2 and queue.stop(job.id)
    queue.start()
    wait_for(lambda: job.status == "stopped")
    if change == "lora":
        write_lora(loras / "zorb.safetensors", seed=2)
        os.utime(loras / "zorb.safetensors", ns=(1, 1))
    elif change == "LoRA in a prompt":
        write_lora(loras / "people" / "ann.safetensors", seed=2)
        os.utime(loras / "people" / "ann.safetensors", ns=(1, 1))
    else:
        save_preset(host.data_dir, "THEIRS" if "prompt" in change else "MINE", ",".join(["0.5"] * 12))
    queue.retry(job.id)
    wait_for(lambda: job.status == "done")
    assert len(made) == 4


def test_what_a_job_makes_grows_and_its_progress_is_told(host, loras, open_queue, made):
    seen = []
    queue = open_queue(host, start=False)
    job = queue.add("grid", {**VALUES["grid"], "seeds": [1, 2, 3]})
    made.each = lambda: seen.append((len(evaluation_view(job)["grid"]["cells"]), job.view()["progress"]))
    queue.start()
    wait_for(lambda: job.status == "done")
    assert [count for count, _ in seen] == list(range(9))
    progress = seen[-1][1]
    assert (progress["what"], progress["done"], progress["total"]) == ("pictures", 8, 9)
    assert progress["rate"] > 0 and progress["seconds_left"] > 0


def test_a_saved_list_s_prompts_are_drawn_too(host, loras):
    prompt_lists(host).save("mine", ["a cat", "a zorb"])
    config = read_form("grid", {**VALUES["grid"], "prompt_list": "mine"}, host)
    assert config.prompts == ("a zorb", "a cat")


def test_each_checkpoint_is_asked_for_by_its_file(host, loras, open_queue, tiny_checkpoint):
    job = open_queue(host).add("grid", {**VALUES["grid"], "checkpoints": [tiny_checkpoint.name]})
    wait_for(lambda: job.status == "done")
    assert ("pictures", tiny_checkpoint.name) in host.told
    assert evaluation_view(job)["grid"]["cells"][0]["values"]["checkpoint"] == tiny_checkpoint.name


def test_a_host_without_a_loaded_model_takes_what_the_lora_was_trained_on(host, loras, open_queue, tiny_checkpoint):
    host.loaded = None
    queue = open_queue(host, start=False)
    with pytest.raises(StudioError, match="must be named"):
        queue.add("grid", VALUES["grid"])
    write_lora(loras / "zorb.safetensors", {"ss_sd_model_name": tiny_checkpoint.name})
    queue.add("grid", VALUES["grid"])
    with pytest.raises(StudioError, match="must be given"):
        queue.add("knowledge", VALUES["knowledge"])


@pytest.mark.parametrize("kind", ["grid", "analyse"])
@pytest.mark.parametrize("checkpoint", [None, "named"])
def test_a_lora_for_another_family_is_refused_before_anything_is_drawn(host, loras, kind, checkpoint, tiny_checkpoint):
    tensors = {f"lora_te2_text_model_encoder_layers_0_mlp_fc1.{name}": torch.ones(2, 2) for name in LOW_RANK}
    save_file(tensors, str(loras / "large.safetensors"))
    field = {"grid": "checkpoints", "analyse": "checkpoint"}[kind]
    chosen = {} if checkpoint is None else {field: [tiny_checkpoint.name] if kind == "grid" else tiny_checkpoint.name}
    lora = {"grid": {"loras": ["zorb", "large"]}, "analyse": {"lora": "large"}}[kind]
    with pytest.raises(StudioError, match="is made for SDXL, and the checkpoint is SD1") as caught:
        read_form(kind, {**VALUES[kind], **lora, **chosen}, host)
    assert caught.value.came == "large"


def test_where_others_reach_the_page_only_the_host_s_own_files_are_used(host, loras, open_queue, tmp_path):
    write_lora(tmp_path / "elsewhere.safetensors")
    host.shared = True
    queue = open_queue(host, start=False)
    for changes in ({"loras": [str(tmp_path / "elsewhere.safetensors")]}, {"loras": ["../elsewhere"]},
                    {"checkpoints": ["/etc/passwd"]}):  # fmt: skip
        with pytest.raises(StudioError):
            queue.add("grid", {**VALUES["grid"], **changes})


def test_the_forms_say_all_that_their_options_are():
    forms = evaluate_forms()
    assert set(forms) == set(VALUES)
    (seeds,) = [each for group in forms["grid"]["groups"] for each in group["options"] if each["name"] == "seeds"]
    assert seeds["kind"] == "list" and seeds["default"] == [1]
