"""What may be changed in a picture from one epoch to the next, so that a LoRA does not learn it: place and colour.

The choices and their chances are sd-scripts' (kohya-ss/sd-scripts 48d368f, ``AugHelper`` and ``random_crop`` in
library/train_util.py); each draw has an owner.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from lib_lora.base.seeds import Owner
from lib_lora.dataset.plan import Bucket

_TONE_CHANCE = 0.33
_MOST_DEGREES = 16.0  # 8 of OpenCV's 180 hues
_GAMMAS = (0.95, 1.05)


class Tone(NamedTuple):
    """A change of colour: the hue turned by ``degrees``, or each channel c from 0 to 1 as c ** ``gamma``."""

    degrees: float = 0.0
    gamma: float = 1.0


def draw_crop(bucket: Bucket, owner: Owner) -> tuple[int, int]:
    """(left, top) in px of the resized picture, anywhere that the bucket fits."""
    (width, height), (full_width, full_height) = bucket.resolution, bucket.resized
    draw = owner.generator("crop")
    return draw.randint(0, full_width - width), draw.randint(0, full_height - height)


def draw_tone(owner: Owner) -> Tone | None:
    """A third of the samples has another tone: half of these by hue, half by gamma."""
    draw = owner.generator("colour")
    if draw.random() >= _TONE_CHANCE:
        return None
    if draw.random() < 0.5:
        return Tone(degrees=draw.uniform(-_MOST_DEGREES, _MOST_DEGREES))
    return Tone(gamma=draw.uniform(*_GAMMAS))


def apply_tone(pixels: np.ndarray, tone: Tone) -> np.ndarray:
    """uint8 [h, w, 3], RGB, and the same again."""
    if tone.gamma != 1:
        table = np.rint(255 * (np.arange(256) / 255) ** tone.gamma).astype(np.uint8)
        pixels = table[pixels]
    if tone.degrees:
        hue, *others = Image.fromarray(pixels).convert("HSV").split()
        turned = (np.asarray(hue, dtype=np.int16) + round(tone.degrees * 256 / 360)) % 256
        image = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), *others))
        pixels = np.array(image.convert("RGB"), dtype=np.uint8)
    return pixels
