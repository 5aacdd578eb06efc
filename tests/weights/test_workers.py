from __future__ import annotations

import threading
import time

import pytest
import torch

from lib_lora.weights.workers import each


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_several_threads_of_one_core_each(two_threads):
    seen = set()

    def work(number):
        seen.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02 * (3 - number % 3))
        return number * 2

    assert list(each(work, range(9))) == [number * 2 for number in range(9)]
    assert {threads for _, threads in seen} == {1} and len(seen) == 2
    assert torch.get_num_threads() == 2


def test_only_few_items_are_ahead_of_the_reader(two_threads):
    begun = []
    results = each(lambda number: begun.append(number), range(50))
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 5
    results.close()
    assert len(begun) <= 5 and torch.get_num_threads() == 2


def test_an_error_comes_to_the_reader_and_ends_the_work(two_threads):
    def work(number):
        if number == 2:
            raise ValueError("two")
        return number

    results = each(work, range(50))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert torch.get_num_threads() == 2
