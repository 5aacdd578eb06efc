from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.jobs.caches import DEFAULT_LIMIT_BYTES, cache_folder, cache_view, clear_cache, set_limit, trim_cache
from lib_lora.training.cache import TensorCache

BYTES = 1000


@pytest.fixture
def files(host) -> list[Path]:
    """Four files of 1000 bytes, last used 40, 30, 20 and 10 seconds ago."""
    paths = []
    for index in range(4):
        path = cache_folder(host) / ("latents" if index % 2 else "texts") / "ab" / f"{index}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * BYTES)
        used = time.time() - 10 * (4 - index)
        os.utime(path, (used, used))
        paths.append(path)
    return paths


def left(files) -> list[int]:
    return [index for index, path in enumerate(files) if path.exists()]


def test_size_limit_and_folder_are_told(host, files):
    (cache_folder(host) / "hashes.json").write_text("{}", encoding="utf-8")
    assert cache_view(host) == {
        "bytes": 4 * BYTES,
        "limit_bytes": DEFAULT_LIMIT_BYTES,
        "folder": str(host.data_dir / "cache"),
    }


def test_an_empty_cache_is_empty(host):
    assert cache_view(host)["bytes"] == 0 and trim_cache(host) == 0 and clear_cache(host) == 0


def test_what_was_not_used_for_longest_goes_first_and_no_more_than_must(host, files):
    set_limit(host, 2 * BYTES + 500)
    assert trim_cache(host) == 2 * BYTES
    assert left(files) == [2, 3] and cache_view(host)["limit_bytes"] == 2 * BYTES + 500
    assert trim_cache(host) == 0


def test_use_renews_a_file(host):
    cache = TensorCache(cache_folder(host) / "latents")
    for key in ("aaa", "bbb"):
        cache.put(key, {"x": torch.zeros(1)})
        os.utime(cache.path(key), (1000.0, 1000.0 if key == "aaa" else 2000.0))
    assert cache.get("aaa") is not None
    set_limit(host, cache.path("aaa").stat().st_size)
    trim_cache(host)
    assert cache.path("aaa").exists() and not cache.path("bbb").exists()


def test_what_a_running_job_has_used_stays(host, files):
    set_limit(host, 0)
    assert trim_cache(host, in_use_since=time.time() - 25) == 2 * BYTES and left(files) == [2, 3]
    assert clear_cache(host, in_use_since=time.time() - 15) == BYTES and left(files) == [3]


def test_clearing_deletes_all_and_keeps_what_is_known_of_checkpoints(host, files):
    hashes = cache_folder(host) / "hashes.json"
    hashes.write_text("{}", encoding="utf-8")
    assert clear_cache(host) == 4 * BYTES
    assert left(files) == [] and hashes.exists()


@pytest.mark.parametrize("limit", [-1, 1.5, "1", True, None])
def test_a_limit_is_a_number_of_bytes(host, limit):
    with pytest.raises(StudioError) as caught:
        set_limit(host, limit)
    assert caught.value.field == "limit_bytes"


def test_a_broken_limit_is_told_and_nothing_is_deleted(host, files):
    (host.data_dir / "cache.json").write_text("{", encoding="utf-8")
    with pytest.raises(StudioError, match=r"cache\.json"):
        trim_cache(host)
    assert left(files) == [0, 1, 2, 3]


def test_a_jobs_end_keeps_the_limit(host, values, open_queue, files):
    set_limit(host, BYTES)
    queue = open_queue(host)
    job = queue.add("train", {**values, "max_train_steps": 1})
    deadline = time.monotonic() + 60
    while queue.job(job.id).view()["status"] not in ("done", "failed") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert queue.job(job.id).view()["status"] == "done"
    assert left(files) == [3]
