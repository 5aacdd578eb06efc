"""The tools as jobs, from a form's values to the host that is told of the file."""

from __future__ import annotations

import base64
import io
import time

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Progress
from lib_lora.jobs.job import Job
from lib_lora.jobs.state import DONE, FAILED, RUNNING, STOPPED, JobState
from lib_lora.jobs.tool_form import lora_list, tools_schema
from lib_lora.jobs.tool_job import chart_of, tool_view
from lib_lora.weights import extract
from lib_lora.weights.blocks.presets import save_preset
from lib_lora.weights.tools import TOOLS
from tiny_loras import POINT, write_lora, write_tuned

from .conftest import wait_for


@pytest.fixture
def loras(host):
    """Two LoRAs in the host's folder, one of them in a folder of its own."""
    write_lora(host.loras / "zorb.safetensors", {"ss_output_name": "zorb"})
    write_lora(host.loras / "people" / "ann.safetensors", seed=1)
    return host.loras


@pytest.fixture
def values(host, loras, tmp_path):
    """The values of a form of each tool."""
    tuned = write_tuned(host.known[0], tmp_path / "tuned.safetensors")
    checkpoint, prompt = str(host.known[0]), "<lora:zorb:0.5> <lora:people/ann:1:0:lbw=OUTD>"
    host.known = [tuned, *host.known]
    return {
        "extract": {"model_org": checkpoint, "model_tuned": "tuned.safetensors", "output": "new", "dim": "2"},
        "merge": {"prompt": prompt, "output": "new", "output_subfolder": "people/more"},
        "bake": {"checkpoint": checkpoint, "prompt": prompt, "output": "new"},
        "resize": {"model": "zorb", "output": "new", "new_rank": 2},
        "blocks": {"model": "zorb", "output": "new", "lbw": "MIDD", "x": "1"},
        "convert": {"model": "people/ann.safetensors", "output": "new", "names": "diffusers"},
        "inspect": {"model": "zorb"},
        "verify": {"model": "zorb", "base": checkpoint},
        "compare": {"first": "zorb", "second": "people/ann"},
    }


def ended(queue, job, status=DONE):
    wait_for(lambda: job.state.ended)
    assert job.status == status, job.state.error
    return job


@pytest.mark.parametrize("kind", TOOLS)
def test_every_tool_is_a_job(host, open_queue, values, kind):
    queue = open_queue(host)
    job = ended(queue, queue.add(kind, values[kind]))
    tool, view = tool_view(job), job.view()
    assert view["way"] == "live" and view["can"] == ["remove", "duplicate"] and view["values"] == values[kind]
    assert tool["report"] and TOOLS[kind].report_text(tool["report"]) in tool["text"] and tool["seconds"] > 0
    assert "report" not in view["tool"] and view["progress"] is None
    draws = kind in ("inspect", "compare")
    assert tool["picture"] is draws and (chart_of(job) is not None) is draws
    folder = host.known[0].parent if kind == "bake" else host.loras / values[kind].get("output_subfolder", "")
    if "output" not in values[kind]:
        assert tool["output"] is tool["name"] is None and host.told == []
        assert job.spec.name == ("zorb and ann" if kind == "compare" else "zorb")
        return
    output = folder / "new.safetensors"
    assert tool["output"] == view["result"] == str(output) and load_file(output) and job.spec.name == "new"
    assert tool["name"] == {"bake": None, "merge": "people/more/new"}.get(kind, "new")
    assert host.told == [("checkpoint written" if kind == "bake" else "written", "new.safetensors")]


def test_presets_and_filters_of_ones_own_count_in_the_tools_too(host, open_queue, values):
    save_preset(host.data_dir, "MINE", "0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0")
    with open(host.data_dir / "block_presets.txt", "a", encoding="utf-8") as file:
        file.write("BAD:1,1\n")  # which spoils no other
    (host.data_dir / "block_elements.txt").write_text("NOTEXT:BASE::0\n", encoding="utf-8")
    shown = {each["name"]: each["values"] for each in tools_schema(host)["block_weights"]}
    assert shown["MINE"] == "0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0" and "OUTD" in shown
    queue = open_queue(host)
    ended(queue, queue.add("blocks", {**values["blocks"], "lbw": "MINE", "output": "by_preset"}))
    ended(queue, queue.add("blocks", {**values["blocks"], "lbw": "", "lbwe": "NOTEXT", "output": "by_filter"}))
    ended(queue, queue.add("merge", {"prompt": "<lora:zorb:1:lbw=MINE:lbwe=NOTEXT>", "output": "merged"}))
    for name in ("by_preset", "by_filter", "merged"):
        assert {key.split(".")[0] for key in load_file(host.loras / f"{name}.safetensors")} == {POINT}


