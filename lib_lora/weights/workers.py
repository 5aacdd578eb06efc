"""The same work on many layers, one processor core each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``work`` of each item, in the order of the items; whoever stops reading stops the work.

    As many items are at work as torch has threads here, each on one thread: LAPACK's small problems take longer on two
    threads than on one. Few items are ahead of the reader, so that memory stays bounded.
    """
    count = torch.get_num_threads()
    items = iter(items)
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # OpenMP's number is each thread's own, MKL's the whole process's: with two here, two workers would be four.
        torch.set_num_threads(1)
        waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(items, count + 1))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(items, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(count)
