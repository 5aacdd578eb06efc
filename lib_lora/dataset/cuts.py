"""What the picture tools do to a picture, as geometry: which box of it, at what size, mirrored how. Pure functions.

One primitive, so that a picture and its mask are always treated alike. Boxes are (left, top, right, bottom) in px of
the upright picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.plan import Bucket, Size

Box = tuple[float, float, float, float]

_SEEN_PX = 128  # the side at which detail is looked for
_RIM_COLOURS = 64
_FLAT = 1e-9
_CENTRE = 0.15  # how much less the outermost window counts than the middle one


@dataclass(frozen=True)
class Cut:
    """Attributes:
    box: what is kept; whole px where ``size`` is None.
    size: (w, h) in px to which it is scaled, with Lanczos; None to leave it as it is.
    mirror: "" or "horizontal" (left and right change places) or "vertical".
    """

    box: Box
    size: Size | None = None
    mirror: str = ""

    def of(self, image: Image.Image) -> Image.Image:
        """The cut of ``image``, in its own mode, but for palettes, which cannot be scaled."""
        if self.size is None:
            cut = image.crop(tuple(round(side) for side in self.box))
        else:
            cut = _scaled(image, self.size, self.box)
        if self.mirror:
            ways = {"horizontal": Image.Transpose.FLIP_LEFT_RIGHT, "vertical": Image.Transpose.FLIP_TOP_BOTTOM}
            cut = cut.transpose(ways[self.mirror])
        return cut


def _scaled(image: Image.Image, size: Size, box: Box) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow scales 32 bits only, and may overshoot beyond the 16.
        wide = Image.fromarray(np.asarray(image).astype(np.int32)).resize(size, Image.Resampling.LANCZOS, box)
        return Image.fromarray(np.asarray(wide).clip(0, 65535).astype(np.uint16))
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode == "1":
        image = image.convert("L")
    return image.resize(size, Image.Resampling.LANCZOS, box)


def whole(size: Size) -> Box:
    return (0, 0, *size)


def checked_box(box: Box, size: Size) -> Box:
    """``box`` in whole px.

    Raises:
        StudioError: it is empty or reaches beyond the picture.
    """
    left, top, right, bottom = (round(side) for side in box)
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise StudioError(
            "not a box within the picture",
            field="box",
            came=f"{left},{top},{right},{bottom}",
            allowed=f"left < right up to {size[0]}, top < bottom up to {size[1]}",
        )
    return left, top, right, bottom


def largest_box(size: Size, aspect: float) -> Size:
    """(w, h) of the largest box of ``aspect`` = w / h in a picture, in whole px, at least 1."""
    width, height = size
    if width / height > aspect:
        return max(1, min(width, round(height * aspect))), height
    return width, max(1, min(height, round(width / aspect)))


def middle_box(size: Size, aspect: float) -> Box:
    width, height = largest_box(size, aspect)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def smart_box(image: Image.Image, aspect: float) -> Box:
    """The largest box of ``aspect`` = w / h where the picture shows most.

    The box touches two opposite sides, so that it can be moved one way only. Where it goes is where the sum of
    ``detail`` in it is largest; the middle counts a little more than the ends. A picture without any detail is cropped
    in its middle.
    """
    width, height = largest_box(image.size, aspect)
    room = (image.width - width, image.height - height)
    if room == (0, 0):
        return whole(image.size)
    across = room[0] > 0
    shown = detail(image)
    profile = shown.sum(axis=0 if across else 1)
    if np.ptp(profile) < _FLAT:
        return middle_box(image.size, aspect)
    length, full = (width, image.width) if across else (height, image.height)
    window = max(1, min(len(profile), round(length / full * len(profile))))
    sums = np.convolve(profile, np.ones(window), "valid")
    if len(sums) == 1:  # there is less room than one of the small picture's pixels
        return middle_box(image.size, aspect)
    off_centre = np.abs(np.linspace(-1, 1, len(sums)))
    best = int(np.argmax(sums * (1 - _CENTRE * off_centre)))
    start = round(best / (len(sums) - 1) * max(room))
    if across:
        return start, 0, start + width, height
    return 0, start, width, start + height


def detail(image: Image.Image) -> np.ndarray:
    """float64 [h, w], sum 1, long side at most 128: where the eye goes, without a model.

    Half of it is the strength of edges (the gradient of brightness), half how far a colour is from the nearest one of
    the upper and side borders, which are mostly background (figures touch the lower one): a flat-coloured figure
    counts, busy wallpaper does not count alone.
    """
    small = image.convert("RGB")
    small.thumbnail((_SEEN_PX, _SEEN_PX))
    colours = np.asarray(small, dtype=np.float64)
    grey = colours.mean(axis=2)
    edges = np.zeros_like(grey)
    edges[:-1] += np.abs(np.diff(grey, axis=0))
    edges[:, :-1] += np.abs(np.diff(grey, axis=1))
    rim = np.concatenate([colours[::-1, 0], colours[0], colours[:, -1]])
    rim = rim[np.linspace(0, len(rim) - 1, _RIM_COLOURS).round().astype(int)]
    contrast = np.sqrt(((colours[:, :, None] - rim) ** 2).sum(axis=3).min(axis=2))
    return _share(edges) / 2 + _share(contrast) / 2


def _share(values: np.ndarray) -> np.ndarray:
    total = values.sum()
    return values / total if total else np.full_like(values, 1 / values.size)


def bucket_cut(size: Size, bucket: Bucket, box: Box | None = None) -> Cut:
    """The cut that gives a picture of ``size`` exactly the bucket's resolution.

    Args:
        box: of the bucket's shape; None for the middle, and then the very pixels that training sees
            (``images.fit_to_bucket``).
    """
    if box is not None:
        return Cut(box, bucket.resolution)
    (width, height), (full_width, full_height) = bucket.resolution, bucket.resized
    left, top = (full_width - width) // 2, (full_height - height) // 2
    across, down = size[0] / full_width, size[1] / full_height
    right, bottom = min((left + width) * across, size[0]), min((top + height) * down, size[1])
    return Cut((left * across, top * down, right, bottom), bucket.resolution)


def split_boxes(size: Size, aspect: float, overlap: float) -> list[Box]:
    """The fewest equal boxes whose long side is at most ``aspect`` times the short one, along the long side.

    Args:
        overlap: the share of a box, 0 to below 1, that the next one shows again, at least.
    """
    long, short = max(size), min(size)
    length = min(long, math.floor(short * aspect))
    step = max(1.0, length * (1 - overlap))
    count = 1 + max(0, math.ceil((long - length) / step))
    starts = [round(index * (long - length) / max(1, count - 1)) for index in range(count)]
    if size[1] >= size[0]:
        return [(0, start, size[0], start + length) for start in starts]
    return [(start, 0, start + length, size[1]) for start in starts]
