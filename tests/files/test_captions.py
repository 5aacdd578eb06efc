"""Caption files in the encodings that editors on Windows and Linux write."""

from __future__ import annotations

import codecs

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.files.captions import Caption, parse_caption, read_caption, read_text, replace_caption

TEXT = "1girl, blå hår, 猫"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode("utf-8"),
        codecs.BOM_UTF8 + TEXT.encode("utf-8"),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16 little endian", "utf-16 big endian"],
)
def test_every_encoding_gives_the_same_caption(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    assert read_caption(path) == Caption(TEXT)


@pytest.mark.parametrize(
    "data",
    ["blå".encode("latin-1"), "猫耳".encode("shift-jis"), TEXT.encode("utf-16-le"), TEXT.encode("utf-32")],
    ids=["latin-1", "shift-jis", "utf-16 without mark", "utf-32"],
)
def test_another_encoding_is_refused_with_file_and_encoding(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(StudioError, match="UTF-8") as fault:
        read_caption(path)
    assert fault.value.file == str(path)


def test_utf16_cut_in_half_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF16_LE + b"a\0b")
    with pytest.raises(StudioError, match="UTF-16"):
        read_caption(path)


@pytest.mark.parametrize("data", [b"", b" \r\n\t\n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_a_file_without_words_is_refused(tmp_path, data):
    path = tmp_path / "a.caption"
    path.write_bytes(data)
    with pytest.raises(StudioError, match="empty") as fault:
        read_caption(path)
    assert fault.value.file == str(path)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_the_first_line_counts_and_the_others_are_counted(tmp_path, line_end):
    path = tmp_path / "a.txt"
    path.write_bytes(line_end.join([b"", b"  a cat  ", b"", b"on a mat", b"at noon", b""]))
    assert read_caption(path) == Caption("a cat", ("on a mat", "at noon"))


def test_a_unicode_line_separator_does_not_cut_a_caption(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a\u2028b\x85c", encoding="utf-8")
    assert read_caption(path) == Caption("a\u2028b\x85c")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StudioError) as fault:
        read_text(tmp_path / "none.txt")
    assert fault.value.file == str(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", b"new"),
        (b" \r\n", b"new"),
        (b"old", b"new"),
        (b"\r\n old, er \t\r\n\r\nsecond", b"\r\n new \t\r\n\r\nsecond"),
        (codecs.BOM_UTF8 + b"old\n", codecs.BOM_UTF8 + b"new\n"),
        (codecs.BOM_UTF8, codecs.BOM_UTF8 + b"new"),
        (codecs.BOM_UTF16_LE + "alt\n猫".encode("utf-16-le"), codecs.BOM_UTF16_LE + "new\n猫".encode("utf-16-le")),
    ],
)
def test_another_caption_leaves_the_rest_of_the_file_as_it_is(data, expected):
    assert replace_caption(data, "new", "a.txt") == expected


@pytest.mark.parametrize("text", ["a", "a\u2028b", "\x0ba b\x0c", "\n\n a, b \r c"])
def test_what_is_replaced_is_what_is_read(text):
    changed = replace_caption(text.encode("utf-8"), "new", "a.txt").decode("utf-8")
    assert parse_caption(changed) == Caption("new", parse_caption(text).more)


def test_a_file_in_another_encoding_is_not_touched():
    with pytest.raises(StudioError, match="UTF-8"):
        replace_caption("blå".encode("latin-1"), "new", "a.txt")
