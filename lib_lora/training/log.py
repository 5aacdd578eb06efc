"""What a run leaves behind beside the LoRA: the loss as CSV, as TensorBoard events and as a picture."""

from __future__ import annotations

import contextlib
import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, StepDone, Validated, WentBack
from lib_lora.files.atomic import atomic_write, write_bytes

COLUMNS = ("step", "epoch", "loss", "average_loss", "seconds")


class RunLog:
    """Writes ``loss.csv`` and ``tensorboard/`` line by line, ``loss.png`` now and then and when closed.

    A context manager. Hand it every event of a run; it looks at the steps, and at what became of them.

    Args:
        before: the bytes of loss.csv that a run is resumed with; whatever else is in the file goes.
    """

    def __init__(self, folder: Path, before: bytes = b"") -> None:
        self.folder = folder
        self.picture = folder / "loss.png"
        self.table = folder / "loss.csv"
        rows = list(csv.DictReader(before.decode("utf-8").splitlines()))
        # Kept as they are written, so that averages do not depend on where a run was resumed.
        self.losses = [float(row["loss"]) for row in rows]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self.table, before)
            self._file = self.table.open("a", newline="", encoding="utf-8")
        except OSError as error:
            raise StudioError(f"cannot be written ({error.strerror})", field="logging_dir", file=folder) from error
        self._csv = csv.DictWriter(self._file, list(rows[0])) if rows else None
        self._board = _board(folder / "tensorboard", purge_step=int(rows[-1]["step"]) + 1 if rows else None)
        self._next_picture = time.monotonic() + _PICTURE_SECONDS

    def write(self, event: Event) -> None:
        if isinstance(event, WentBack):
            self.go_back(event.step)
        if isinstance(event, Validated) and self._board is not None:
            self._board.add_scalar("loss/validation", event.loss, event.step)
        if not isinstance(event, StepDone):
            return
        loss = f"{event.loss:.6g}"
        self.losses.append(float(loss))
        average = moving_average(self.losses[-AVERAGE_STEPS:])[-1]
        rates = {f"lr_{group}": rate for group, rate in event.lr.items()}
        row = {
            "step": event.step,
            "epoch": event.epoch,
            "loss": loss,
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
        self._refresh_picture()

    def bytes(self) -> bytes:
        """What loss.csv holds so far."""
        return self.table.read_bytes()

    def go_back(self, step: int) -> None:
        """Forget what came after ``step``."""
        lines = self.table.read_bytes().splitlines(keepends=True)
        self._file.close()
        write_bytes(self.table, b"".join(lines[: step + 1]) if step else b"")
        self._file = self.table.open("a", newline="", encoding="utf-8")
        if not step:
            self._csv = None
        elif self._csv is not None:
            self._csv = csv.DictWriter(self._file, self._csv.fieldnames)
        del self.losses[step:]
        if self._board is not None:
            self._board.close()
            self._board = _board(self.folder / "tensorboard", purge_step=step + 1)

    def _refresh_picture(self) -> None:
        started = time.monotonic()
        if started >= self._next_picture:
            self._draw()
            # Drawing a long run's picture may take no more than a hundredth of the time.
            took = time.monotonic() - started
            self._next_picture = started + max(_PICTURE_SECONDS, 100 * took)

    def _draw(self) -> None:
        with atomic_write(self.picture) as file:
            loss_picture(self.losses).save(file, format="PNG")

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self.losses:
            self._draw()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class SilentLog(contextlib.AbstractContextManager):
    """The log of a process that writes nothing."""

    def write(self, event: Event) -> None:
        """Nothing."""

    def bytes(self) -> bytes:
        return b""

    def __exit__(self, *exception: object) -> None:
        """Nothing."""


_PICTURE_SECONDS = 30
AVERAGE_STEPS = 50


def _board(folder: Path, purge_step: int | None):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # an option of the host's: everything else is written without it
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)


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

    for value in round_ticks(high):
        y = point(0, value)[1]
        draw.line([(left, y), (right, y)], fill="#e4e4e7", width=scale)
        draw.text((left - 8 * scale, y), f"{value:g}", fill="#52525b", font=small, anchor="rm")
    for step in round_ticks(len(losses)):
        step = max(1, round(step))
        draw.text((point(step - 1, 0)[0], bottom + 8 * scale), str(step), fill="#52525b", font=small, anchor="ma")
    for values, colour, line_px in ((losses, "#c7d2fe", 1), (averages, "#4338ca", 3)):
        points = [point(index, value) for index, value in enumerate(values)]
        draw.line(points if len(points) > 1 else points * 2, fill=colour, width=line_px * scale, joint="curve")
    title = f"loss; thick: mean of the last {AVERAGE_STEPS} steps"
    draw.text((left, 14 * scale), title, fill="#18181b", font=font(15 * scale))
    draw.text((right, height - 8 * scale), "step", fill="#52525b", font=small, anchor="rd")
    return image.resize(size_px, Image.Resampling.LANCZOS)


def round_ticks(high: float, most: int = 6) -> list[float]:
    """At most ``most`` places from 0 to ``high`` at even distances of 1, 2 or 5 times a power of ten."""
    decade = 10.0 ** math.floor(math.log10(high / most))
    distance = next(factor * decade for factor in (1, 2, 5, 10, 20) if high < factor * decade * most)
    return [float(f"{i * distance:.6g}") for i in range(most) if i * distance <= high]


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