def test_the_result_is_what_the_tool_makes_of_the_values(host, open_queue, values):
    queue = open_queue(host)
    ended(queue, queue.add("resize", {**values["resize"], "save_precision": "float"}))
    assert load_file(host.loras / "new.safetensors")[f"{POINT}.lora_down.weight"].shape == (2, 64, 1, 1)
    ended(queue, queue.add("merge", {**values["merge"], "save_precision": "float"}))
    merged = load_file(host.loras / "people" / "more" / "new.safetensors")
    up, down = (merged[f"{POINT}.lora_{side}.weight"].flatten(1).double() for side in ("up", "down"))
    parts = load_file(host.loras / "zorb.safetensors")
    # The second LoRA's middle block has the weight 0.
    expected = 0.5 * parts[f"{POINT}.lora_up.weight"].flatten(1) @ parts[f"{POINT}.lora_down.weight"].flatten(1)
    made = float(merged[f"{POINT}.alpha"]) / up.shape[1] * (up @ down)
    torch.testing.assert_close(made, expected.double(), rtol=1e-6, atol=1e-7)


def test_what_was_done_is_known_after_a_restart(host, open_queue, values):
    queue = open_queue(host)
    job = ended(queue, queue.add("inspect", values["inspect"]))
    before, view = tool_view(job), job.view()
    queue.close()
    again = open_queue(host).job(job.id)
    assert tool_view(again) == before and again.view() == view and chart_of(again).is_file()


def test_an_existing_name_is_refused_at_its_field(host, open_queue, values):
    queue = open_queue(host, start=False)
    with pytest.raises(StudioError, match="output: a file of this name exists"):
        queue.add("resize", {**values["resize"], "model": "people/ann", "output": "zorb"})
    queue.add("resize", {**values["resize"], "model": "people/ann", "output": "zorb", "overwrite": True})
    queue.add("resize", values["resize"])
    with pytest.raises(StudioError, match="output: another job in the queue writes the file of this name"):
        queue.add("merge", {**values["merge"], "output_subfolder": ""})
    with pytest.raises(StudioError, match="output: is one of the inputs"):
        queue.add("resize", {**values["resize"], "output": "zorb.safetensors", "overwrite": True})
    assert len(queue.jobs()) == 2


@pytest.mark.parametrize(
    "kind, changes, field",
    [
        ("resize", {"output": ""}, "output"),
        ("resize", {"output": "../x"}, "output"),
        ("resize", {"output": 3}, "output"),
        ("resize", {"output_subfolder": "../x"}, "output_subfolder"),
        ("resize", {"output_subfolder": ["x"]}, "output_subfolder"),
        ("resize", {"model": "nobody"}, "model"),
        ("resize", {"model": 7}, "model"),
        ("resize", {"new_rank": "four"}, "new_rank"),
        ("resize", {"new_rank": None}, "new_rank"),
        ("resize", {"picture": "x.png"}, "picture"),
        ("resize", {"new_ranks": 3}, "new_ranks"),
        ("extract", {"model_tuned": "nothing.safetensors"}, "model_tuned"),
        ("extract", {"dim": None}, "dim"),
        ("merge", {"prompt": ""}, "prompt"),
        ("merge", {"prompt": "<lora:nobody:1>"}, "prompt"),
        ("merge", {"prompt": "<lora:zorb:much>"}, "prompt"),
        ("merge", {"prompt": "<lora:zorb:1:lbw=1,2,3>"}, "prompt"),
        ("merge", {"prompt": "<lora:zorb:1:stop=soon>"}, "prompt"),
        ("merge", {"prompt": "<lora:zorb:1:stop=3>"}, "prompt"),
        ("blocks", {"lbw": "1,2,3"}, "lbw"),
        ("blocks", {"lbw": ""}, "lbw"),
        ("blocks", {"x": "much"}, "x"),
        ("merge", {"lora_dir": "/"}, "lora_dir"),
        ("merge", {"models": ["/x.safetensors"]}, "models"),
        ("bake", {"checkpoint": ""}, "checkpoint"),
        ("bake", {"prompt": None}, "prompt"),
        ("bake", {"vae": "nothing.safetensors"}, "vae"),
        ("inspect", {"remove": ["nothing"]}, "remove"),
        ("inspect", {"set": ["title"]}, "set"),
        ("inspect", {"thumbnail": "data:image/png;base64,*"}, "thumbnail"),
        ("inspect", {"thumbnail": "data:image/png;base64," + 400_000 * "A"}, "thumbnail"),
        ("inspect", {"overwrite": True}, "overwrite"),
    ],
)
def test_wrong_values_make_no_job(host, open_queue, values, kind, changes, field):
    queue = open_queue(host, start=False)
    with pytest.raises(StudioError) as error:
        queue.add(kind, {**values[kind], **changes})
    assert error.value.field == field and queue.jobs() == []


