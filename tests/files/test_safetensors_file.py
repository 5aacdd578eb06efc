import errno
import json
import re
import struct

import pytest
import safetensors
import safetensors.torch as safetensors_torch
import torch

from lib_lora.base.errors import StudioError
from lib_lora.files.safetensors_file import (
    DTYPE_BITS,
    TensorData,
    TensorInfo,
    header_bytes,
    read_header,
    replace_metadata,
    write_safetensors,
)

DTYPES = {
    "F16": torch.float16,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "BOOL": torch.bool,
}

ODD_TEXT = 'line\nbreak "quoted" \\ / ünïcode 猫 \x01\x7f\t\b\f\r'


def raw_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def sample():
    return {
        "b.half": TensorData("F16", (3,), b"\x00\x3c" * 3),
        "a.half": TensorData("F16", (1, 2), lambda: bytearray(b"\x00\x40" * 2)),
        "scalar": TensorData("F32", (), struct.pack("<f", 4.0)),
        "brain": TensorData("BF16", (2,), memoryview(b"\x80\x3f" * 2)),
        "long": TensorData("I64", (1,), struct.pack("<q", -7)),
        "é": TensorData("BOOL", (2,), b"\x01\x00"),
        "empty": TensorData("F32", (0, 5), b""),
    }


def test_a_written_file_is_byte_for_byte_the_librarys(tmp_path):
    tensors = sample()
    ours = tmp_path / "ours.safetensors"
    write_safetensors(ours, tensors, {"key": ODD_TEXT})
    with_torch = {
        name: torch.tensor(list(tensor.bytes()), dtype=torch.uint8).view(DTYPES[tensor.dtype]).reshape(tensor.shape)
        for name, tensor in tensors.items()
    }
    assert ours.read_bytes() == safetensors_torch.save(with_torch, {"key": ODD_TEXT})


def test_the_library_reads_what_was_written(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, sample(), {"ss_name": ODD_TEXT})
    read = dict(safetensors.deserialize(path.read_bytes()))
    assert {name: bytes(value["data"]) for name, value in read.items()} == {
        name: bytes(tensor.bytes()) for name, tensor in sample().items()
    }
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"ss_name": ODD_TEXT}


def test_read_header_gives_back_what_was_written(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, sample(), {"ss_name": ODD_TEXT})
    header = read_header(path)
    assert header.metadata == {"ss_name": ODD_TEXT}
    assert header.tensors["long"] == TensorInfo("I64", (1,), 0, 8)
    assert header.data_offset % 8 == 0
    raw = path.read_bytes()
    for name, tensor in sample().items():
        info = header.tensors[name]
        assert (info.dtype, info.shape) == (tensor.dtype, tensor.shape)
        assert raw[header.data_offset + info.begin : header.data_offset + info.end] == bytes(tensor.bytes())


def test_read_header_reads_a_file_without_metadata(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", {"a": TensorData("U8", (1,), b"x")})
    assert read_header(tmp_path / "x.safetensors").metadata == {}


def test_functions_are_called_one_at_a_time_in_file_order(tmp_path):
    calls = []

    def part(name, data):
        return lambda: (calls.append(name), data)[1]

    write_safetensors(
        tmp_path / "x.safetensors",
        {
            "a": TensorData("U8", (1,), part("a", b"1")),
            "z": TensorData("F32", (1,), part("z", b"1234")),
            "b": TensorData("F32", (1,), part("b", b"1234")),
        },
    )
    assert calls == ["b", "z", "a"]


def test_a_tensor_with_too_few_bytes_leaves_no_file(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="3 bytes"):
        write_safetensors(path, {"a": TensorData("F32", (1,), b"123")})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StudioError, match="full"):
        write_safetensors(path, {"a": TensorData("U8", (1,), full)})
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]


def test_metadata_that_are_no_text_are_refused():
    with pytest.raises(StudioError, match="ss_steps"):
        header_bytes({}, {"ss_steps": 3})
    with pytest.raises(StudioError, match="characters"):
        header_bytes({}, {"name": "\udcff"})


def test_every_dtype_of_the_library_is_known(tmp_path):
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(raw_file(tmp_path / "x", {"a": entry("NOPE")}).read_bytes())
    # "unknown variant `NOPE`, expected one of `BOOL`, ..."; older releases do not list them, newer ones may know more.
    listed = re.findall(r"`(\w+)`", str(caught.value))[1:]
    ours = [name for name in DTYPE_BITS if name in listed]
    assert [name for name in listed if name in DTYPE_BITS] == ours
    assert not listed or ours == list(DTYPE_BITS)


