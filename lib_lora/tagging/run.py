"""Tagging a dataset: pictures are looked at in batches, what was said is kept at once, and captions follow."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Note, Progress, ToolDone
from lib_lora.base.protocols import Host, Label, Tagger
from lib_lora.base.signals import Control
from lib_lora.dataset.images import load_image
from lib_lora.dataset.items import Item
from lib_lora.tagging.choose import is_left_alone
from lib_lora.tagging.hub import download
from lib_lora.tagging.options import TagConfig, rules_of
from lib_lora.tagging.registry import Offer, find_offer, own_thresholds
from lib_lora.tagging.stored import StoredScores, key_of

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Collection

_READERS = 2
_TELL_SECONDS = 0.25
_MOST_NAMED = 20


def check(config: TagConfig, folder: Path, host: Host | None = None) -> list[Offer]:
    """The taggers that a config names.

    Raises:
        StudioError: one of them is not known, or another option cannot be understood.
    """
    rules_of(config)
    return [find_offer(name, folder, host) for name in dict.fromkeys(config.taggers)]


def tag(
    collection: Collection,
    ids: Sequence[int],
    config: TagConfig,
    folder: Path,
    control: Control,
    host: Host | None = None,
) -> Iterator[Event]:
    """Let taggers look at pictures and write what they find into the captions.

    It may be stopped or killed at any time: what was said of a picture is on disk before its caption is written, and
    neither is done twice. Captions are written picture by picture, and are one step of the dataset's undo.

    Args:
        folder: where taggers' weights lie.

    Yields:
        ``Progress``, ``Note``, and at the end ``ToolDone`` unless it was stopped.

    Raises:
        StudioError: the dataset cannot be written, or a tagger cannot be had.
    """
    run = _Run(collection, list(ids), config, control, StoredScores(collection, own_thresholds(folder, host)))
    return run.events(check(config, folder, host), folder)


@dataclass
class _Run:
    """Attributes:
    problems: why a picture could not be looked at, by its name.
    conflicts: why a caption was not written, by the picture's name.
    tried: pictures whose captions were written, or are not to be.
    """

    collection: Collection
    ids: list[int]
    config: TagConfig
    control: Control
    stored: StoredScores
    group: str = field(default_factory=lambda: uuid.uuid4().hex)
    names: dict[int, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    left: int = 0
    looked: int = 0
    looked_seconds: float = 0.0
    tried: set[int] = field(default_factory=set)
    written: int = 0

    def events(self, offers: Sequence[Offer], folder: Path) -> Iterator[Event]:
        started = time.monotonic()
        if self.collection.read_only:
            raise StudioError(
                f"captions cannot be written: {self.collection.read_only}", field="folder", file=self.collection.folder
            )
        for offer in offers:
            if offer.hub and not offer.info.present and not self.control.stopping:
                yield from download(offer.info.name, offer.hub, folder / offer.info.name, self.control)
        wanted = self._wanted()
        at_once = not self.config.minimum_fraction
        for offer in offers:
            if not self.control.stopping:
                yield from self._look(offer, wanted, write=at_once and offer is offers[-1])
        if self.control.stopping:
            return
        rest = [id for id in wanted if id not in self.tried]
        yield Progress("writing captions", 0, len(rest))
        self._write(rest)
        yield ToolDone("tag", None, self._report(wanted), time.monotonic() - started)

    def _wanted(self) -> list[int]:
        """The pictures whose captions are not left alone."""
        wanted = []
        for id in self.ids:
            item = self.collection.item(id)
            self.names[id] = item.name
            if item.picture_problem:
                self.problems[item.name] = item.picture_problem
            elif item.caption_name is not None and item.caption is None:
                self.conflicts[item.name] = item.caption_problem or "the caption cannot be read"
            elif is_left_alone(item, self.config.policy):
                self.left += 1
            else:
                wanted.append(id)
        return wanted

    def _look(self, offer: Offer, wanted: Sequence[int], *, write: bool) -> Iterator[Event]:
        """What one tagger says of all pictures; with ``write`` each caption is written as soon as it can be."""
        tagger = offer.make(self.config)
        store = self.stored.store(tagger.name)
        items = [self.collection.item(id) for id in wanted]
        is_known = store.model == tagger.model and all(key_of(item) in store.said for item in items)
        if is_known and not self.config.again:
            return  # nothing to load it for
        what = f"tagging with {tagger.name}"
        yield Progress(what, 0, len(items))
        with tagger, store.writing(tagger.model):
            if tagger.note:
                yield Note(tagger.note, "warning")
            store.add_labels(tagger.labels)
            items = [item for item in items if self.config.again or key_of(item) not in store.said]
            if write:
                left = {item.id for item in items}
                self._write([id for id in wanted if id not in left])
            started, told, done = time.monotonic(), 0.0, 0
            for batch, said in self._batches(tagger, items):
                for item, each in zip(batch, said):
                    store.add(key_of(item), each)
                if write:
                    self._write([item.id for item in batch])
                done += len(batch)
                self.looked += len(batch)
                if time.monotonic() - told > _TELL_SECONDS or done == len(items):
                    told = time.monotonic()
                    yield Progress(what, done + len(wanted) - len(items), len(wanted))
            self.looked_seconds += time.monotonic() - started

    def _batches(
        self, tagger: Tagger, items: Sequence[Item]
    ) -> Iterator[tuple[list[Item], Sequence[Mapping[Label, float]]]]:
        """Pictures with what was said of them; ends where ``control`` says so."""
        size = tagger.batch_size or self.config.batch_size
        batch: list[tuple[Item, Any]] = []
        with ThreadPoolExecutor(_READERS, thread_name_prefix="tagging") as readers:
            pending: deque[tuple[Item, Future]] = deque()
            queue = iter(items)
            while not self.control.stopping:
                for item in islice(queue, 2 * size + _READERS - len(pending)):
                    pending.append((item, readers.submit(_prepare, tagger, item)))
                if not pending:
                    break
                item, future = pending.popleft()
                try:
                    batch.append((item, future.result()))
                except StudioError as fault:
                    self.problems[item.name] = fault.problem
                if len(batch) >= size or (batch and not pending):
                    yield [item for item, _ in batch], tagger([prepared for _, prepared in batch])
                    batch = []
            readers.shutdown(wait=True, cancel_futures=True)

    def _write(self, ids: Sequence[int]) -> None:
        """Once for each picture: what somebody else has written meanwhile is a conflict, and stays one."""
        self.tried.update(ids)
        if ids:
            applied = self.stored.write(self.config, ids, group=self.group)
            self.written += len(applied.changed)
            for who, why in applied.conflicts:
                self.conflicts[self.names.get(who, str(who))] = why

    def _report(self, wanted: Sequence[int]) -> dict[str, Any]:
        count = self.stored.count(self.config, wanted, most=0)
        return {
            "pictures": len(self.ids),
            "left": self.left,
            "run": self.looked,
            "per_second": self.looked / self.looked_seconds if self.looked_seconds else None,
            "written": self.written,
            "without": count.without,
            "tags": count.tags,
            "problems": sorted(self.problems.items()),
            "conflicts": sorted(self.conflicts.items()),
        }


def _prepare(tagger: Tagger, item: Item) -> Any:
    return tagger.prepare(load_image(item.path))


def report_text(report: Mapping[str, Any]) -> str:
    """The report of ``ToolDone`` for a terminal."""
    pace = f" ({report['per_second']:.1f} a second)" if report["per_second"] else ""
    lines = [
        f"{report['pictures']} pictures: {report['run']} looked at{pace}, {report['written']} captions written",
        *([f"{report['left']} left alone: they have captions"] if report["left"] else []),
        *([f"{report['without']} for which no tag was found"] if report["without"] else []),
    ]
    for title, entries in (("cannot be read", report["problems"]), ("not written", report["conflicts"])):
        lines += [f"{title}: {name}: {why}" for name, why in entries[:_MOST_NAMED]]
        if len(entries) > _MOST_NAMED:
            lines.append(f"{title}: {len(entries) - _MOST_NAMED} more")
    return "\n".join(lines)
