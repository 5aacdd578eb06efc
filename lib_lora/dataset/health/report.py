"""What a health check finds, and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.edits import About, Edit, TagEdit
from lib_lora.dataset.picture_files import convert_files
from lib_lora.dataset.picture_tools import PictureTool, use_tool

SEVERITIES = ("error", "warning", "hint")


@dataclass(frozen=True)
class Watch:
    """Who looks on while a fix of many pictures is made.

    Attributes:
        progress: called with (done, total).
        control: asked to stop, the fix leaves out what is not done yet.
    """

    progress: Callable[[int, int], None] | None = None
    control: Control | None = None


class Fix:
    """What one click does about a finding. Everything goes through the collection's journal and can be undone."""

    label: str

    def apply(self, collection: Collection, items: Sequence[int], files: Sequence[str], watch: Watch) -> Applied:
        raise NotImplementedError


@dataclass(frozen=True)
class EditFix(Fix):
    """An edit of the captions, which ``collection.preview`` shows beforehand."""

    label: str
    edit: Edit

    def apply(self, collection: Collection, items: Sequence[int], files: Sequence[str], watch: Watch) -> Applied:
        return collection.apply(self.edit, items)


@dataclass(frozen=True)
class TagChange(TagEdit):
    """An edit of the tags by any function; sentences stay."""

    what: str
    function: Callable[[list[str]], list[str]]

    def change(self, tags: list[str], about: About) -> list[str]:
        return self.function(tags)

    def describe(self) -> str:
        return self.what


@dataclass(frozen=True)
class CaptionChange(Edit):
    """An edit of the whole caption by any function."""

    what: str
    function: Callable[[str], str]

    def __call__(self, caption: str, about: About = About()) -> str:  # noqa: B008 - frozen
        return self.function(caption)

    def describe(self) -> str:
        return self.what


def tag_fix(label: str, what: str, function: Callable[[list[str]], list[str]]) -> EditFix:
    """``label`` is on the button, ``what`` in the history."""
    return EditFix(label, TagChange(what, function))


@dataclass(frozen=True)
class ActionFix(Fix):
    """Any other change that is made at once; ``action`` gets the collection, the finding's items and its files."""

    label: str
    action: Callable[[Collection, Sequence[int], Sequence[str]], Applied]

    def apply(self, collection: Collection, items: Sequence[int], files: Sequence[str], watch: Watch) -> Applied:
        return self.action(collection, items, files)


@dataclass(frozen=True)
class ToolFix(Fix):
    """New pictures in place of the old ones."""

    label: str
    tool: PictureTool

    def apply(self, collection: Collection, items: Sequence[int], files: Sequence[str], watch: Watch) -> Applied:
        return use_tool(collection, items, self.tool, over=True, progress=watch.progress, control=watch.control)


@dataclass(frozen=True)
class ConvertFix(Fix):
    """The finding's files in a format that training reads."""

    label: str

    def apply(self, collection: Collection, items: Sequence[int], files: Sequence[str], watch: Watch) -> Applied:
        return convert_files(collection, files, progress=watch.progress, control=watch.control)


@dataclass(frozen=True)
class Finding:
    """Attributes:
    kind: which check found it.
    severity: "error" (training refuses it), "warning" (it most likely does harm) or "hint" (worth a look).
    text: one sentence for people.
    items: ids of the pictures that it is about, in the dataset's order.
    files: names of files that are no items, such as captions without a picture.
    tags: the tags that it is about.
    fix: None where a person has to decide.
    """

    kind: str
    severity: str
    text: str
    items: tuple[int, ...] = ()
    files: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    fix: Fix | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "severity": self.severity,
            "text": self.text,
            "items": list(self.items),
            "files": list(self.files),
            "tags": list(self.tags),
            "fix": self.fix.label if self.fix else None,
        }


@dataclass(frozen=True)
class HealthReport:
    """Attributes:
    findings: errors first, then warnings, then hints.
    version: the collection's when it was looked at.
    notes: what could not be looked at, and why.
    buckets: {"width", "height", "pictures", "samples", "batches"}, smallest first.
    resolutions: {"width", "height", "pictures"}, most pictures first.
    tag_frequency: (tag, pictures), most frequent first.
    tokens: {"counts": {tokens: captions}, "over": {75: n, 150: n, 225: n}}; None without a tokenizer.
    steps: what training makes of it: samples, batches_per_epoch, steps_per_epoch, total_steps, epochs; None where it
        would refuse.
    """

    findings: tuple[Finding, ...]
    version: int
    notes: tuple[str, ...] = ()
    buckets: tuple[dict[str, int], ...] = ()
    resolutions: tuple[dict[str, int], ...] = ()
    tag_frequency: tuple[tuple[str, int], ...] = ()
    tokens: dict[str, dict[int, int]] | None = None
    steps: dict[str, int] | None = None

    def to_json(self, *, most_tags: int = 500) -> dict[str, Any]:
        """For the page. A finding's place in the list is what a fix is asked for by."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "version": self.version,
            "notes": list(self.notes),
            "buckets": list(self.buckets),
            "resolutions": list(self.resolutions),
            "tag_frequency": [list(pair) for pair in self.tag_frequency[:most_tags]],
            "tokens": self.tokens,
            "steps": self.steps,
        }


def apply_fix(collection: Collection, finding: Finding, watch: Watch = Watch()) -> Applied:
    """Do what the finding offers, as one undoable entry of the journal. Items that are gone meanwhile are left out.

    Raises:
        StudioError: it offers nothing.
    """
    if finding.fix is None:
        raise StudioError("there is no fix for this by itself", field="finding", came=finding.kind)
    known = set(collection.ids)
    return finding.fix.apply(collection, [id for id in finding.items if id in known], finding.files, watch)
