"""``bench/dataset.py`` on a few pictures."""

from __future__ import annotations

import os

import pytest

import bench.dataset
from bench.dataset import FILTERS, draw_dataset, forget_files, in_process, ours

THEIRS = "DATASET_TAG_EDITOR_DIR"


@pytest.fixture
def folder(tmp_path):
    draw_dataset(tmp_path / "data", 40)
    forget_files(tmp_path / "data")
    return tmp_path / "data"


def test_every_part_is_measured(folder):
    assert in_process("open", folder)["pictures"] == 40
    times = ours(folder)
    assert {"edit", "undo", "redo", "mb"} <= set(times)
    assert sum(name.startswith("filter: ") for name in times) == len(FILTERS)


def test_the_other_editor_stands_beside_ours_for_the_same(tmp_path, capsys, monkeypatch):
    peer = {"pictures": 12, "open": 2.0, "filter: two tags": 0.5, "edit": 1.0, "save": 0.25, "mb": 7.0}
    real = bench.dataset.in_process
    monkeypatch.setattr(
        bench.dataset, "in_process", lambda part, folder: peer if part == "theirs" else real(part, folder)
    )
    bench.dataset.run_beside_peer(tmp_path, 12)
    rows = capsys.readouterr().out.splitlines()
    assert "with 12 pictures" in rows[0]
    assert [row.split(" ms")[1].split()[-1] for row in rows[2:5]] == ["2000.00", "500.00", "1250.00"]


@pytest.mark.skipif(not os.environ.get(THEIRS), reason=f"{THEIRS} is not set")
def test_the_other_editor_runs_on_the_same_folder(folder):
    times = in_process("theirs", folder)
    assert times["pictures"] == 40
    assert (folder / "1_concept0" / "000000.txt").read_text(encoding="utf-8").startswith("new tag, ")
