"""The curve that is shown before a run is the one that the run takes."""

from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.events import StepDone
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.rate_curve import rate_curves
from lib_lora.training.run import Run
from lib_lora.training.sizes import network_size


def curves(options, steps=6, points=200):
    config = from_mapping(TrainConfig, options)
    return rate_curves(config, steps, network_size(config).rates, points)


@pytest.mark.parametrize(
    "more",
    [
        {"lr_scheduler": "cosine", "lr_warmup_steps": 2, "text_encoder_lr": 1e-4, "mid_lr_weight": 0.5},
        {"lr_scheduler": "polynomial", "unet_lr": 1e-3},
        {"lr_scheduler": "piecewise_constant", "lr_step_rules": ["1:2", "0.1"], "network_train_unet_only": True},
    ],
)
def test_a_run_takes_the_rates_that_were_shown(train_options, more):
    options = {**train_options, "max_train_steps": 6, **more}
    steps = [event for event in Run(from_mapping(TrainConfig, options)).events() if isinstance(event, StepDone)]
    shown = curves(options)
    assert shown.steps == tuple(event.step for event in steps) and shown.note == ""
    assert shown.rates.keys() == steps[0].lr.keys()
    for group, rates in shown.rates.items():
        assert [event.lr[group] for event in steps] == pytest.approx(list(rates), rel=1e-12)


def test_long_runs_are_shown_in_few_points_from_the_first_step_to_the_last(train_options):
    shown = curves({**train_options, "max_train_steps": 5000, "lr_scheduler": "linear"}, 5000, points=50)
    assert len(shown.steps) == 50 and (shown.steps[0], shown.steps[-1]) == (1, 5000)


def test_adaptive_optimizers_are_said_to_multiply_it(train_options):
    options = {**train_options, "optimizer_type": "Prodigy", "learning_rate": None}
    shown = curves(options)
    assert set(shown.rates["unet"]) == {1.0} and "multiplies" in shown.note
    own = curves({**options, "optimizer_type": "AdaFactor"})
    assert not own.rates and "makes its own rate" in own.note


def test_what_does_not_fit_is_refused_before_the_run(train_options):
    with pytest.raises(StudioError, match="lr_warmup_steps"):
        curves({**train_options, "lr_scheduler": "cosine", "lr_warmup_steps": 7})
