"""What parent and child say to each other."""

from __future__ import annotations

import json
import os
import time

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Note, StepDone, event_from_json
from lib_lora.base.signals import Control
from lib_lora.jobs.wire import EventFile, LineReader, check_source, event_file, listen

from .conftest import wait_for


def test_events_arrive_whole_while_they_are_written(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = LineReader(path)
    assert list(lines.read()) == []
    told = [Note("one\ntwo"), StepDone(1, 1, 0.5, {"unet": 0.1}, 0.2)]
    with EventFile(path) as file:
        file.tell(told[0])
        seen = list(lines.read())
        with open(path, "ab") as half:
            half.write(b'{"event": "No')
        assert list(lines.read()) == []
        with open(path, "ab") as half:
            half.write(b'te", "text": "late", "level": "info"}\n')
        file.tell(told[1])
        seen += list(lines.read())
    assert [event_from_json(json.loads(line)) for line in seen] == [told[0], Note("late"), told[1]]


def test_an_error_is_told_with_its_parts(tmp_path):
    path = tmp_path / "events.jsonl"
    with pytest.raises(StudioError), EventFile(path):
        raise StudioError("too much", field="network_dim", came=9, allowed="at most 8")
    (line,) = LineReader(path).read()
    error = StudioError.from_json(json.loads(line)["error"])
    assert (str(error), error.field, error.came) == (
        "network_dim: too much; got: 9; allowed: at most 8",
        "network_dim",
        9,
    )


def test_one_process_at_a_time_tells_its_events_in_a_file(tmp_path):
    with EventFile(tmp_path / "events.jsonl"):
        with pytest.raises(StudioError, match="in use"):
            EventFile(tmp_path / "events.jsonl")
    EventFile(tmp_path / "events.jsonl").__exit__(None, None, None)


def test_nobody_wants_events_where_no_file_is_named():
    with event_file(None) as file:
        assert file is None


def test_words_reach_the_control_and_the_end_of_them_stops_the_work(capsys):
    reading, writing = os.pipe()
    control = Control()
    listen(control, reading)
    os.write(writing, b"pau")
    time.sleep(0.05)
    assert not control.pausing
    os.write(writing, b"se\nsave_lora\ndance\n")
    wait_for(lambda: control.pausing and control.take_lora_wish())
    os.write(writing, b"resume\r\n")
    wait_for(lambda: not control.pausing)
    assert not control.stopping
    os.close(writing)
    wait_for(lambda: control.stopping and control.take_state_wish())
    assert not control.aborting and "'dance' is none of" in capsys.readouterr().err
    os.close(reading)


def test_words_come_from_standard_input_alone():
    assert check_source("-") and not check_source(None)
    with pytest.raises(StudioError, match="control: not allowed"):
        check_source("words.txt")
