"""What the checks look at: the open dataset, what the trainer makes of it, its tags, its pixels."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Collection
from lib_lora.dataset.health.settings import HealthSettings
from lib_lora.dataset.items import Item
from lib_lora.dataset.picture_facts import STORE_NAME, FactStore, PictureFacts, facts_of
from lib_lora.dataset.plan import Plan, PlannedImage, build_plan, parse_resolution
from lib_lora.dataset.records import HOME, Scan, natural_key, scan
from lib_lora.dataset.tag_groups import in_group, plain


class Stopped(Exception):
    """Somebody asked the check to stop."""


class View:
    """Attributes:
    items: every picture that is no regularisation picture, in the dataset's order.
    """

    def __init__(
        self,
        collection: Collection,
        settings: HealthSettings,
        tell: Callable[[str, int, int], None] | None,
        control: Control | None,
    ) -> None:
        self.collection = collection
        self.settings = settings
        self.notes: list[str] = []
        self._tell = tell
        self._control = control
        self.version = collection.version
        everything = list(collection.items)
        self.items: list[Item] = [item for item in everything if not self._is_regularisation(item)]
        self.regularisation_items = [item for item in everything if self._is_regularisation(item)]
        self.by_name = {item.name: item for item in everything}

    def _progress(self, what: str) -> Callable[[int, int], None] | None:
        tell = self._tell
        return None if tell is None else lambda done, total: tell(what, done, total)

    def check_stop(self) -> None:
        """Raises Stopped where it was asked for."""
        if self._control is not None and self._control.stopping:
            raise Stopped

    # What the trainer sees

    @cached_property
    def scan(self) -> Scan | StudioError:
        """The trainer's own scan of the folder, or why it refuses the folder."""
        try:
            return scan(
                self.collection.folder,
                caption_extension=self.collection.caption_extension,
                exclude=[self.settings.reg_data_dir] if self.settings.reg_data_dir else (),
                progress=self._progress("reading as training does"),
            )
        except StudioError as error:
            return error

    @cached_property
    def regularisation(self) -> Scan | None:
        """The regularisation pictures that are given."""
        folder = self.settings.reg_data_dir
        if folder is None:
            return None
        return scan(folder, caption_extension=self.collection.caption_extension, regularisation=True)

    @cached_property
    def plan(self) -> Plan | StudioError:
        """The trainer's own plan of what is sound in the folder, or why there is none."""
        if isinstance(self.scan, StudioError):
            return self.scan
        settings = self.settings
        try:
            return build_plan(
                self.scan.without_faults(),
                self.regularisation.without_faults() if self.regularisation else None,
                resolution=parse_resolution(settings.resolution),
                batch_size=settings.train_batch_size,
                enable_bucket=settings.enable_bucket,
                bucket_no_upscale=settings.bucket_no_upscale,
                min_bucket_reso=settings.min_bucket_reso,
                max_bucket_reso=settings.max_bucket_reso,
                bucket_reso_steps=settings.bucket_reso_steps,
                epochs=settings.max_train_epochs,
                max_train_steps=settings.max_train_steps,
                gradient_accumulation_steps=settings.gradient_accumulation_steps,
            )
        except StudioError as error:
            return error

    def item_of(self, path: Path) -> Item | None:
        return self.by_name.get(self.name_of(path))

    def name_of(self, path: Path) -> str:
        """A file's name in the dataset; its whole path where it lies elsewhere."""
        try:
            return path.relative_to(self.collection.folder).as_posix()
        except ValueError:
            return str(path)

    def split(self, paths: Iterable[Path]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Paths as (ids of items, names of files that are none)."""
        ids, names = [], []
        for path in paths:
            item = self.item_of(path)
            if item is None:
                names.append(self.name_of(path))
            else:
                ids.append(item.id)
        return tuple(ids), tuple(names)

    def in_order(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Ids, once each, in the dataset's order."""
        wanted = set(ids)
        return tuple(item.id for item in self.items if item.id in wanted)

    @cached_property
    def planned(self) -> list[tuple[Item, PlannedImage]]:
        """The items that training uses, with what it makes of each."""
        if isinstance(self.plan, StudioError):
            return []
        pairs = ((self.item_of(image.record.path), image) for image in self.plan.images)
        return [(item, image) for item, image in pairs if item is not None and not image.record.regularisation]

    @cached_property
    def tokens(self) -> dict[int, int]:
        """By id, the length of each caption; empty without a tokenizer."""
        if self.collection.count_tokens is None:
            return {}
        counts = {}
        for item in self.items:
            if item.caption:
                with contextlib.suppress(StudioError):  # it may have been deleted since the view was made
                    counts[item.id] = self.collection.tokens(item.id)
        return counts

    # Pixels

    @cached_property
    def facts(self) -> dict[int, PictureFacts]:
        """By id, for all items; empty where the pixels are not to be looked at."""
        if not self.settings.look_at_pixels:
            return {}
        items = [*self.items, *self.regularisation_items]
        found = self._facts_of([item.path for item in items], "looking at pictures")
        return {item.id: facts for item, facts in zip(items, found)}

    @cached_property
    def regularisation_files(self) -> list[Path]:
        """Regularisation pictures, inside the dataset and in the folder that is given."""
        inside = [item.path for item in self.regularisation_items]
        given = [record.path for record in self.regularisation.records] if self.regularisation else []
        return list(dict.fromkeys([*inside, *given]))

    @cached_property
    def regularisation_facts(self) -> list[PictureFacts]:
        return self._facts_of(self.regularisation_files, "looking at regularisation pictures")

    def _facts_of(self, paths: Sequence[Path], what: str) -> list[PictureFacts]:
        found = facts_of(paths, self._store, progress=self._progress(what), control=self._control)
        if found is None:
            raise Stopped
        return found

    @cached_property
    def _store(self) -> FactStore:
        folder = self.collection.folder
        return FactStore(None if self.collection.read_only else folder / HOME / STORE_NAME, folder)

    # Tags

    @cached_property
    def tagged(self) -> list[Item]:
        """Items that have tags; those with sentences only are no matter of tags."""
        return [item for item in self.items if item.tags]

    @cached_property
    def carriers(self) -> dict[str, list[int]]:
        """Plain tag -> ids of the items that have it, in any writing."""
        carriers: dict[str, list[int]] = defaultdict(list)
        for item in self.tagged:
            for tag in dict.fromkeys(map(plain, item.tags)):
                carriers[tag].append(item.id)
        return dict(carriers)

    @cached_property
    def writings(self) -> dict[str, Counter[str]]:
        """Plain tag -> how often each way to write it occurs."""
        writings: dict[str, Counter[str]] = defaultdict(Counter)
        for item in self.tagged:
            for tag in item.tags:
                writings[plain(tag)][tag] += 1
        return dict(writings)

    def written(self, tag: str) -> str:
        """A plain tag as it is mostly written."""
        return self.writings[tag].most_common(1)[0][0]

    @cached_property
    def concepts(self) -> dict[str, list[Item]]:
        """Items that have tags or sentences, by concept."""
        concepts: dict[str, list[Item]] = defaultdict(list)
        for item in self.items:
            if item.caption:
                concepts[item.concept].append(item)
        return dict(sorted(concepts.items(), key=lambda pair: natural_key(pair[0])))

    @cached_property
    def activation_tags(self) -> dict[str, str]:
        """Concept -> its activation tag in plain form; concepts for which none is known are missing."""
        if self.settings.activation_tag:
            return dict.fromkeys(self.concepts, plain(self.settings.activation_tag))
        found = {concept: _activation_tag(concept, items) for concept, items in self.concepts.items()}
        return {concept: tag for concept, tag in found.items() if tag}

    @cached_property
    def is_character(self) -> bool:
        subject = self.settings.subject
        if subject != "auto":
            return subject == "character"
        people = sum(is_one_person(item) for item in self.tagged)
        return bool(self.tagged) and people > len(self.tagged) / 2

    def _is_regularisation(self, item: Item) -> bool:
        given = self.settings.reg_data_dir
        return item.regularisation or (given is not None and item.path.resolve().is_relative_to(given.resolve()))


def is_one_person(item: Item) -> bool:
    """One person and nothing that shows several, or one of them several times."""
    tags = item.tags
    return (
        any(in_group(tag, "one_person") for tag in tags)
        and not any(in_group(tag, "several") or in_group(tag, "several_views") for tag in tags)
        and not {"1girl", "1boy"} <= set(map(plain, tags))
    )


def _activation_tag(concept: str, items: Sequence[Item]) -> str | None:
    """The concept's own name where half of the captions have it as a tag, else what stands first on four in five."""
    tags = [list(map(plain, item.tags)) for item in items if item.tags]
    if not tags:
        return None
    named = plain(concept)
    if sum(named in own for own in tags) * 2 >= len(tags):
        return named
    first, count = Counter(own[0] for own in tags).most_common(1)[0]
    says_other = any(in_group(first, group) for group in ("counts", "quality", "ratings"))
    return first if count * 5 >= len(tags) * 4 and not says_other else None
