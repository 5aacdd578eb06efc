"""From a picture file to the pixels that training sees."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.plan import Bucket, Size
from lib_lora.dataset.records import ImageRecord
from lib_lora.files.image_header import open_image, orientation, unreadable

WHITE = (255, 255, 255)
Crop = tuple[int, int]  # (left, top) in px of the resized picture

# EXIF 2.32, tag 0x0112: what is to be done to the stored pixels so that the picture stands upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class FittedImage(NamedTuple):
    """Attributes:
    pixels: uint8 [h, w, 3], RGB, of the bucket's resolution.
    crop: (top, left) in px: where the crop begins in the resized picture.
    original_size: (w, h) in px of the upright picture before it was resized.
    """

    pixels: np.ndarray
    crop: tuple[int, int]
    original_size: Size

    def flipped(self, full_width: int) -> FittedImage:
        """Its mirror image; ``full_width`` is the resized picture's, what is left of the crop was right of it."""
        top, left = self.crop
        mirrored = np.ascontiguousarray(self.pixels[:, ::-1])
        return FittedImage(mirrored, (top, full_width - self.pixels.shape[1] - left), self.original_size)


def load_image(
    path: str | Path, background: tuple[int, int, int] = WHITE, *, at_least: Size | None = None
) -> Image.Image:
    """A picture in RGB, upright, with transparency laid on ``background``; of an animation the first frame.

    Args:
        at_least: (w, h) in px that suffice. A JPEG is then read at 1/2, 1/4 or 1/8 of its size where that is no
            less, which takes a quarter of the time; every other picture comes whole.

    Raises:
        StudioError: the file is missing, damaged, cut short or no picture.
    """
    try:
        with open_image(path) as image:
            turn = orientation(image)
            if at_least is not None:
                image.draft(None, at_least)
            rgb = to_rgb(image, background)
    except StudioError:
        raise
    except Exception as fault:  # decoders raise nearly anything on damaged data
        raise unreadable(path, fault) from fault
    return upright(rgb, turn)


def upright(image: Image.Image, turn: int) -> Image.Image:
    """The picture as a viewer shows it; ``turn`` is EXIF's orientation, 1 to 8."""
    return image if turn == 1 else image.transpose(_UPRIGHT[turn])


def fit_to_bucket(image: Image.Image, bucket: Bucket, crop: Crop | None = None) -> FittedImage:
    """Scale ``image`` (RGB) to ``bucket.resized`` and cut ``bucket.resolution`` out of its middle, or at ``crop``.

    Lanczos in both directions: Pillow widens the filter when it shrinks, so that fine patterns do not alias,
    and gives the same pixels on every system.
    """
    (width, height), (full_width, full_height) = bucket.resolution, bucket.resized
    if full_width < width or full_height < height:
        raise ValueError(f"a picture resized to {bucket.resized} does not cover its bucket {bucket.resolution}")
    left, top = crop or middle_crop(bucket)
    fitted = _resized_crop(image, bucket, left, top, Image.Resampling.LANCZOS)
    return FittedImage(np.array(fitted, dtype=np.uint8), (top, left), image.size)


def middle_crop(bucket: Bucket) -> Crop:
    """Where the crop begins that leaves as much on both sides."""
    (width, height), (full_width, full_height) = bucket.resolution, bucket.resized
    return (full_width - width) // 2, (full_height - height) // 2


def _resized_crop(image: Image.Image, bucket: Bucket, left: int, top: int, how: Image.Resampling) -> Image.Image:
    """The bucket's part of the resized picture, which begins at ``left`` and ``top``, in px of that.

    Only what stays is computed: a strip of 1 x 3000 px resized whole would fill the memory.
    """
    (width, height), (full_width, full_height) = bucket.resolution, bucket.resized
    across, down = image.width / full_width, image.height / full_height
    box = (
        left * across,
        top * down,
        min((left + width) * across, image.width),
        min((top + height) * down, image.height),
    )
    return image.resize((width, height), how, box=box)


def load_fitted(
    record: ImageRecord,
    bucket: Bucket,
    background: tuple[int, int, int] = WHITE,
    *,
    crop: Crop | None = None,
    flipped: bool = False,
) -> FittedImage:
    """The pixels of a planned picture, or of its mirror image.

    Args:
        crop: of the picture before it is mirrored; None is the middle.

    Raises:
        StudioError: as ``load_image``, or the picture has another size than when it was planned.
    """
    image = load_image(record.path, background)
    planned = (record.width_px, record.height_px)
    if image.size != planned:
        raise StudioError(
            "the picture has changed since the dataset was read",
            file=record.path,
            came=_size_text(image.size),
            allowed=_size_text(planned),
        )
    fitted = fit_to_bucket(image, bucket, crop)
    return fitted.flipped(bucket.resized[0]) if flipped else fitted


def load_fitted_mask(
    record: ImageRecord, bucket: Bucket, *, crop: Crop | None = None, flipped: bool = False
) -> np.ndarray | None:
    """The mask of a planned picture, cut as the picture is: uint8 [h, w], 255 where the loss counts.

    Returns:
        None where the picture has none.

    Raises:
        StudioError: as ``load_image``, or the mask has another size than its picture.
    """
    if record.mask is None:
        return None
    mask = load_image(record.mask).convert("L")
    if mask.size != (record.width_px, record.height_px):
        raise StudioError(
            "the mask has another size than its picture",
            file=record.mask,
            came=_size_text(mask.size),
            allowed=_size_text((record.width_px, record.height_px)),
        )
    return _fitted_mask(mask, bucket, crop, flipped)


def load_fitted_alpha(
    record: ImageRecord, bucket: Bucket, *, crop: Crop | None = None, flipped: bool = False
) -> np.ndarray | None:
    """How opaque a planned picture is, cut as it is: uint8 [h, w]; None where it has no transparency.

    Raises:
        StudioError: the picture cannot be read.
    """
    try:
        with open_image(record.path) as image:
            turn = orientation(image)
            if not _is_transparent(image):
                return None
            alpha = image.convert("RGBA").getchannel("A")
    except StudioError:
        raise
    except Exception as fault:  # decoders raise nearly anything on damaged data
        raise unreadable(record.path, fault) from fault
    return _fitted_mask(upright(alpha, turn), bucket, crop, flipped)


def _fitted_mask(mask: Image.Image, bucket: Bucket, crop: Crop | None, flipped: bool) -> np.ndarray:
    """Averaged: Lanczos would leave rings around the edge, where the loss would count negatively."""
    left, top = crop or middle_crop(bucket)
    fitted = np.array(_resized_crop(mask, bucket, left, top, Image.Resampling.BOX), dtype=np.uint8)
    return np.ascontiguousarray(fitted[:, ::-1]) if flipped else fitted


def _is_transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """8-bit RGB, with transparency laid on ``background``."""
    if image.mode.startswith("I"):
        return _from_16_bit_grey(image)
    if _is_transparent(image):
        transparent = image.convert("RGBA")
        canvas = Image.new("RGBA", transparent.size, (*background, 255))
        return Image.alpha_composite(canvas, transparent).convert("RGB")
    return image.convert("RGB")


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    """16-bit grey as RGB: floor(v * 255 / 65535 + 1/2), section 13.12 of the PNG specification.

    Pillow's own conversion would clip everything above 255 to white.
    """
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    grey = ((values * 255 * 2 + 65535) // (65535 * 2)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
