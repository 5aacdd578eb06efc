"""A queue, and a host for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tiny_host import TinyHost


@pytest.fixture
def host(tmp_path, tiny_checkpoint) -> TinyHost:
    return TinyHost(tmp_path, tiny_checkpoint)


@pytest.fixture
def values(train_options) -> dict[str, Any]:
    """A form's values: three steps on the checkpoint that ``host`` has loaded."""
    own = {name: value for name, value in train_options.items() if name != "output_dir"}
    return {**own, "pretrained_model_name_or_path": str(own["pretrained_model_name_or_path"]),
            "train_data_dir": str(own["train_data_dir"])}  # fmt: skip


@pytest.fixture
def open_queue() -> Iterator[Callable[..., Any]]:
    """``open_queue(host)``: a queue, started unless told otherwise, and closed at the test's end."""
    from lib_lora.jobs.queue import JobQueue

    queues = []

    def make(host: TinyHost, *, start: bool = True) -> JobQueue:
        queues.append(JobQueue(host))
        if start:
            queues[-1].start()
        return queues[-1]

    yield make
    for queue in queues:
        queue.close(10)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What ``condition`` gives once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError("it did not come about")
