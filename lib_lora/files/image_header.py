"""Size and kind of a picture from its header: nothing is decoded, so thousands take seconds."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib_lora.base.errors import StudioError

if TYPE_CHECKING:
    from PIL import Image

PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# By content, whatever the extension says. Few on purpose: some of Pillow's readers start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_EXIF_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)


@dataclass(frozen=True)
class ImageHeader:
    """Attributes:
    width_px, height_px: as a viewer shows the picture, that is after EXIF rotation.
    mode: Pillow's mode of the stored pixels ("RGB", "P", "CMYK", "I;16", ...).
    animated: there are several frames; training takes the first.
    """

    width_px: int
    height_px: int
    mode: str
    animated: bool


def read_header(path: str | Path) -> ImageHeader:
    """The header of a PNG, JPEG, WebP or BMP picture.

    Raises:
        StudioError: no such file, an empty one, or none of these formats.
    """
    header = _plain_webp(path) if os.fspath(path).lower().endswith(".webp") else None
    if header is not None:
        return header
    try:
        with open_image(path) as image:
            width, height = image.size
            if orientation(image) in _SIDEWAYS:
                width, height = height, width
            return ImageHeader(width, height, image.mode, is_animated(image))
    except StudioError:
        raise
    except Exception as fault:
        raise unreadable(path, fault) from fault


_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"


def _plain_webp(path: str | Path) -> ImageHeader | None:
    """The header of a WebP picture that is one frame without metadata; None for all others, and for damaged ones.

    Pillow reads a WebP whole and makes room for its pixels, which takes ten times as long. RFC 9649, sections 2.5
    (lossy, with the frame header of RFC 6386, section 9.1) and 2.6 (lossless).
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data, size_bytes = file.read(30), os.fstat(file.fileno()).st_size
        riff, riff_bytes, webp, kind, chunk_bytes = struct.unpack_from("<4sI4s4sI", data)
        # RIFF counts what stands behind these 8 bytes, a chunk what stands behind these 20.
        if (riff, webp) != (b"RIFF", b"WEBP") or riff_bytes + 8 > size_bytes or chunk_bytes + 20 > size_bytes:
            return None
        if kind == _LOSSY and not data[20] & 1 and data[23:26] == b"\x9d\x01\x2a":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
            return ImageHeader(width, height, "RGB", animated=False) if width and height else None
        if kind == _LOSSLESS and data[20] == 0x2F:
            bits = int.from_bytes(data[21:25], "little")
            mode = "RGBA" if bits >> 28 & 1 else "RGB"
            return ImageHeader(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), mode, animated=False)
    except (OSError, struct.error, IndexError):
        return None
    return None


def is_animated(image: Image.Image) -> bool:
    """Whether it has several frames. An MPO's further pictures are a phone's previews and depth maps."""
    return bool(getattr(image, "is_animated", False)) and image.format != "MPO"


def open_image(path: str | Path) -> Image.Image:
    """Pillow's picture with its header read and its pixels not yet decoded. The caller closes it.

    Raises:
        StudioError: no such file, an empty one, or none of the formats.
    """
    from PIL import Image

    try:
        return Image.open(path, formats=_FORMATS)
    except Exception as fault:  # damaged headers raise nearly anything: struct.error, SyntaxError, ValueError, ...
        raise unreadable(path, fault) from fault


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or it makes no sense.

    Only EXIF counts, and only what stands before the pixels: Pillow's ``getexif`` would decode a whole PNG
    to look behind them, and which other places it looks at differs from version to version.
    """
    from PIL import Image

    data = image.info.get("exif")
    if not data:
        return 1
    exif = Image.Exif()
    try:
        exif.load(data)
        value = exif.get(_ORIENTATION_TAG, 1)
    except _EXIF_FAULTS:  # damaged EXIF does not make the pixels worse
        return 1
    return value if value in range(1, 9) else 1


def unreadable(path: str | Path, fault: Exception) -> StudioError:
    """The error for a picture that Pillow could not read, with a reason that a person can act on."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(fault, FileNotFoundError):
        reason = "the file does not exist"
    elif os.path.isdir(path):  # Windows calls that a lack of permission
        reason = "it is a folder"
    elif isinstance(fault, PermissionError):
        reason = "no permission to read it"
    elif os.path.getsize(path) == 0:
        reason = "the file is empty"
    elif isinstance(fault, UnidentifiedImageError):
        reason = "not a PNG, JPEG, WebP or BMP picture, or damaged"
    elif isinstance(fault, Image.DecompressionBombError):
        reason = f"more pixels than Pillow allows ({fault})"
    else:
        reason = f"damaged ({fault})" if str(fault) else f"damaged ({type(fault).__name__})"
    return StudioError(f"the picture cannot be read: {reason}", file=path)
