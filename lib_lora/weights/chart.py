"""Bar charts as pictures and as text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import write_bytes

_BAR_PX, _GAP_PX, _HEIGHT_PX, _MARGIN_PX = 14, 12, 260, 56
_COLOURS = ((58, 110, 190), (222, 128, 44))
_INK, _GRID = (40, 40, 40), (216, 216, 216)
_TEXT_BARS = 40


def check_picture(path: Path | None, overwrite: bool) -> None:
    """Whether a picture may be written there: before the work begins.

    Raises:
        StudioError: another extension, a folder that is not there, or a name that is taken.
    """
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise StudioError("must end in .png", field="picture", came=str(path))
    if not path.parent.is_dir():
        raise StudioError("the folder does not exist", field="picture", came=str(path.parent))
    if path.exists() and not overwrite:
        raise StudioError("exists already", field="picture", file=path, allowed="another name, or overwrite")


def bar_chart(
    title: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]], reach: float = 0.0
) -> Image.Image:
    """A group of bars per name, one bar per series; None is no bar. Negative bars hang from the zero line.

    Args:
        reach: the axis goes up to this at least.
    """
    values = [value for own in series.values() for value in own if value is not None]
    top, low = max([*values, reach]), min([*values, 0.0])
    span = (top - low) or 1.0
    group = _BAR_PX * len(series) + _GAP_PX
    picture = Image.new("RGB", (2 * _MARGIN_PX + group * len(names), _HEIGHT_PX + 2 * _MARGIN_PX), "white")
    draw = ImageDraw.Draw(picture)

    def height(value: float) -> float:
        return _MARGIN_PX + _HEIGHT_PX * (top - value) / span

    draw.text((_MARGIN_PX, 8), title, fill=_INK)
    for mark in range(5):
        value = low + span * mark / 4
        draw.line([(_MARGIN_PX, height(value)), (picture.width - _MARGIN_PX, height(value))], fill=_GRID)
        draw.text((4, height(value) - 6), f"{value:.3g}", fill=_INK)
    for number, (label, own) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        if len(series) > 1:
            draw.text((_MARGIN_PX + 160 * number, 26), label, fill=colour)
        for place, value in enumerate(own):
            if value is not None:
                left = _MARGIN_PX + place * group + number * _BAR_PX
                low_y, high_y = sorted((height(value), height(0.0)))
                draw.rectangle([left, low_y, left + _BAR_PX - 2, high_y], fill=colour)
    for place, name in enumerate(names):
        # Long names of neighbours would run into each other on one line.
        draw.text((_MARGIN_PX + place * group, _MARGIN_PX + _HEIGHT_PX + 6 + 14 * (place % 2)), name, fill=_INK)
    return picture


def save_chart(path: Path, picture: Image.Image) -> None:
    """Write a picture, whole or not at all."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def text_bars(names: Sequence[str], values: Sequence[float | None]) -> list[str]:
    """The same for a terminal: a line per name."""
    top = max((abs(value) for value in values if value is not None), default=0.0) or 1.0
    width = max((len(name) for name in names), default=0)
    return [f"{name:{width}} {_text_bar(value, top)}" for name, value in zip(names, values)]


def _text_bar(value: float | None, top: float) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.4g} {'#' * round(_TEXT_BARS * abs(value) / top)}".rstrip()
