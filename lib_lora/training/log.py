"""What a run leaves behind beside the LoRA: the loss as CSV, as TensorBoard events and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, StepDone
from lib_lora.files.atomic import atomic_write

COLUMNS = ("step", "epoch", "loss", "average_loss", "seconds")


class RunLog:
    """Writes ``loss.csv`` and ``tensorboard/`` line by line, ``loss.png`` when closed.

    A context manager. Hand it every event of a run; it looks at the steps only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: list[float] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "loss.csv").open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise StudioError(f"cannot be written ({error.strerror})", field="logging_dir", file=folder) from error
        self._csv: csv.DictWriter | None = None
        self._board = _board(folder / "tensorboard")
        self.picture = folder / "loss.png"

    def write(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        self.losses.append(event.loss)
        average = moving_average(self.losses[-AVERAGE_STEPS:])[-1]
        rates = {f"lr_{group}": rate for group, rate in event.lr.items()}
        row = {
            "step": event.step,
            "epoch": event.epoch,
            "loss": f"{event.loss:.6g}",
            "average_loss": f"{average:.6g}",
            "seconds": f"{event.seconds:.4g}",
            **{name: f"{rate:.6g}" for name, rate in rates.items()},
        }
        if self._csv is None:
            self._csv = csv.DictWriter(self._file, [*COLUMNS, *rates])
            self._csv.writeheader()
        self._csv.writerow(row)
        self._file.flush()
        if self._board is not None:
            for name, value in {"loss/current": event.loss, "loss/average": average, **rates}.items():
                self._board.add_scalar(name, value, event.step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self.losses:
            with atomic_write(self.picture) as file:
                loss_picture(self.losses).save(file, format="PNG")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


AVERAGE_STEPS = 50


def _board(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an option of the host's: everything else is written without it
        return None
    return SummaryWriter(str(folder))


def moving_average(values: Sequence[float], window: int = AVERAGE_STEPS) -> list[float]:
    """The mean of each value and the up to ``window - 1`` before it."""
    averages, total = [], 0.0
    for index, value in enumerate(values):
        total += value
        if index >= window:
            total -= values[index - window]
        averages.append(total / min(index + 1, window))
    return averages


def loss_picture(losses: Sequence[float], size_px: tuple[int, int] = (960, 420)) -> Image.Image:
    """The loss of every step, faint, with its moving average over it."""
    scale = 2  # drawn twice as large and shrunk: Pillow's lines have no antialiasing of their own
    width, height = size_px[0] * scale, size_px[1] * scale
    left, top, right, bottom = 76 * scale, 44 * scale, width - 20 * scale, height - 44 * scale
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    small = font(13 * scale)
    finite = [value for value in losses if value == value and abs(value) != float("inf")] or [0.0]
    averages = moving_average(losses)
    # One outlier must not press the curve flat: the axis ends at the 98th percentile.
    low, high = 0.0, max(sorted(finite)[min(len(finite) - 1, int(0.98 * len(finite)))], *averages, 1e-9) * 1.08

    def point(index: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * (index / max(1, len(losses) - 1))
        y = bottom - (bottom - top) * (min(max(value, low), high) - low) / (high - low)
        return x, y

    for tick in range(6):
        value = low + (high - low) * tick / 5
        y = point(0, value)[1]
        draw.line([(left, y), (right, y)], fill="#e4e4e7", width=scale)
        draw.text((left - 8 * scale, y), f"{value:.3g}", fill="#52525b", font=small, anchor="rm")
        step = 1 + round((len(losses) - 1) * tick / 5)
        draw.text((point(step - 1, 0)[0], bottom + 8 * scale), str(step), fill="#52525b", font=small, anchor="ma")
    for values, colour, line_px in ((losses, "#c7d2fe", 1), (averages, "#4338ca", 3)):
        points = [point(index, value) for index, value in enumerate(values)]
        draw.line(points if len(points) > 1 else points * 2, fill=colour, width=line_px * scale, joint="curve")
    title = f"loss; thick: mean of the last {AVERAGE_STEPS} steps"
    draw.text((left, 14 * scale), title, fill="#18181b", font=font(15 * scale))
    draw.text((right, height - 8 * scale), "step", fill="#52525b", font=small, anchor="rd")
    return image.resize(size_px, Image.Resampling.LANCZOS)


def font(size_px: int) -> ImageFont.ImageFont:
    """A plain font that every Pillow can give."""
    try:
        return ImageFont.load_default(size_px)
    except TypeError:  # Pillow before 10.1 has one size only
        for name in ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf"):
            try:
                return ImageFont.truetype(name, size_px)
            except OSError:
                continue
        return ImageFont.load_default()
