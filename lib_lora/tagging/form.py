"""What an ONNX tagger wants of a picture and what its numbers mean, where the file itself does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lib_lora.base.options import option

_WHITE = (255, 255, 255)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# (factor, shift) of values from 0 to 255.
_VALUES = {"0..255": (1.0, 0.0), "0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0)}


@dataclass(frozen=True)
class Form:
    """As in a ``tagger.toml`` beside the weights. The defaults are WD14's (SmilingWolf's v2 and v3)."""

    channels: str = option("BGR", "order of a pixel's colours", choices=("BGR", "RGB"))
    values: str = option("0..255", "range of a pixel's values", choices=tuple(_VALUES))
    fit: str = option(
        "square",
        "square puts the picture into a white square, stretch ignores its proportions",
        choices=("square", "stretch"),
    )
    resample: str = option("bicubic", "filter that scales the picture", choices=tuple(_RESAMPLING))
    output: str = option(
        "sigmoid", "what the model gives: probabilities (sigmoid) or logits", choices=("sigmoid", "logits")
    )
    size: int = option(448, "side of the picture where the model takes any", unit="px", minimum=16, maximum=4096)
    general: float = option(0.35, "threshold of all tags but characters", minimum=0, maximum=1)
    character: float = option(0.85, "threshold of characters", minimum=0, maximum=1)


def pixels(picture: Image.Image, form: Form, size_px: int, *, channels_first: bool) -> np.ndarray:
    """``picture`` (RGB, transparency already on white) as a model wants it.

    Returns:
        float32 [size, size, 3], or [3, size, size] with ``channels_first``.
    """
    if form.fit == "square":
        picture = _on_square(picture)
    picture = picture.resize((size_px, size_px), _RESAMPLING[form.resample])
    values = np.asarray(picture, dtype=np.float32)
    if form.channels == "BGR":
        values = values[:, :, ::-1]
    factor, shift = _VALUES[form.values]
    values = values * np.float32(factor) + np.float32(shift)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if channels_first else values)


def probabilities(output: np.ndarray, form: Form) -> np.ndarray:
    """A model's output as probabilities: float32 of the same shape; 1 / (1 + exp(-x)) of logits."""
    output = output.astype(np.float32)
    if form.output == "sigmoid":
        return output
    return np.exp(-np.logaddexp(np.float32(0), -output))


def _on_square(picture: Any) -> Image.Image:
    side = max(picture.size)
    square = Image.new("RGB", (side, side), _WHITE)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
