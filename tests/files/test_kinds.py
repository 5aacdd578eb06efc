"""Files that are no models at all. More of them, through the readers: test_safetensors_file.py, test_torch_file.py."""

from __future__ import annotations

import pytest

from lib_lora.files.kinds import kind_of_start


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\xef\xbb\xbf\r\n<!doctype html>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        (b"GIF89a" + bytes(20), "picture"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7-Zip"),
        (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "Keras"),
        (b"%PDF-1.7\n" + bytes(20), "PDF"),
        (b"Not Found: the model was removed\n", "text saved under this name; it begins with 'Not Found"),
        (bytes(512), "unfinished download"),
        (b"\x07" + bytes(20), "no model file that we know"),
        (b"\x81\x82\x83" * 10, "no model file that we know"),
    ],
)
def test_the_first_bytes_tell(start, words):
    assert words in kind_of_start(start, 1000)


def test_size_comes_first():
    assert kind_of_start(b"", 0) == "the file is empty"
    assert "truncated: it has 3 bytes" in kind_of_start(b"\x07\x08\x09", 3)