WEB_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>" * 4


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty"),
        (b"abc", "truncated"),
        (WEB_PAGE, "web page"),
        (b"\n\n  " + WEB_PAGE, "web page"),
        (b"\xef\xbb\xbf" + WEB_PAGE, "web page"),
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x08" + bytes(100), "zip"),
        (b"\x80\x02}q\x00(X\x0a\x00\x00\x00state_dictq\x01", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n", "Git LFS"),
        (b'{"error": "login required"}', "JSON"),
        (b"GGUF\x03\x00\x00\x00" + bytes(50), "GGUF"),
        (bytes(range(7, 200)), "damaged"),
        (struct.pack("<Q", 200_000_000) + b"{}", "200000000"),
        (struct.pack("<Q", 2**63) + b"{}", "header claims"),
        (struct.pack("<Q", 0x3C) + b'{"a":', "truncated inside its header"),
        (struct.pack("<Q", 0x280) + b'{"a":', "truncated inside its header"),
        (struct.pack("<Q", 2) + b"[]", "damaged"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(StudioError, match=words) as caught:
        read_header(path)
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    "header, data, words",
    [
        ({"a": entry()}, b"123", "truncated: its tensors need 4 bytes, 3 are there"),
        ({"a": entry()}, b"12345", "1 bytes at the end"),
        ({"a": entry(), "b": entry(offsets=(2, 6))}, b"123456", "overlaps"),
        ({"a": entry(), "b": entry(offsets=(6, 10))}, b"1234567890", "2 bytes before 'b'"),
        ({"a": entry("F32", (2,))}, b"1234", "not what its dtype and shape need"),
        ({"a": entry("F99")}, b"1234", "unknown dtype"),
        ({"a": entry(dtype=3)}, b"1234", "unknown dtype"),
        ({"a": entry(shape=(-4,))}, b"1234", "damaged"),
        ({"a": entry(shape=(True, 4))}, b"1234", "damaged"),
        ({"a": entry(offsets=(0, 4, 5))}, b"1234", "damaged"),
        ({"a": {"dtype": "U8"}}, b"", "damaged"),
        ({"a": 5}, b"", "damaged"),
        ({"__metadata__": {"n": 5}}, b"", "not text"),
        ({"__metadata__": ["n"]}, b"", "not text"),
        (b'{"a": ', b"", "no JSON"),
        (b'{"\xff": 1}', b"", "no JSON"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", b"", "JSON|damaged"),
        (
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
            "twice",
        ),
    ],
)
def test_a_damaged_header_says_what_is_wrong(tmp_path, header, data, words):
    path = raw_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(StudioError, match=words) as caught:
        read_header(path)
    assert caught.value.file == str(path)


def test_every_cut_of_a_whole_file_is_refused(tmp_path):
    path, cut = tmp_path / "x.safetensors", tmp_path / "cut.safetensors"
    write_safetensors(path, sample(), {"a": "b"})
    raw = path.read_bytes()
    for size in [*range(20), *range(20, len(raw), 7), len(raw) - 1]:
        cut.write_bytes(raw[:size])
        with pytest.raises(StudioError, match="truncated|empty"):
            read_header(cut)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(StudioError, match="no such file"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(StudioError, match="cannot be read"):
        read_header(tmp_path)


def test_new_metadata_leave_every_byte_of_the_tensors_in_its_place(tmp_path):
    path = tmp_path / "x.safetensors"
    # In another order than ours, as other writers have it.
    head = b'{"__metadata__":{"a":"1"},"y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
    head += b'"x":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}}'
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"\x01\x02\x03\x04")
    tensors = read_header(path).tensors
    replace_metadata(path, {"b": "2", "c": "ü" * 99})
    header = read_header(path)
    assert header.metadata == {"b": "2", "c": "ü" * 99} and header.tensors == tensors
    assert path.read_bytes()[header.data_offset :] == b"\x01\x02\x03\x04"


def test_metadata_that_are_no_text_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": TensorData("U8", (1,), b"\x05")}, {"a": "1"})
    before = path.read_bytes()
    with pytest.raises(StudioError):
        replace_metadata(path, {"a": 1})
    assert path.read_bytes() == before
