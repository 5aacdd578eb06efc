from __future__ import annotations

import json

from lib_lora.jobs.event_log import EventLog, tail


def test_events_come_back_by_their_number(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(5):
        log.append({"number": number, "text": "line\nbreak \u2028 ü"})
    assert [event["number"] for event in log.read()[0]] == [0, 1, 2, 3, 4]
    events, after = log.read(3)
    assert [event["number"] for event in events] == [3, 4] and after == 5
    assert events[0]["text"] == "line\nbreak \u2028 ü"
    assert log.read(5) == ([], 5) and log.read(99) == ([], 5)
    log.append({"number": 5})
    assert log.read(after) == ([{"number": 5}], 6)


def test_what_was_written_is_on_disk_at_once_and_read_by_another(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append({"number": 0})
    assert EventLog(log.path).read() == ([{"number": 0}], 1)


def test_half_a_line_of_a_killed_writer_is_no_event_and_goes_with_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"number": 0}\n{"number": 1', encoding="utf-8")
    log = EventLog(path)
    assert log.read() == ([{"number": 0}], 1)
    log.append({"number": 2})
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]
    assert EventLog(path).read(1) == ([{"number": 2}], 2)


def test_of_many_events_as_many_are_read_as_one_wants(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(5):
        log.append({"number": number})
    assert log.read(1, 2) == ([{"number": 1}, {"number": 2}], 3)
    assert log.read(3, 9) == ([{"number": 3}, {"number": 4}], 5)


def test_a_cleared_log_begins_anew(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append({"number": 0})
    log.clear()
    assert log.read() == ([], 0)
    log.append({"number": 1})
    assert log.read() == ([{"number": 1}], 1)


def test_only_what_is_asked_for_is_read(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(1000):
        log.append({"number": number})
    log.close()
    # Whatever stands before the lines that are asked for may be anything: it is not looked at.
    data = log.path.read_bytes()
    log.path.write_bytes(b"x" * (len(data) - 60) + data[-60:])
    assert [event["number"] for event in log.read(998)[0]] == [998, 999]


def test_the_last_lines_are_those_without_progress_bars(tmp_path):
    path = tmp_path / "log.txt"
    assert tail(path, 3) == ""
    path.write_text("one\nsteps:  10%|#    | 1/10\rsteps:  20%|##   | 2/10\n\ntwo\nthree\n", encoding="utf-8")
    assert tail(path, 2) == "two\nthree" and tail(path, 9) == "one\ntwo\nthree"
