"""What a job learns of a run that went back, and of files that were removed."""

from __future__ import annotations

from pathlib import Path

from lib_lora.base.events import Removed, Saved, StepDone, WentBack, event_from_json, event_to_json
from lib_lora.jobs.state import JobState


def told(*events) -> JobState:
    state = JobState()
    for event in events:
        assert event_from_json(event_to_json(event)) == event
        state.take(event_to_json(event))
    return state


def test_steps_that_a_run_went_back_from_do_not_count():
    steps = [StepDone(number, 1, float(number), {"unet": 1e-4}, 0.1) for number in (1, 2, 3)]
    state = told(*steps, WentBack(1, 4, "the loss is not a finite number", 0.5))
    assert (state.step, state.loss) == (1, 1.0)


def test_a_removed_file_is_no_longer_among_the_written_ones():
    state = told(Saved(Path("a.safetensors"), 1), Saved(Path("b.safetensors"), 2), Removed(Path("a.safetensors")))
    assert state.written == ["b.safetensors"]
