"""What a file is that is no model at all, from its first bytes."""

from __future__ import annotations

START_BYTES = 512

_MARKS = (
    (b"PK\x03\x04", "a zip archive, such as a PyTorch .ckpt or .pt"),
    (b"\x80\x02", "a pickle, such as an old PyTorch .ckpt"),
    (b"<", "a web page saved under this name: the download was answered with a page instead of the file"),
    (b"version https://git-lfs", "a Git LFS pointer: the text that stands for the file, not the file"),
    (b"{", "JSON text saved under this name, such as the error message of a download site"),
    (b"GGUF", "a GGUF model, quantised for other programs; a LoRA is trained on the model that it was made from"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"GIF8", "a picture (GIF)"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file, such as a Keras model"),
    (b"%PDF", "a PDF document"),
)


def kind_of_start(start: bytes, size: int) -> str:
    """A sentence for a file whose first bytes (up to ``START_BYTES``) are none that a model begins with."""
    if size == 0:
        return "the file is empty"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, words in _MARKS:
        if text.startswith(mark):
            return f"this is {words}"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "this is a picture (WebP)"
    if size < 10:
        return f"the file is truncated: it has {size} bytes"
    if not start.strip(b"\0"):
        return "the file begins with zeros: an unfinished download, whose place was reserved but not yet filled"
    if _is_text(start):
        return f"this is text saved under this name; it begins with {start[:60].decode('utf-8', 'replace')!r}"
    return "this is no model file that we know, or its beginning is damaged"


def _is_text(start: bytes) -> bool:
    return start.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in start) and b"\x7f" not in start
