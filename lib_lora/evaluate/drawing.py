"""A whole grid as one picture, with its labels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_GAP_PX, _LINE_PX, _LETTER_PX = 4, 12, 6  # of the font that comes with Pillow
_SMALL_PX = 320  # from this width of a picture on labels are drawn twice as large
_MOST_LINES, _ROW_LETTERS = 6, 24
_MOST_PX = 100_000_000  # of a whole grid: 300 MB while it is drawn
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def draw_grid(columns: Sequence[str], rows: Sequence[str], pictures: Mapping[tuple[int, int], Path]) -> Image.Image:
    """Pictures of one size under their columns' labels and beside their rows'; smaller where there are many of them.

    Args:
        pictures: by (row, column); a place without one stays empty.
    """
    with Image.open(next(iter(pictures.values()))) as first:
        width, height = _fitting(first.size, len(columns) * len(rows))
    scale = 1 if width < _SMALL_PX else 2
    above = [_label(text, width, scale) for text in columns]
    beside = [_label(text, _ROW_LETTERS * _LETTER_PX * scale, scale) for text in rows] if any(rows) else []
    top = max(label.height for label in above) + _GAP_PX
    left = _GAP_PX + (beside[0].width if beside else 0)
    step_x, step_y = width + _GAP_PX, max(height, *(label.height for label in beside or above[:1])) + _GAP_PX
    sheet = Image.new("RGB", (left + step_x * len(columns), top + step_y * len(rows)), _PAPER)
    for column, label in enumerate(above):
        sheet.paste(label, (left + column * step_x, 0))
    for row, label in enumerate(beside):
        sheet.paste(label, (_GAP_PX // 2, top + row * step_y))
    for (row, column), path in pictures.items():
        with Image.open(path) as picture:
            cell = picture.convert("RGB")
            cell.thumbnail((width, height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (left + column * step_x, top + row * step_y))
    return sheet


def _fitting(size: tuple[int, int], count: int) -> tuple[int, int]:
    """The size, or the one of its shape in which so many make up no more than ``_MOST_PX``."""
    width, height = size
    shrink = min(1.0, (_MOST_PX / (count * width * height)) ** 0.5)
    return max(int(width * shrink), 1), max(int(height * shrink), 1)


def _label(text: str, width: int, scale: int) -> Image.Image:
    """Text in lines of at most ``width`` px."""
    # The font knows Latin-1 alone.
    text = text.encode("latin-1", "replace").decode("latin-1")
    letters = max(width // (scale * _LETTER_PX), 4)
    lines = textwrap.wrap(text, letters, max_lines=_MOST_LINES, placeholder=" ...") or [""]
    picture = Image.new("RGB", (max(width // scale, 1), _LINE_PX * len(lines) + _GAP_PX), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for number, line in enumerate(lines):
        draw.text((1, _LINE_PX * number), line, fill=_INK, font=font)
    return picture.resize((width, picture.height * scale), Image.Resampling.LANCZOS)
