from __future__ import annotations

import pytest
import torch
from gpu import CHECKPOINTING, Row, main, measure, rows

ALL = {"bitsandbytes": True, "xformers": True, "triton": True}


def test_both_families_are_trained_and_told_line_by_line(capsys):
    table = [Row("tiny-sd15", 64, "bf16", "checkpointing", CHECKPOINTING), Row("tiny-sdxl", 64, "bf16")]
    measure(table, torch.device("cpu"), 600)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, row in zip(lines, table):
        assert line.startswith(row.family) and float(line.split()[-3]) > 0  # s per step


def test_a_row_that_cannot_be_run_says_why_and_the_others_go_on(capsys):
    table = [Row("tiny-sd15", 64, "bf16", "xformers", {"attention": "xformers"}), Row("tiny-sd15", 64, "bf16")]
    measure(table, torch.device("cpu"), 600)
    first, second = capsys.readouterr().out.splitlines()
    assert "needs a CUDA card" in first
    assert float(second.split()[-3]) > 0


def test_rows_for_which_there_is_no_time_are_counted(capsys):
    measure([Row("tiny-sd15", 64, "bf16")] * 3, torch.device("cpu"), 0)
    assert "3 rows were left out" in capsys.readouterr().out


def test_the_table_has_what_people_with_small_cards_ask_for():
    table = list(rows(("sd15", "sdxl"), (512, 768, 1024), ALL))
    assert {(row.family, row.side) for row in table} == {(f, s) for f in ("sd15", "sdxl") for s in (512, 768, 1024)}
    assert {row.precision for row in table} == {"fp16", "bf16"}
    assert {row.card_gib for row in table} >= {4, 6, 8, 12, None}
    assert {"xformers", "AdamW8bit", True} <= {value for row in table for value in row.options.values()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="no CUDA card"):
        main()
