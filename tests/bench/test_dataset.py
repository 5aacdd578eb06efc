"""``bench/dataset.py`` on a few pictures."""

from __future__ import annotations

import os

import pytest

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


@pytest.mark.skipif(not os.environ.get(THEIRS), reason=f"{THEIRS} is not set")
def test_the_other_editor_runs_on_the_same_folder(folder):
    times = in_process("theirs", folder)
    assert times["pictures"] == 40
    assert (folder / "1_concept0" / "000000.txt").read_text(encoding="utf-8").startswith("new tag, ")
