from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.base.events import StepDone
from lib_lora.training.log import RunLog, loss_picture, moving_average, round_ticks


def test_moving_average_is_the_mean_of_the_last_values():
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    expected = [np.mean(values[max(0, i - 2) : i + 1]) for i in range(len(values))]
    assert moving_average(values, 3) == pytest.approx(expected)


def test_a_run_leaves_csv_tensorboard_and_picture(tmp_path):
    with RunLog(tmp_path / "log") as log:
        for step in range(1, 6):
            log.write(StepDone(step, 1, 1.0 / step, {"unet": 1e-4, "text_encoder": 5e-5}, 0.5))
    with open(tmp_path / "log" / "loss.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx([1, 0.5, 1 / 3, 0.25, 0.2], rel=1e-5)
    assert float(rows[-1]["average_loss"]) == pytest.approx((1 + 0.5 + 1 / 3 + 0.25 + 0.2) / 5, rel=1e-5)
    assert rows[0]["lr_unet"] == "0.0001" and rows[0]["lr_text_encoder"] == "5e-05"
    assert Image.open(tmp_path / "log" / "loss.png").size == (960, 420)


def test_the_csv_is_readable_while_the_run_goes_on(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(StepDone(1, 1, 0.25, {"unet": 1e-4}, 0.5))
        assert (tmp_path / "loss.csv").read_text().splitlines()[1].startswith("1,1,0.25")


@pytest.mark.parametrize("losses", [[0.5], [0.1, 0.1], [0.0, 0.0], [1.0, float("nan"), 0.5], [1e9] + [0.1] * 200])
def test_any_series_of_losses_can_be_drawn(losses):
    picture = np.asarray(loss_picture(losses))
    assert (picture != 255).any()


def test_the_curve_falls_where_the_loss_falls():
    picture = np.asarray(loss_picture([1.0] * 100 + [0.2] * 100)).astype(int)
    dark_blue = (picture[:, :, 2] - picture[:, :, 0] > 80) & (picture[:, :, 0] < 120)
    heights = [np.flatnonzero(dark_blue[:, x]).mean() for x in (200, 900)]
    assert heights[1] > heights[0] + 100  # lower on the page


@pytest.mark.parametrize(
    ("high", "ticks"),
    [
        (0.0321, [0, 0.01, 0.02, 0.03]),
        (850, [0, 200, 400, 600, 800]),
        (3, [0, 1, 2, 3]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_ticks_stand_at_round_numbers(high, ticks):
    assert round_ticks(high) == ticks


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudioError, match="logging_dir"):
        RunLog(tmp_path / "file" / "log")


def test_a_resumed_log_goes_on_after_the_rows_it_was_given(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    events = [StepDone(step, 1, 1.0 / 3 / step, {"unet": 1e-4}, 0.5) for step in range(1, 8)]
    with RunLog(whole) as log:
        for event in events:
            log.write(event)
    with RunLog(broken) as log:
        for event in events[:3]:
            log.write(event)
        kept = log.bytes()
        for event in events[3:5]:  # made, but not kept: the run was killed before its next state
            log.write(event)
    with RunLog(broken, kept) as log:
        for event in events[3:]:
            log.write(event)
        assert log.losses == pytest.approx([event.loss for event in events], rel=1e-5)
    assert (broken / "loss.csv").read_bytes() == (whole / "loss.csv").read_bytes()
    assert (broken / "loss.png").read_bytes() == (whole / "loss.png").read_bytes()


def test_the_picture_is_drawn_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("lib_lora.training.log._PICTURE_SECONDS", 0)
    with RunLog(tmp_path) as log:
        log.write(StepDone(1, 1, 0.25, {"unet": 1e-4}, 0.5))
        assert Image.open(tmp_path / "loss.png").size == (960, 420)
