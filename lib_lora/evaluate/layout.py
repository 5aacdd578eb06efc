"""Which pictures a grid has, and where each stands in it. Light: a page is told before anything is made.

Columns are the first of block weights, LoRAs, UNet strengths, text encoder strengths and values of X that there are
several of, with the picture without the LoRA before them. Whatever else varies makes the rows: checkpoints, prompts
and seeds, and within them what is left of the LoRA's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib_lora.base.protocols import PictureRequest
from lib_lora.evaluate.options import GridConfig

WITHOUT = "without the LoRA"
_NAMES = {"weights": "block weights", "lora": "LoRA", "unet": "UNet", "te": "TE", "x": "X"}


@dataclass(frozen=True)
class LoraUse:
    """A LoRA as a prompt has it. ``weights``: a preset's name or a vector, None for none; ``te`` None is ``unet``."""

    lora: str
    unet: float = 1.0
    te: float | None = None
    weights: str | None = None
    x: float = 1.0

    @property
    def tag(self) -> str:
        """``<lora:name:te:unet:lbw=...:x=...>``."""
        te = self.unet if self.te is None else self.te
        words = [stem(self.lora), number(te), number(self.unet)]
        if self.weights is not None:
            words += [f"lbw={self.weights}", *([f"x={number(self.x)}"] if self.x != 1.0 else [])]
        return f"<lora:{':'.join(words)}>"

    def added_to(self, prompt: str) -> str:
        return f"{prompt} {self.tag}".lstrip()


@dataclass(frozen=True)
class Picture:
    """One picture of a grid. ``use`` is None for the one without the LoRA; ``places`` are (row, column)."""

    checkpoint: str | None
    prompt: str
    seed: int
    use: LoraUse | None
    places: tuple[tuple[int, int], ...]
    label: str

    def request(self, config: GridConfig) -> PictureRequest:
        return config.request(self.use.added_to(self.prompt) if self.use else self.prompt, self.seed)

    def values(self) -> dict[str, Any]:
        """What it was made of, as JSON can hold it; the LoRA's are None without it."""
        use = self.use
        own = {
            "lora": use and use.lora,
            "weights": use and use.weights,
            "x": use and use.x,
            "unet": use and use.unet,
            "te": use and (use.unet if use.te is None else use.te),
        }
        return {**own, "checkpoint": self.checkpoint, "prompt": self.prompt, "seed": self.seed}


@dataclass(frozen=True)
class Layout:
    """A grid before it is made: its labels, and its pictures in the order in which they are made.

    A checkpoint is loaded once, and a LoRA's strengths change as rarely as can be.
    """

    column_name: str
    columns: tuple[str, ...]
    row_names: tuple[str, ...]
    rows: tuple[str, ...]
    pictures: tuple[Picture, ...]

    def axes(self) -> dict[str, Any]:
        """The labels, as JSON can hold them."""
        return {
            "columns": {"name": self.column_name, "labels": list(self.columns)},
            "rows": {"name": ", ".join(self.row_names), "labels": list(self.rows)},
        }


def lay_out(config: GridConfig) -> Layout:
    """The grid of a config whose prompts are all there."""
    axes, first = _Axes(config), int(config.without)
    pictures: list[Picture] = []
    for checkpoint in axes.outer["checkpoint"]:
        pictures += [*(axes.bases(checkpoint) if config.without else ()), *axes.uses(checkpoint, first)]
    return Layout(
        _NAMES[axes.column],
        (*[WITHOUT] * first, *(_column_label(axes.column, value) for value in axes.columns)),
        tuple(_NAMES.get(name, name) for name in axes.varying),
        tuple(", ".join(_words(row, axes.varying)) for row in axes.rows),
        tuple(pictures),
    )


class _Axes:
    """What a grid's columns and rows are.

    Attributes:
        column: which of the LoRA's axes the columns are; columns: its values.
        outer, inner: the axes of the rows: those that pictures without the LoRA have, too, and the LoRA's.
        varying: the names of those of them that have several values.
        rows: what each row is made of.
    """

    def __init__(self, config: GridConfig) -> None:
        axes: dict[str, tuple[Any, ...]] = {
            "weights": config.weights or (None,),
            "lora": config.loras,
            "unet": config.unet,
            "te": config.te or (None,),
            "x": config.x if config.weights else (1.0,),
        }
        self.column = next((name for name, values in axes.items() if len(values) > 1), "lora")
        self.columns = axes.pop(self.column)
        self.inner = axes
        self.outer = {"checkpoint": config.checkpoints or (None,), "prompt": config.prompts, "seed": config.seeds}
        names = {**self.outer, **self.inner}
        self.varying = [name for name, values in names.items() if len(values) > 1]
        keys = list(itertools.product(*names.values()))
        self.rows = [dict(zip(names, key)) for key in keys]
        self._place = {key: row for row, key in enumerate(keys)}
        self._inner_keys = list(itertools.product(*self.inner.values()))
        self._drawn = list(itertools.product(config.prompts, config.seeds))

    def bases(self, checkpoint: str | None) -> Iterator[Picture]:
        """Those without the LoRA, each in all rows that differ in the LoRA alone."""
        for prompt, seed in self._drawn:
            rows = [self._place[(checkpoint, prompt, seed, *key)] for key in self._inner_keys]
            label = _label(WITHOUT, self.rows[rows[0]], list(self.outer))
            yield Picture(checkpoint, prompt, seed, None, tuple((row, 0) for row in rows), label)

    def uses(self, checkpoint: str | None, first: int) -> Iterator[Picture]:
        """Those with the LoRA, whose columns begin at ``first``."""
        for key, (place, value) in itertools.product(self._inner_keys, enumerate(self.columns, first)):
            use = LoraUse(**dict(zip(self.inner, key)), **{self.column: value})
            for prompt, seed in self._drawn:
                row = self._place[(checkpoint, prompt, seed, *key)]
                label = _label(_column_label(self.column, value), self.rows[row], self.varying)
                yield Picture(checkpoint, prompt, seed, use, ((row, place),), label)


def stem(lora: str) -> str:
    """What a prompt calls a LoRA: its file's name, whatever folder it is in."""
    return lora.rpartition("/")[2].removesuffix(".safetensors")


def number(value: float) -> str:
    """As a person writes it: 0.5, 1."""
    return f"{value:.10g}"


def _column_label(name: str, value: Any) -> str:
    return f"{_NAMES[name]} {number(value)}" if isinstance(value, float) else str(value)


def _label(column: str, row: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join([column, *_words(row, [name for name in names if row[name] is not None])])


def _words(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        value = row[name]
        if name in ("prompt", "lora", "weights", "checkpoint"):
            yield str(value)
        else:
            yield f"{_NAMES.get(name, name)} {number(value)}"
