"""What taggers have said, kept in the dataset's folder: a picture is looked at once, and thresholds move afterwards.

One file for each tagger, ``.lora_studio/scores/<tagger>.scores``: a line of JSON that says who has spoken, then records
that are only ever added, each with its length and checksum. A killed writer leaves at most one cut record at the end,
which is not read and is cut off by the next writer. A picture is known by its file's name, size and time of change, so
that it may move within the dataset; one that was changed has no scores.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Label
from lib_lora.dataset.records import HOME
from lib_lora.files.atomic import atomic_write, lock_file, safe_name

FLOOR = 0.01
"""Scores below are not kept: no threshold can be lower."""

_FORMAT = "lora-studio scores 1"
_FRAME = struct.Struct("<BII")  # kind, bytes, CRC-32
_PICTURE = struct.Struct("<HQqI")  # bytes of the name, bytes of the file, ns, scores
_LABELS, _SCORES = 1, 2
_ENDING = ".scores"
_FEW = 100


class Key(NamedTuple):
    """A picture's file, wherever in the dataset it lies."""

    name: str
    bytes: int
    changed_ns: int


class Said(NamedTuple):
    """What was said of one picture: numbers of labels, uint32 [n], and scores, float32 [n]."""

    labels: np.ndarray
    scores: np.ndarray


class ScoreStore:
    """One tagger's file. What another store or process adds is seen by ``refresh``.

    Attributes:
        lock: to be held by whoever reads while another thread may add.
        model: what tells the tagger's weights from others; None where nothing was said yet.
        labels: all that was ever said, by number.
        said: by picture.
        version: grows when something was added.
    """

    def __init__(self, dataset: Path, tagger: str) -> None:
        self.tagger = tagger
        self.path = score_folder(dataset) / f"{safe_name(tagger, field='taggers')}{_ENDING}"
        self.model: str | None = None
        self.labels: list[Label] = []
        self.said: dict[Key, Said] = {}
        self.version = 0
        self._numbers: dict[Label, int] = {}
        self._read_bytes = 0
        self._outdated = 0  # records of pictures that were looked at again
        self._file: BinaryIO | None = None
        self._stamp: Any = None
        self.lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Read what was added since the last time."""
        with self.lock:
            if self._file is not None:
                return  # it is we who write
            try:
                with open(self.path, "rb") as file:
                    status = os.fstat(file.fileno())
                    if self._stamp != (status.st_dev, status.st_ino) or status.st_size < self._read_bytes:
                        self._forget()
                        self._stamp = (status.st_dev, status.st_ino)
                    if status.st_size > self._read_bytes:
                        self._read(file)
            except FileNotFoundError:
                if self._read_bytes:
                    self._forget()

    @contextmanager
    def writing(self, model: str) -> Iterator[None]:
        """While this store may be added to.

        Args:
            model: what tells the tagger's weights from others; scores of others are dropped.

        Raises:
            StudioError: another process adds to it, or it cannot be written.
        """
        _make_folder(self.path.parent)
        with lock_file(self.path.with_suffix(".lock")):
            self.refresh()
            if self.model != model:
                self._rewrite(model, [], {})
            elif self._outdated > len(self.said) + _FEW:
                self._rewrite(model, self.labels, self.said)
            elif os.path.getsize(self.path) > self._read_bytes:
                os.truncate(self.path, self._read_bytes)  # a killed writer's last record
            with open(self.path, "ab", buffering=0) as file:
                self._file = file
                try:
                    yield
                finally:
                    self._file = None
                    self._stamp = (os.fstat(file.fileno()).st_dev, os.fstat(file.fileno()).st_ino)

    def add_labels(self, labels: Iterable[Label]) -> None:
        """Keep what can be said; within ``writing`` alone."""
        with self.lock:
            new = [label for label in dict.fromkeys(labels) if label not in self._numbers]
            if new:
                self._append(_LABELS, _packed_labels(new))
                self._learn_labels(new)
                self.version += 1

    def add(self, key: Key, said: Mapping[Label, float]) -> None:
        """Keep what was said of a picture; within ``writing`` alone.

        Raises:
            StudioError: a score is no number from 0 to 1, or the file cannot be written.
        """
        wrong = next((each for each in said.items() if not 0 <= each[1] <= 1), None)
        if wrong is not None:
            raise StudioError(
                f"{self.tagger} is {wrong[1]} sure of {wrong[0].name}", field="taggers", allowed="from 0 to 1"
            )
        with self.lock:
            self.add_labels(said)
            labels = np.fromiter((self._numbers[label] for label in said), np.uint32, len(said))
            scores = np.fromiter(said.values(), np.float32, len(said)) + np.float32(0)  # no -0
            self._append(_SCORES, _packed(key, Said(labels, scores)))
            self._learn_said(key, Said(labels, scores))
            self.version += 1

    def _rewrite(self, model: str, labels: Sequence[Label], said: Mapping[Key, Said]) -> None:
        """The whole file anew."""
        header = {"format": _FORMAT, "tagger": self.tagger, "model": model}
        with atomic_write(self.path) as file:
            file.write(json.dumps(header).encode("utf-8") + b"\n")
            file.write(_record(_LABELS, _packed_labels(labels)))
            for key, each in said.items():
                file.write(_record(_SCORES, _packed(key, each)))
        self.refresh()

    def _append(self, kind: int, payload: bytes) -> None:
        record = _record(kind, payload)
        try:
            written = self._file.write(record)  # one call: what is cut, is cut at its end
        except OSError as error:
            raise StudioError(f"cannot be written: {error.strerror}", file=self.path) from error
        if written != len(record):
            raise StudioError("cannot be written: the disk is full", file=self.path)
        self._read_bytes += len(record)

    def _forget(self) -> None:
        self.labels, self.said, self._numbers = [], {}, {}
        self.model, self._read_bytes, self._outdated, self._stamp = None, 0, 0, None
        self.version += 1

    def _read(self, file: BinaryIO) -> None:
        file.seek(self._read_bytes)
        data = memoryview(file.read())
        place = 0
        if not self._read_bytes:
            place = self._read_header(bytes(data[: bytes(data).find(b"\n") + 1]))
        while place + _FRAME.size <= len(data):
            kind, size, checksum = _FRAME.unpack_from(data, place)
            payload = data[place + _FRAME.size : place + _FRAME.size + size]
            if len(payload) < size or zlib.crc32(payload) != checksum:
                break
            self._learn(kind, payload)
            place += _FRAME.size + size
        self._read_bytes += place
        self.version += 1

    def _read_header(self, line: bytes) -> int:
        try:
            header = json.loads(line)
            known = header["format"] == _FORMAT
            self.model = header["model"]
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise StudioError("these are no scores that we can read", file=self.path, allowed="delete the file")
        return len(line)

    def _learn(self, kind: int, payload: memoryview) -> None:
        if kind == _LABELS:
            self._learn_labels([Label(*each) for each in json.loads(bytes(payload).decode("utf-8", "surrogatepass"))])
            return
        length, size, changed_ns, count = _PICTURE.unpack_from(payload)
        name = bytes(payload[_PICTURE.size : _PICTURE.size + length]).decode("utf-8", "surrogatepass")
        numbers = payload[_PICTURE.size + length :]
        labels = np.frombuffer(numbers, "<u4", count)
        self._learn_said(Key(name, size, changed_ns), Said(labels, np.frombuffer(numbers, "<f4", count, 4 * count)))

    def _learn_said(self, key: Key, said: Said) -> None:
        self._outdated += key in self.said
        self.said[key] = said

    def _learn_labels(self, new: Sequence[Label]) -> None:
        for label in new:
            self._numbers[label] = len(self.labels)
            self.labels.append(label)


def score_folder(dataset: Path) -> Path:
    """Where a dataset's scores are kept."""
    return dataset / HOME / "scores"


