from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Progress, StepDone, TrainingStarted
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.log import AVERAGE_STEPS
from lib_lora.ui import monitor as monitor_module
from lib_lora.ui import show, work
from lib_lora.ui.monitor import RunMonitor, RunState


def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def training(options, **changes):
    return partial(work.train, from_mapping(TrainConfig, {**options, **changes}))


def test_a_run_is_told_from_start_to_end(train_options, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zorb --s 1 --w 64 --h 64\n", encoding="utf-8")
    monitor = RunMonitor()
    monitor.start("training", training(train_options, sample_prompts=prompts, sample_every_n_steps=2))
    assert monitor.read("training").running
    monitor.wait(60)
    state = monitor.read("training")
    assert not state.running and not state.error and not state.stopped
    assert state.step.step == state.total_steps == len(state.losses) == 3
    assert [path.exists() for path, _ in state.pictures] == [True]
    assert state.pictures[0][1] == "step 2: zorb"
    assert train_options["output_dir"] / "zorb.safetensors" in state.written
    assert "5 pictures" in state.notes[0]
    assert show.status_html(state).startswith('<div class="studio-status">Done after 3 steps')


def test_stop_ends_a_run_early_and_keeps_what_it_has(train_options):
    monitor = RunMonitor()
    monitor.start("training", training(train_options, max_train_steps=5000))
    wait_until(lambda: monitor.read("training").losses or monitor.read("training").error)
    monitor.stop()
    monitor.wait(60)
    state = monitor.read("training")
    assert not state.running and state.stopped and not state.error
    assert [path.exists() for path in state.written if path.suffix == ".safetensors"] == [True]
    assert "Stopped after" in show.status_html(state)


def test_a_second_start_is_refused_until_the_first_has_ended():
    monitor, go_on = RunMonitor(), threading.Event()
    monitor.start("training", lambda control, tell: go_on.wait(30))
    with pytest.raises(StudioError, match="training is running"):
        monitor.start("sampling", lambda control, tell: None)
    go_on.set()
    monitor.wait(30)
    monitor.start("sampling", lambda control, tell: None)
    monitor.wait(30)
    assert not monitor.read("sampling").running


def test_a_persons_mistake_is_shown_as_it_is(train_options, tmp_path):
    monitor = RunMonitor()
    monitor.start("training", training(train_options, train_data_dir=tmp_path / "nowhere"))
    monitor.wait(60)
    state = monitor.read("training")
    assert not state.running and state.error.startswith("train_data_dir: ") and "nowhere" in state.error


def test_a_fault_is_shown_and_printed_in_full(capsys):
    monitor = RunMonitor()
    monitor.start("training", lambda control, tell: 1 / 0)
    monitor.wait(30)
    assert monitor.read("training").error == "ZeroDivisionError: division by zero"
    assert "Traceback" in capsys.readouterr().err


def test_every_reader_sees_the_whole_run():
    monitor = RunMonitor()
    monitor.start("training", lambda control, tell: [tell(Note(str(index))) for index in range(3)])
    monitor.wait(30)
    assert monitor.read("training").notes == monitor.read("training").notes == ["0", "1", "2"]


def test_the_status_line_says_step_loss_speed_and_time_left():
    state = RunState(running=True)
    state.take(Progress("caching latents", 1, 4))
    assert "caching latents: 1 of 4" in show.status_html(state) and "width:25.0%" in show.status_html(state)
    state.take(TrainingStarted(100, 10, 10))
    for step, loss in ((1, 0.1), (2, 0.3)):
        state.take(StepDone(step, 1, loss, {"unet": 1e-4}, 2.0))
    text = show.status_html(state)
    # (0.1 + 0.3) / 2; 98 steps of 2 s are 196 s.
    assert "step 2 of 100" in text and "loss 0.2000" in text and "2.00 s/it" in text and "3:16 left" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3725, "1:02:05")])
def test_durations(seconds, text):
    assert show.duration(seconds) == text


def test_texts_from_outside_are_escaped():
    assert "<b>" not in show.error_html("<b>") + show.plan_html("<b>")


def test_the_average_is_that_of_the_log():
    assert monitor_module.AVERAGE_STEPS == AVERAGE_STEPS
