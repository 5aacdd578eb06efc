"""Caption files as people's tools leave them: which encodings are read and which line counts."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.errors import StudioError

_ENCODINGS_READ = "UTF-8, or UTF-16 with a byte order mark"
_ENCODING_OF_MARK = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@dataclass(frozen=True)
class Caption:
    """What a caption file says.

    Attributes:
        text: the first line that is not blank, without spaces around it.
        more: the further lines that are not blank.
    """

    text: str
    more: tuple[str, ...] = ()

    @property
    def lines_unused(self) -> int:
        return len(self.more)


def read_caption(path: str | Path) -> Caption:
    """The caption in a file. The first line counts, as in sd-scripts (``read_caption`` in train_util.py).

    Raises:
        StudioError: the file cannot be read, is neither UTF-8 nor UTF-16, or holds nothing but white space.
    """
    caption = parse_caption(read_text(path))
    if not caption.text:
        raise StudioError(
            "the caption file is empty",
            file=path,
            allowed="a caption, or no caption file at all (then the folder's name is the caption)",
        )
    return caption


def parse_caption(text: str) -> Caption:
    """The caption in a file's whole text; an empty one where there is nothing but white space."""
    if "\n" not in text and "\r" not in text:
        return Caption(text.strip())
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    lines = [line for line in lines if line]
    return Caption(lines[0], tuple(lines[1:])) if lines else Caption("")


_FIRST_LINE = re.compile(r"\S(?:[^\r\n]*\S)?")


def replace_caption(data: bytes, caption: str, path: str | Path) -> bytes:
    """A caption file's bytes with another caption: encoding, byte order mark, line ends and further lines stay.

    Raises:
        StudioError: ``data`` is neither UTF-8 nor UTF-16; ``path`` is for the error only.
    """
    text = decode_text(data, path)
    first = _FIRST_LINE.search(text)
    changed = text[: first.start()] + caption + text[first.end() :] if first else caption
    mark = next((mark for mark in _ENCODING_OF_MARK if data.startswith(mark)), b"")
    return mark + changed.encode(_ENCODING_OF_MARK.get(mark, "utf-8"))


def read_text(path: str | Path) -> str:
    """The whole text of a file in UTF-8 (with or without byte order mark) or in UTF-16 with one.

    Raises:
        StudioError: the file cannot be read or has another encoding.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as fault:
        raise StudioError(f"cannot be read: {fault.strerror or fault}", file=path) from fault
    return decode_text(data, path)


def decode_text(data: bytes, path: str | Path) -> str:
    """``data`` as text; ``path`` is for the error only."""
    has_utf16_mark = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if has_utf16_mark else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as fault:
        name = "UTF-16" if has_utf16_mark else "UTF-8"
        raise StudioError(
            f"the text is not {name} (byte 0x{data[min(fault.start, len(data) - 1)]:02x} at position {fault.start})",
            file=path,
            allowed=_ENCODINGS_READ,
        ) from fault
    if "\0" in text:
        # UTF-16 without its mark, UTF-32, or no text at all: each of them decodes without an error.
        raise StudioError("the text is not UTF-8 (it holds zero bytes)", file=path, allowed=_ENCODINGS_READ)
    return text
