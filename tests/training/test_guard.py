"""Runs whose numbers break down."""

from __future__ import annotations

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, Removed, StateSaved, StepDone, TrainingEnded, WentBack
from lib_lora.base.options import from_mapping
from lib_lora.training import guard
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run
from training_results import lora, rows, same

HUGE, BACK = 1e25, 1e-27  # a rate at which weights leave float32 in two steps, and the way back to a usual one


@pytest.fixture
def options(train_options):
    return {
        **train_options,
        "network_train_unet_only": True,
        "network_targets": "cross-attention",
        "max_train_steps": 6,
        "nan_guard_factor": BACK,
    }


def run(options, model, **more) -> Run:
    job = Run(from_mapping(TrainConfig, {**options, **more}))
    job.model = model
    return job


def test_a_run_ends_with_what_to_try_and_names_the_pictures(options, tiny_model):
    with pytest.raises(StudioError, match=r"learning_rate.*step 2.*\.png.*nan_guard rollback"):
        list(run(options, tiny_model, learning_rate=HUGE).events())
    assert not (options["output_dir"] / "zorb.safetensors").exists()


def test_a_run_goes_back_and_on_as_if_its_rate_had_been_the_lower_one(options, tiny_model):
    events = list(run(options, tiny_model, learning_rate=HUGE, nan_guard="rollback").events())
    (back,) = [event for event in events if isinstance(event, WentBack)]
    assert (back.step, back.failed_step, back.scale) == (0, 2, BACK)
    assert any(
        isinstance(event, Note) and event.level == "warning" and "back to step 0" in event.text for event in events
    )
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 1, 2, 3, 4, 5, 6]
    list(run(options, tiny_model, learning_rate=HUGE * BACK, output_name="lower").events())
    assert same(lora(options), lora(options, "lower"))
    assert rows(options) == rows(options, "lower")


def test_a_run_that_breaks_down_again_and_again_ends(options, tiny_model):
    seen = []
    more = {"nan_guard": "rollback", "nan_guard_factor": 0.9, "nan_guard_tries": 2}
    with pytest.raises(StudioError, match="although the rate was lowered 2 times"):
        seen.extend(run(options, tiny_model, learning_rate=HUGE, **more).events())
    seen = [event.scale for event in seen if isinstance(event, WentBack)]
    assert seen == pytest.approx([0.9, 0.81])


def test_a_state_before_the_weights_had_grown_is_gone_back_to_also_by_a_resumed_run(options, tiny_model, monkeypatch):
    """Kept after 0, 2 and 4 steps; the fourth step's rate is the huge one, the fifth's loss is no number.

    Once it is killed before it goes back, once after it, at a step that it has passed before.
    """
    monkeypatch.setattr(guard, "EVERY_N_STEPS", 2)
    more = {
        "learning_rate": HUGE,
        "lr_scheduler": "piecewise_constant",
        "lr_step_rules": [f"{BACK}:3", "1"],
        "nan_guard": "rollback",
        "save_state_every_n_steps": 1,
        "keep_states": 3,
        "save_every_n_steps": 2,
        "save_last_n_steps": 9,
        "max_train_steps": 8,
    }
    events = list(run(options, tiny_model, **more, output_name="whole").events())
    (back,) = [event for event in events if isinstance(event, WentBack)]
    assert [event.path.name for event in events if isinstance(event, Removed)] == ["whole-step00000004.safetensors"]
    assert (back.step, back.failed_step) == (2, 5) and isinstance(events[-1], TrainingEnded)
    for killed_at, before, after in ((4, [], [2]), (3, [2], [])):
        returns = []
        for event in run(options, tiny_model, **more, overwrite=True).events():
            returns += [event.step] if isinstance(event, WentBack) else []
            if isinstance(event, StateSaved) and event.step == killed_at and returns == before:
                break  # as if it had been killed
        folder = options["output_dir"] / "zorb-state"
        resumed = list(run(options, tiny_model, **more, resume=folder, overwrite=True).events())
        assert [each.step for each in resumed if isinstance(each, WentBack)] == after
        assert same(lora(options), lora(options, "whole"))
        assert rows(options) == rows(options, "whole")


def test_a_rate_that_nobody_gave_cannot_be_lowered(options, tiny_model):
    more = {"optimizer_type": "AdaFactor", "learning_rate": None, "nan_guard": "rollback"}
    with pytest.raises(StudioError, match="nan_guard.*makes its own rate"):
        next(run(options, tiny_model, **more).events())


def test_a_run_that_goes_on_with_another_guard_has_a_way_back_and_lowers_the_rate_it_has(options, tiny_model):
    """The first half stops at what is no number, the second goes back; then the factor is another one."""
    more = {"learning_rate": HUGE, "lr_scheduler": "piecewise_constant", "lr_step_rules": [f"{BACK}:2", "1"]}
    for event in run(options, tiny_model, **more, save_state_every_n_steps=1).events():
        if isinstance(event, StateSaved):
            break
    events = run(options, tiny_model, **more, nan_guard="rollback", resume=event.path, save_state=True)
    (back,) = [each for each in events.events() if isinstance(each, WentBack)]
    assert (back.step, back.scale) == (1, BACK)
    kept = guard.NanGuard(from_mapping(TrainConfig, {**options, "nan_guard": "rollback", "nan_guard_factor": 0.5}), {
        "schedule": (schedule := Rate(BACK))
    })  # fmt: skip
    kept.keep(0, [torch.ones(1)])
    for scale in (BACK / 2, BACK / 4):
        kept.go_back(guard.NotFinite("the loss is", 3), "")
        assert schedule.scale == scale


class Rate:
    """A schedule of nothing but its scale."""

    def __init__(self, scale):
        self.scale = scale

    def set_scale(self, scale):
        self.scale = scale

    def state_dict(self):
        return {"scale": self.scale}

    def load_state_dict(self, state):
        self.scale = state["scale"]


def test_without_a_guard_nothing_is_looked_at(options, tiny_model):
    events = []
    with pytest.raises(StudioError, match="not saved"):  # what a LoRA may not hold is seen when it is written
        events.extend(run(options, tiny_model, learning_rate=HUGE, nan_guard="off").events())
