from __future__ import annotations

import hashlib
import json
import os

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.files import file_hashes
from lib_lora.files.file_hashes import HashAhead, remember_sha256, sha256_steps


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(file_hashes, "WORTH_KEEPING_BYTES", 100)
    monkeypatch.setattr(file_hashes, "_BLOCK_BYTES", 64)


def run(path, store):
    """(hash, steps)."""
    steps, work = [], sha256_steps(path, store)
    while True:
        try:
            steps.append(next(work))
        except StopIteration as end:
            return end.value, steps


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 150)
    return path


def test_the_hash_comes_with_its_progress_and_is_remembered(file, tmp_path):
    store, expected = tmp_path / "cache" / "hashes.json", hashlib.sha256(b"a" * 150).hexdigest()
    assert run(file, store) == (expected, [(64, 150), (128, 150), (150, 150)])
    assert run(file, store) == (expected, [])


def test_a_changed_file_is_hashed_again(file, tmp_path):
    store = tmp_path / "hashes.json"
    run(file, store)
    changed = file.stat().st_mtime_ns + 1_000_000_000
    file.write_bytes(b"b" * 150)
    os.utime(file, ns=(changed, changed))
    assert run(file, store)[0] == hashlib.sha256(b"b" * 150).hexdigest()
    file.write_bytes(b"b" * 151)
    os.utime(file, ns=(changed, changed))
    assert run(file, store)[0] == hashlib.sha256(b"b" * 151).hexdigest()


def test_small_files_are_not_remembered(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a" * 99)
    assert run(path, tmp_path / "hashes.json")[0] == hashlib.sha256(b"a" * 99).hexdigest()
    assert not (tmp_path / "hashes.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "\xff"])
def test_a_damaged_store_counts_as_empty(file, tmp_path, content):
    store = tmp_path / "hashes.json"
    store.write_text(content, encoding="latin-1")
    assert run(file, store)[0] == hashlib.sha256(b"a" * 150).hexdigest()
    assert list(json.loads(store.read_text())) == [str(file.resolve())]


def test_other_files_stay_remembered(file, tmp_path):
    store, other = tmp_path / "hashes.json", tmp_path / "other"
    other.write_bytes(b"c" * 200)
    run(file, store)
    run(other, store)
    assert run(file, store)[1] == [] and run(other, store)[1] == []


def test_a_stopped_hash_is_not_remembered(file, tmp_path):
    store = tmp_path / "hashes.json"
    work = sha256_steps(file, store)
    next(work)
    work.close()
    assert not store.exists()


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(StudioError, match="cannot be read"):
        run(tmp_path / "none", tmp_path / "hashes.json")


def test_a_store_that_cannot_be_written_costs_nothing_but_time(file, tmp_path):
    (tmp_path / "no folder").write_text("")
    assert run(file, tmp_path / "no folder" / "hashes.json")[0] == hashlib.sha256(b"a" * 150).hexdigest()


def finish(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_a_hash_begun_ahead_is_the_same_and_is_remembered(file, tmp_path):
    ahead = HashAhead(file, tmp_path / "hashes.json")
    assert finish(ahead.steps()) == hashlib.sha256(b"a" * 150).hexdigest() == finish(ahead.steps())
    assert run(file, tmp_path / "hashes.json") == (hashlib.sha256(b"a" * 150).hexdigest(), [])


def test_the_error_of_a_hash_begun_ahead_comes_when_it_is_wanted(tmp_path):
    ahead = HashAhead(tmp_path / "gone.safetensors", tmp_path / "hashes.json")
    with pytest.raises(StudioError, match="gone"):
        finish(ahead.steps())


def test_who_knows_a_hash_spares_the_work(file, tmp_path):
    store = tmp_path / "cache" / "hashes.json"
    remember_sha256(file, store, "known")
    assert run(file, store) == ("known", [])
    file.write_bytes(b"b" * 151)
    assert run(file, store)[0] == hashlib.sha256(b"b" * 151).hexdigest()
