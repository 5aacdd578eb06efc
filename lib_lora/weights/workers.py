"""The same work on many layers, one processor core each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from threading import Lock
from typing import TypeVar

import torch

from lib_lora.base.signals import Control

CHUNK_ELEMENTS = 1 << 22  # of a weight that are in memory in a wider format at a time
_LARGE = Lock()
_MOST_WORKERS = 4  # each holds a layer several times over: of SDXL's largest 200 MB
T = TypeVar("T")
R = TypeVar("R")


class Stopped(Exception):
    """Somebody wants the work to stop, and nothing of it to be written."""


def check_stop(control: Control) -> None:
    """Raises Stopped where that is wanted."""
    if control.stopping:
        raise Stopped


def alone_if_large(elements: int) -> AbstractContextManager[object]:
    """For whole matrices in wide formats: large ones are made one at a time, whatever the number of workers."""
    return _LARGE if elements > CHUNK_ELEMENTS else nullcontext()


def each(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``work`` of each item, in the order of the items; whoever stops reading stops the work.

    As many items are at work as torch has threads here, but no more than four, each on one thread: LAPACK's small
    problems take longer on two threads than on one. Few items are ahead of the reader, so that memory stays bounded.
    """
    threads = torch.get_num_threads()
    count = min(threads, _MOST_WORKERS)
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
            torch.set_num_threads(threads)