def test_a_lora_that_two_folders_have_is_named_with_its_ending(host, open_queue, values):
    write_lora(host.loras / "people" / "zorb.safetensors", seed=7)
    queue = open_queue(host, start=False)
    with pytest.raises(StudioError, match="2 LoRAs have this name.*allowed: people/zorb.safetensors, zorb.safetensors"):
        queue.add("merge", {**values["merge"], "prompt": "<lora:zorb:1>"})
    queue.add("merge", {**values["merge"], "prompt": "<lora:zorb.safetensors:1> <lora:people/zorb:1>"})


def test_a_stopped_tool_leaves_nothing_and_is_done_again(host, open_queue, values, monkeypatch):
    work = extract.each
    monkeypatch.setattr(extract, "each", lambda *args: (time.sleep(0.05) or done for done in work(*args)))
    queue = open_queue(host)
    job = queue.add("extract", values["extract"])
    wait_for(lambda: job.state.progress)
    assert job.view()["can"] == ["stop", "duplicate"] and tool_view(job) is None
    wait_for(lambda: job.state.progress["rate"])
    progress = job.view()["progress"]
    assert progress["what"] == "extracting" and progress["seconds_left"] > 0
    queue.stop(job.id)
    ended(queue, job, STOPPED)
    assert not [path for path in host.loras.iterdir() if "new" in path.name] and host.told == []
    monkeypatch.undo()
    queue.retry(job.id)
    wait_for(lambda: job.status == DONE)
    assert (host.loras / "new.safetensors").is_file()


def test_a_broken_file_fails_the_job_and_is_named(host, open_queue, values):
    queue = open_queue(host, start=False)
    job = queue.add("compare", values["compare"])
    (host.loras / "people" / "ann.safetensors").write_bytes(b"nothing")
    queue.start()
    ended(queue, job, FAILED)
    assert "ann" in job.view()["error"]["file"] and tool_view(job) is None


def test_a_host_that_cannot_be_told_is_a_warning(host, open_queue, values, monkeypatch):
    monkeypatch.setattr(host, "checkpoint_written", lambda path: 1 / 0)
    queue = open_queue(host)
    job = ended(queue, queue.add("bake", values["bake"]))
    assert "tiny could not be told" in job.view()["note"] and tool_view(job)["report"]["layers"] == 2


def test_what_a_killed_try_has_left_is_deleted(host, open_queue, values):
    left = host.loras / f".new.safetensors.{'0' * 12}.tmp"
    left.write_bytes(b"x" * 100)
    queue = open_queue(host)
    ended(queue, queue.add("resize", values["resize"]))
    assert not left.exists()


def test_a_full_memory_is_told_without_advice_on_training(host, open_queue, values, monkeypatch):
    def run(config, control):
        raise MemoryError("no 8 GB")
        yield

    monkeypatch.setattr(extract, "run", run)
    queue = open_queue(host)
    error = ended(queue, queue.add("extract", values["extract"]), FAILED).view()["error"]
    assert error["field"] is None and "memory is full (no 8 GB)" in error["message"]


def test_a_link_that_leads_nowhere_is_no_lora(host, loras):
    (loras / "gone.safetensors").symlink_to(loras / "nothing.safetensors")
    assert {each["name"] for each in lora_list(loras)} == {"people/ann", "zorb"}


def test_metadata_are_edited_with_a_picture_from_the_form(host, open_queue, values):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    queue = open_queue(host)
    changes = {"set": ["modelspec.title=A, b"], "remove": ["ss_output_name"], "thumbnail": picture}
    job = ended(queue, queue.add("inspect", {**values["inspect"], **changes}))
    with safe_open(host.loras / "zorb.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.title"] == "A, b" and "ss_output_name" not in metadata
    assert metadata["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert host.told == [("written", "zorb.safetensors")] and tool_view(job)["name"] == "zorb"


def test_progress_tells_the_pace_of_the_part_at_hand(tmp_path):
    state = JobState(status=RUNNING)
    for what, done, when in (("a", 1, 10.0), ("a", 11, 15.0)):
        state.take({"event": "Progress", "what": what, "done": done, "total": 31, "time": when})
    assert state.progress["rate"] == 2 and state.progress["seconds_left"] == 10
    state.take({"event": "Progress", "what": "b", "done": 4, "total": 9, "time": 16.0})
    assert state.progress["rate"] is None and state.progress["seconds_left"] is None
    state.take({"event": "Progress", "what": "b", "done": 9, "total": 9, "time": 17.0})
    assert state.progress is None


def test_few_of_many_parts_are_told(host, open_queue, values):
    queue = open_queue(host)
    job = ended(queue, queue.add("bake", values["bake"]))
    told = [each for each in job.log.read()[0] if each["event"] == Progress.__name__]
    assert 1 <= len(told) < 40 and told[-1]["done"] == told[-1]["total"]
    assert isinstance(job, Job) and not [each for each in job.log.read()[0] if each["event"] == Note.__name__]
