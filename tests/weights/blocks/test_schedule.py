"""In which steps a LoRA acts."""

from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.weights.blocks.schedule import parse_schedule


@pytest.mark.parametrize(
    ("start", "stop", "step", "steps", "acting"),
    [
        ("10", None, None, 12, {10, 11, 12}),
        ("1", None, None, 3, {1, 2, 3}),
        ("0", None, None, 3, {1, 2, 3}),
        ("5", None, None, 3, set()),
        (None, "3", None, 5, {1, 2}),
        (None, "1", None, 5, set()),
        (None, "9", None, 5, {1, 2, 3, 4, 5}),
        ("2", "4", None, 5, {2, 3}),
        (None, None, "2-4", 5, {2, 3}),
        ("0.3", None, None, 20, set(range(7, 21))),
        (None, "0.3", None, 20, set(range(1, 7))),
        ("0.7", None, None, 10, {8, 9, 10}),  # in floats 0.7 * 10 is more than 7
        (None, None, "0.2-0.6", 10, {3, 4, 5, 6}),
        ("0.5", "1.0", None, 4, {3, 4}),
        (".5", "4", None, 4, {3}),
        ("0.25", None, None, 1, set()),
    ],
)
def test_it_acts_from_start_on_and_up_to_stop(start, stop, step, steps, acting):
    schedule = parse_schedule(start, stop, step)
    assert {number for number in range(1, steps + 1) if schedule.acts(number - 1, steps)} == acting


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("soon", None, None), "start"),
        (("-1", None, None), "start"),
        (("1.5", None, None), "start"),
        ((None, "", None), "stop"),
        ((None, "nan", None), "stop"),
        ((None, None, "5"), "step"),
        ((None, None, "5-x"), "step"),
        ((None, None, "5-2"), "step"),
        (("0.6", "0.5", None), "stop"),
        (("3", None, "5-8"), "step"),
    ],
)
def test_what_is_no_step_is_refused(words, field):
    with pytest.raises(StudioError) as fault:
        parse_schedule(*words)
    assert fault.value.field == field


def test_it_is_written_as_it_is_read():
    for words in (("3", "0.5", None), (None, "1.0", None), ("0.125", None, None)):
        schedule = parse_schedule(*words)
        named = dict(item.split("=") for item in schedule.text.split(":"))
        assert parse_schedule(named.get("start"), named.get("stop"), None) == schedule
    assert parse_schedule(None, None, None) is None