def taggers_with_scores(dataset: Path) -> list[str]:
    """The names of those that have said something of a dataset, in alphabetical order."""
    folder = score_folder(dataset)
    return sorted(path.name[: -len(_ENDING)] for path in folder.glob(f"*{_ENDING}")) if folder.is_dir() else []


def sparse(labels: Sequence[Label], scores: np.ndarray) -> dict[Label, float]:
    """The scores that are worth keeping: those from ``FLOOR`` on, and of each category the next one.

    The next one is for MCut, which looks for the largest gap; below it a gap is less than ``FLOOR``.

    Args:
        scores: float [labels].
    """
    kept = scores >= FLOOR
    highest: dict[str, int] = {}
    for number in np.argsort(-np.where(kept, -1, scores))[:_NEXT].tolist():
        if not kept[number]:
            highest.setdefault(labels[number].category, number)
    chosen = np.union1d(np.flatnonzero(kept), np.array(list(highest.values()), dtype=int)).tolist()
    return {labels[number]: float(scores[number]) for number in chosen}


_NEXT = 64  # a category whose highest score is not among so many of the next is of no account


def _record(kind: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, len(payload), zlib.crc32(payload)) + payload


def _packed_labels(labels: Sequence[Label]) -> bytes:
    return json.dumps(labels, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _packed(key: Key, said: Said) -> bytes:
    name = key.name.encode("utf-8", "surrogatepass")
    head = _PICTURE.pack(len(name), key.bytes, key.changed_ns, len(said.labels))
    return head + name + said.labels.astype("<u4").tobytes() + said.scores.astype("<f4").tobytes()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudioError(f"cannot be written: {error.strerror}", file=folder) from error
