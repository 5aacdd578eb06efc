from __future__ import annotations

import threading

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.training.cache import TensorCache, file_identity, make_key, weights_identity

KEY = make_key(what="test")


def some(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 5), value), "b": torch.arange(4, dtype=torch.bfloat16)}


def test_what_was_put_comes_back_bit_for_bit(tmp_path):
    TensorCache(tmp_path / "new").put(KEY, some())
    found = TensorCache(tmp_path / "new").get(KEY)
    assert found.keys() == some().keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in some().items()
    )
    assert TensorCache(tmp_path).get(KEY) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "bit"])
def test_a_broken_file_counts_as_none_and_is_noted_and_replaced(tmp_path, damage):
    cache = TensorCache(tmp_path)
    cache.put(KEY, some())
    path = cache.path(KEY)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"cut": data[:-5], "empty": b"", "text": b"<html>" * 9, "bit": bytes(data)}[damage])
    assert cache.get(KEY) is None
    assert [str(path) in note for note in cache.take_notes()] == [True] and cache.take_notes() == []
    cache.put(KEY, some(2.0))
    assert torch.equal(cache.get(KEY)["a"], some(2.0)["a"])


def test_a_key_has_all_that_it_is_made_of():
    keys = {
        make_key(a=1, b="x"),
        make_key(a=1, b="y"),
        make_key(a=2, b="x"),
        make_key(a=1, c="x"),
        make_key(a="1", b="x"),
    }
    assert len(keys) == 5 and make_key(b="x", a=1) in keys


def test_weights_are_known_by_names_shapes_dtypes_and_values():
    def layer(value: float = 1.0, dtype=torch.float32, shape=(2, 3), bias=False):
        made = torch.nn.Linear(*shape, bias=bias, dtype=dtype)
        torch.nn.init.constant_(made.weight, value)
        return made

    assert weights_identity([layer()]) == weights_identity([layer()])
    others = [layer(2.0), layer(dtype=torch.bfloat16), layer(shape=(3, 2)), layer(bias=True)]
    assert len({weights_identity([other]) for other in [layer(), *others]}) == 5
    assert weights_identity([layer(), layer(2.0)]) != weights_identity([layer(2.0), layer()])


def test_a_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    first = file_identity(path)
    path.write_bytes(b"x" * 2_999_999 + b"y")
    assert file_identity(path) != first
    with pytest.raises(StudioError, match="missing"):
        file_identity(tmp_path / "missing")


def test_writers_at_once_never_show_a_half_written_file(tmp_path):
    cache, faults, stop = TensorCache(tmp_path), [], threading.Event()
    large = {"a": torch.ones(50_000)}
    cache.put(KEY, large)

    def write():
        own = TensorCache(tmp_path)
        for _ in range(15):
            own.put(KEY, large)

    def read():
        own = TensorCache(tmp_path)
        while not stop.is_set():
            if own.get(KEY) is None:
                faults.extend(own.take_notes())

    writers, reader = [threading.Thread(target=write) for _ in range(3)], threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert faults == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [cache.path(KEY).name]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudioError, match="file"):
        TensorCache(tmp_path / "file").put(KEY, some())
