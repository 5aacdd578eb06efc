"""How much two pictures differ, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Difference:
    """Of two pictures of one size.

    Attributes:
        mean: mean absolute difference of all values, 0 to 1.
        changed: share of the values that differ by more than the threshold, 0 to 1.
        heat: [height, width], the mean over the channels, 0 to 1.
    """

    mean: float
    changed: float
    heat: np.ndarray


def difference(first: Path, second: Path, threshold: float) -> Difference:
    """|first - second| of two files.

    Args:
        threshold: 0 to 1.
    """
    apart = np.abs(_values(first) - _values(second))
    return Difference(float(apart.mean()), float((apart > threshold).mean()), apart.mean(axis=2))


def heat_map(heat: np.ndarray, top: float) -> Image.Image:
    """Black over red and yellow to white, which ``top`` and more is.

    Args:
        heat: [height, width].
        top: above 0.
    """
    share = np.clip(heat / top, 0.0, 1.0)[..., None]
    # The three channels rise one after the other, each over a third of the way.
    colours = np.clip(3.0 * share - np.arange(3.0), 0.0, 1.0)
    return Image.fromarray((255.0 * colours).round().astype(np.uint8))


def _values(path: Path) -> np.ndarray:
    """[height, width, 3] from 0 to 1."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255.0
