"""What ``bench/stress.py`` does fifty times and more, five times."""

from __future__ import annotations

import multiprocessing

import pytest

from bench.stress import DatasetStress, QueueStress, Stress


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_killed_and_paused_runs_end_as_the_unbroken_one(tmp_path):
    stress = Stress(tmp_path)
    outcomes = [stress.trial(seed) for seed in range(5)]
    assert [outcome.problems for outcome in outcomes] == [[]] * 5
    assert all(outcome.resumed_from for outcome in outcomes)  # every run was killed before its end


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_killed_queue_ends_as_the_undisturbed_one(tmp_path):
    stress = QueueStress(tmp_path)
    outcomes = [stress.trial(seed) for seed in range(3)]
    assert [outcome.problems for outcome in outcomes] == [[]] * 3
    assert all(outcome.resumed_from for outcome in outcomes)


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_killed_edits_of_captions_lose_nothing(tmp_path):
    stress = DatasetStress(tmp_path)
    outcomes = [stress.trial(seed) for seed in range(5)]
    assert [outcome.problems for outcome in outcomes] == [[]] * 5
    assert any("to the end" not in text for outcome in outcomes for text in outcome.disturbances)
