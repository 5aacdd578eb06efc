"""The queue, with jobs that only count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.jobs.queue import JobQueue

from . import counting  # noqa: F401 - registers the kind
from .conftest import wait_for

ROOT = Path(__file__).parents[2]
LONG = {"steps": 10_000, "seconds": 0.005}


def test_jobs_are_done_one_after_the_other(host, open_queue):
    queue = open_queue(host)
    first, second = queue.add("count", {"steps": 3, "seconds": 0.01}), queue.add("count", {"steps": 2})
    wait_for(lambda: second.status == "done")
    views = [job.view() for job in queue.jobs()]
    assert [view["id"] for view in views] == [first.id, second.id]
    assert views[0]["started"] <= views[0]["ended"] <= views[1]["started"] <= views[1]["ended"]
    view = views[0]
    assert (view["step"], view["total_steps"], view["loss"]) == (3, 3, pytest.approx((1 + 1 / 2 + 1 / 3) / 3))
    assert view["lr"] == {"unet": 0.1} and view["result"] == str(first.folder / "counted")
    events, after = queue.events(first.id)
    names = ["TrainingStarted", "StepDone", "StepDone", "StepDone", "Saved", "TrainingEnded"]
    assert [event["event"] for event in events] == names and after == 6
    assert all(abs(event["time"] - time.time()) < 600 for event in events)


def test_a_mistake_is_told_before_anything_is_queued(host, open_queue):
    queue = open_queue(host, start=False)
    with pytest.raises(StudioError, match="steps: counts nothing"):
        queue.add("count", {"steps": 0})
    with pytest.raises(StudioError, match="kind: unknown name"):
        queue.add("dance", {})
    assert queue.jobs() == [] and not [path for path in (host.data_dir / "jobs").iterdir() if path.is_dir()]


def test_queued_jobs_can_be_moved_removed_and_duplicated(host, open_queue):
    queue = open_queue(host, start=False)
    a, b, c = (queue.add("count", {"steps": steps}).id for steps in (1, 2, 3))
    queue.move(c, a)
    assert [job.id for job in queue.jobs()] == [c, a, b]
    queue.move(c, None)
    queue.move(b, b)
    assert [job.id for job in queue.jobs()] == [a, b, c]
    copy = queue.duplicate(b, {"steps": 7})
    assert copy.spec.values == {"steps": 7} and copy.spec.plan == {"steps": 7}
    folder = queue.job(b).folder
    queue.remove(b)
    assert not folder.exists() and [job.id for job in queue.jobs()] == [a, c, copy.id]
    queue.close()
    again = open_queue(host, start=False)
    assert [job.id for job in again.jobs()] == [a, c, copy.id]
    assert [job.view()["values"] for job in again.jobs()] == [{"steps": 1}, {"steps": 3}, {"steps": 7}]


def test_two_queued_jobs_never_write_the_same_file(host, open_queue):
    queue = open_queue(host, start=False)
    first = queue.add("count", {"steps": 1, "result": "zorb"})
    with pytest.raises(StudioError, match="output_name: another job"):
        queue.duplicate(first.id)
    queue.duplicate(first.id, {"result": "other"})
    queue.remove(first.id)
    queue.add("count", {"steps": 1, "result": "zorb"})


def test_a_pause_lasts_until_resume(host, open_queue):
    queue = open_queue(host)
    job = queue.add("count", LONG)
    waiting = queue.add("count", {"steps": 1})
    wait_for(lambda: job.state.step > 2)
    queue.pause(job.id)
    wait_for(lambda: job.status == "paused")
    step = job.state.step
    assert "resume" in job.can() and "pause" not in job.can()
    time.sleep(0.1)
    assert job.state.step == step and waiting.status == "queued"
    queue.resume(job.id)
    wait_for(lambda: job.status == "running" and job.state.step > step)
    queue.stop(job.id)
    wait_for(lambda: job.status == "stopped" and waiting.status == "done")


def test_a_stopped_job_goes_on_from_its_state_and_before_those_that_wait(host, open_queue):
    queue = open_queue(host)
    job = queue.add("count", {"steps": 40, "seconds": 0.01})
    wait_for(lambda: job.state.step > 3)
    queue.stop(job.id)
    wait_for(lambda: job.status == "stopped")
    stopped_at = int((job.state_folder / "step").read_text())
    blocking, waiting = queue.add("count", LONG), queue.add("count", {"steps": 1})
    wait_for(lambda: blocking.status == "running")
    queue.resume(job.id)
    assert [each.id for each in queue.jobs()] == [blocking.id, job.id, waiting.id]
    queue.abort(blocking.id)
    wait_for(lambda: waiting.status == "done")
    starts = [event["step"] for event in queue.events(job.id)[0] if event["event"] == "TrainingStarted"]
    assert starts == [0, stopped_at] and job.status == "done"


def test_an_aborted_job_writes_nothing_and_a_retry_begins_anew(host, open_queue):
    queue = open_queue(host)
    job = queue.add("count", LONG)
    wait_for(lambda: job.state.step > 2)
    queue.abort(job.id)
    wait_for(lambda: job.status == "stopped")
    assert job.view()["written"] == [] and "resume" not in job.can()
    queue.retry(job.id)
    wait_for(lambda: job.status == "running" and job.state.step > 1)
    assert queue.events(job.id)[0][0]["event"] == "TrainingStarted"
    assert sum(event["event"] == "TrainingStarted" for event in queue.events(job.id)[0]) == 1
    queue.abort(job.id)


@pytest.mark.parametrize(("fail", "field"), [("OSError", None), ("MemoryError", "train_batch_size")])
def test_a_failed_job_says_why_and_the_next_one_runs(host, open_queue, fail, field):
    queue = open_queue(host)
    bad, good = queue.add("count", {"steps": 9, "fail": fail}), queue.add("count", {"steps": 1})
    wait_for(lambda: good.status == "done")
    error = bad.view()["error"]
    assert bad.status == "failed" and "on purpose" in error["message"] and error["field"] == field
    assert "Traceback" in bad.log_text() and "counting.py" in bad.log_text()


BAD_IDS = ["", ".", "..", "../x", "lock", "order.json", "a/b", "/etc", "C:\\x", "20260101-000000-000-abcdef", "a\nb"]


@pytest.mark.parametrize("id", BAD_IDS)
def test_a_bad_id_is_no_job_and_never_a_path(host, open_queue, id):
    queue = open_queue(host, start=False)
    mine = queue.add("count", {"steps": 1})
    (host.data_dir / "x").mkdir()
    actions = [queue.job, queue.events, queue.pause, queue.remove, queue.retry, queue.duplicate, queue.resume]
    for action in actions:
        with pytest.raises(StudioError, match="no such job"):
            action(id)
    with pytest.raises(StudioError, match="no such job"):
        queue.move(mine.id, id)
    assert (host.data_dir / "x").exists() and queue.jobs() == [mine]


def test_what_a_job_cannot_do_now_is_refused(host, open_queue):
    queue = open_queue(host, start=False)
    job = queue.add("count", {"steps": 1})
    for action in (queue.pause, queue.resume, queue.stop, queue.abort, queue.save, queue.retry):
        with pytest.raises(StudioError, match="queued cannot do that"):
            action(job.id)


def test_one_process_at_a_time_holds_the_jobs(host, open_queue):
    queue = open_queue(host)
    with pytest.raises(StudioError, match="in use by another process"):
        JobQueue(host)
    queue.close()
    open_queue(host)


def test_closing_interrupts_with_a_state_to_go_on_from(host, open_queue):
    queue = open_queue(host)
    job = queue.add("count", {"steps": 60, "seconds": 0.01})
    wait_for(lambda: job.state.step > 2)
    queue.close()
    assert job.status == "interrupted"
    again = open_queue(host)
    assert again.job(job.id).status == "interrupted"
    assert again.job(job.id).view()["step"] == job.state.step
    again.resume(job.id)
    wait_for(lambda: again.job(job.id).status == "done")


def test_closing_interrupts_a_paused_job(host, open_queue):
    queue = open_queue(host)
    job = queue.add("count", LONG)
    wait_for(lambda: job.state.step > 2)
    queue.pause(job.id)
    wait_for(lambda: job.status == "paused")
    queue.close()
    assert job.status == "interrupted"


def test_the_version_grows_with_every_change(host, open_queue):
    queue = open_queue(host, start=False)
    seen = [queue.version]
    job = queue.add("count", {"steps": 1})
    for change in (lambda: queue.duplicate(job.id), lambda: queue.move(job.id), lambda: queue.remove(job.id)):
        change()
        seen.append(queue.version)
    assert seen == sorted(set(seen))


def test_a_damaged_job_is_left_out_and_said(host, open_queue, caplog):
    queue = open_queue(host, start=False)
    good, bad = queue.add("count", {"steps": 1}), queue.add("count", {"steps": 2})
    queue.close()
    (bad.folder / "job.json").write_text("{")
    assert [job.id for job in open_queue(host, start=False).jobs()] == [good.id]
    assert bad.id in caplog.text


def test_a_job_that_was_killed_after_its_work_is_done(host, open_queue):
    queue = open_queue(host)
    job = queue.add("count", {"steps": 2})
    wait_for(lambda: job.status == "done")
    queue.close()
    state = json.loads((job.folder / "state.json").read_text())
    (job.folder / "state.json").write_text(json.dumps({**state, "status": "running", "events": 0, "completed": False}))
    assert open_queue(host, start=False).job(job.id).status == "done"


def test_a_job_waits_while_the_disk_is_full(host, open_queue, monkeypatch):
    from lib_lora.jobs import job as module

    queue = open_queue(host, start=False)
    waiting = queue.add("count", {"steps": 1})
    write = module.write_text
    full = [True]

    def write_text(path, text):
        if full[0]:
            raise StudioError("cannot be written: the disk is full", file=path)
        write(path, text)

    monkeypatch.setattr(module, "write_text", write_text)
    monkeypatch.setattr("lib_lora.jobs.worker._RETRY_SECONDS", 0.01)
    queue.start()
    wait_for(lambda: "disk is full" in (waiting.view()["why"] or ""))
    assert waiting.status == "queued"
    full[0] = False
    wait_for(lambda: waiting.status == "done")
    assert waiting.view()["why"] is None


# When nothing is left to do


def test_the_machine_is_shut_down_after_the_last_job_unless_somebody_thinks_better_of_it(host, open_queue):
    queue = open_queue(host, start=False)
    first, last = queue.add("count", {"steps": 1}), queue.add("count", {"steps": 20, "seconds": 0.02})
    queue.when_done = "shutdown"
    queue.start()
    wait_for(lambda: first.status == "done" and last.status == "running")
    assert queue.shutdown.at is None
    wait_for(lambda: queue.shutdown.at is not None)
    assert 50 < queue.shutdown.at - time.time() <= 60 and last.status == "done"
    queue.when_done = "nothing"
    assert queue.shutdown.at is None


def test_a_job_that_was_ended_by_hand_shuts_nothing_down(host, open_queue):
    queue = open_queue(host)
    job = queue.add("count", LONG)
    queue.when_done = "shutdown"
    wait_for(lambda: job.state.step > 1)
    queue.stop(job.id)
    wait_for(lambda: job.status == "stopped")
    time.sleep(0.05)
    assert queue.shutdown.at is None


def test_only_this_machines_user_may_shut_it_down_and_only_once(host, open_queue):
    host.shared = True
    queue = open_queue(host, start=False)
    with pytest.raises(StudioError, match="allowed: nothing, sound"):
        queue.when_done = "shutdown"
    host.shared = False
    queue.when_done = "shutdown"
    queue.close()
    assert open_queue(host, start=False).when_done == "nothing"


def test_sound_is_remembered(host, open_queue):
    queue = open_queue(host, start=False)
    queue.when_done = "sound"
    queue.close()
    assert open_queue(host, start=False).when_done == "sound"


# A process that dies

DRIVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from tests.jobs import counting
from tiny_host import TinyHost
from lib_lora.jobs.queue import JobQueue
queue = JobQueue(TinyHost(Path(sys.argv[1]), Path("none"), lends=False))
queue.start()
job = queue.add("count", {"steps": 10000, "seconds": 0.005})
queue.add("count", {"steps": 1})
while job.state.step < 5:
    time.sleep(0.01)
queue.pause(job.id)
while job.status != "paused":
    time.sleep(0.01)
queue.resume(job.id)
while job.state.step < 9:
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_job_whose_process_was_killed_is_interrupted_and_can_be_resumed(host, open_queue, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"ready"
    with pytest.raises(StudioError, match="in use"):
        JobQueue(host)
    os.kill(process.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    process.wait()
    queue = open_queue(host, start=False)
    job, queued = queue.jobs()
    view = job.view()
    assert (view["status"], queued.status) == ("interrupted", "queued")
    assert view["step"] >= 9 and view["why"] and "resume" in view["can"]
    saved = json.loads((job.state_folder / "step").read_text())
    queue.resume(job.id)
    queue.start()

    def starts() -> list[int]:
        return [event["step"] for event in queue.events(job.id)[0] if event["event"] == "TrainingStarted"]

    wait_for(lambda: len(starts()) == 2)
    assert starts()[-1] == saved >= 5
    queue.abort(job.id)
    wait_for(lambda: queued.status == "done")
