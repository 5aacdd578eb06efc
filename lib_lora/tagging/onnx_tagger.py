"""Taggers in ONNX: WD14, cl_tagger, ML-Danbooru, and whoever's model comes with its list of tags."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.tagging.form import Form, pixels, probabilities
from lib_lora.tagging.labels import read_labels
from lib_lora.tagging.scores import sparse
from lib_lora.tagging.session import fallback_note, first_line, open_session

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_TOLERANCE = 1e-3
_PART_BYTES = 2**20


@dataclass(frozen=True)
class Input:
    """What a session says of its only input.

    Attributes:
        batch: how many pictures it takes at once, None for any number.
        size_px: of the square that it wants, None for any.
    """

    name: str
    batch: int | None
    size_px: int | None
    channels_first: bool
    type: Any


class OnnxTagger:
    """A ``Tagger``.

    Args:
        model: the ONNX file; labels: the list of its tags.
        device, threads: as ``session.open_session`` takes them.

    """

    sentence = False

    def __init__(
        self, name: str, model: Path, labels: Path, form: Form, *, device: str = "auto", threads: int = 0
    ) -> None:
        self.name = name
        self.help = ""
        self.general, self.character = form.general, form.character
        self.batch_size: int | None = None
        self.labels: list[Label] = []
        self.note: str | None = None
        self._file, self._labels_file, self._form = model, labels, form
        self._device, self._threads = device, threads
        self._session: Any = None

    @functools.cached_property
    def model(self) -> str:
        return _fingerprint(self._file, self._labels_file, self._form)

    def __enter__(self) -> OnnxTagger:
        self.labels = read_labels(self._labels_file)
        self._session = open_session(self._file, self._device, self._threads)
        self._input = read_input(self._session, self._file)
        self._output = self._choose_output()
        self.batch_size = self._input.batch
        self.note = fallback_note(self._session, self._device)
        return self

    def __exit__(self, *exception: object) -> None:
        self._session = None

    def prepare(self, picture: Any) -> np.ndarray:
        size_px = self._input.size_px or self._form.size
        return pixels(picture, self._form, size_px, channels_first=self._input.channels_first)

    def __call__(self, prepared: Sequence[np.ndarray]) -> list[Mapping[Label, float]]:
        return [sparse(self.labels, row) for row in self.probabilities(prepared)]

    def probabilities(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """float32 [pictures, tags]. A model of a fixed batch gets its number of pictures each time, of which the
        last may be blank."""
        batch = self._input.batch or len(prepared)
        parts = [self._run(prepared[start : start + batch], batch) for start in range(0, len(prepared), batch)]
        return np.concatenate(parts)

    def _run(self, prepared: Sequence[np.ndarray], batch: int) -> np.ndarray:
        values = np.zeros((batch, *prepared[0].shape), self._input.type)
        values[: len(prepared)] = np.stack(prepared)
        try:
            (output,) = self._session.run([self._output], {self._input.name: values})
        except Exception as fault:  # its errors have no common class
            raise StudioError(
                f"onnxruntime cannot run {self.name}: {first_line(fault)}",
                field="batch_size",
                came=batch,
                allowed="a smaller batch where memory is full, or the device cpu",
            ) from fault
        found = probabilities(output[: len(prepared)], self._form)
        if found.shape[1:] != (len(self.labels),):
            raise StudioError(
                f"the model gives {found.shape[-1]} numbers, and the list beside it has {len(self.labels)} tags",
                file=self._labels_file,
            )
        self._check(found)
        return found.clip(0, 1)

    def _check(self, found: np.ndarray) -> None:
        if not np.isfinite(found).all():
            raise StudioError("the model gives numbers that are none (NaN)", file=self._file)
        if found.min() < -_TOLERANCE or found.max() > 1 + _TOLERANCE:
            raise StudioError(
                "the model gives no probabilities",
                file=self._file,
                came=f"{found.min():.3g} to {found.max():.3g}",
                allowed='numbers from 0 to 1; for logits a tagger.toml beside the model with: output = "logits"',
            )

    def _choose_output(self) -> str:
        """The one with a number for each tag; models may also give what lies before."""
        outputs = self._session.get_outputs()
        fitting = [each.name for each in outputs if each.shape and each.shape[-1] == len(self.labels)]
        return (fitting or [each.name for each in outputs])[0]


def read_input(session: Any, model: Path) -> Input:
    """The form of the pictures that a session takes.

    Raises:
        StudioError: it takes no square pictures of three colours.
    """
    given = session.get_inputs()
    shape = given[0].shape
    if len(given) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]) or given[0].type not in _TYPES:
        came = ", ".join(f"{each.name}: {each.type} {each.shape}" for each in given)
        raise StudioError(
            "this is no tagger that we can run",
            file=model,
            came=came,
            allowed="one input of floats [N, height, width, 3] or [N, 3, height, width]",
        )
    batch, *rest = (value if isinstance(value, int) and value > 0 else None for value in shape)
    channels_first = shape[1] == 3
    sides = set(rest[1:] if channels_first else rest[:2])
    if len(sides) != 1:
        raise StudioError("this tagger wants pictures that are not square", file=model, came=shape)
    return Input(given[0].name, batch, sides.pop(), channels_first, _TYPES[given[0].type])


def _fingerprint(model: Path, labels: Path, form: Form) -> str:
    """Another text for other weights, tags or forms: by the size, the beginning and the end of the weights."""
    digest = hashlib.blake2b(f"{model.stat().st_size} {form}".encode(), digest_size=16)
    with open(model, "rb") as file:
        digest.update(file.read(_PART_BYTES))
        file.seek(max(0, model.stat().st_size - _PART_BYTES))
        digest.update(file.read())
    digest.update(labels.read_bytes())
    return digest.hexdigest()
