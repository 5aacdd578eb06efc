"""The journal of a dataset: what is about to be changed is on the disk before it changes.

In ``<dataset>/.lora_studio``: ``journal.jsonl`` has a line for each operation before it begins and one when it has
ended; ``edits/`` holds what large ones change; ``first.jsonl`` each caption file as it was before its first change;
``trash/`` the files that were deleted. An operation that was cut off is finished when the dataset is opened next: each
of its files is then as it was before or as it should be, and is known by its content.

The journal may be somebody else's: what it says to do outside the dataset is done only where the edit is sealed.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.dataset.bounds import Bounds, is_sealed, seal
from lib_lora.dataset.records import HOME
from lib_lora.files.atomic import atomic_write, lock_file, remove_leftovers, replace_files, sync_folder, write_bytes

_LOCK_WAIT_S = 30.0
_BEGINNING_BYTES = 200  # more than the first operation's time
_INLINE_BYTES = 4096  # larger lists of changes go into a file of their own, so that the journal stays quick to read

CHANGED_OUTSIDE = "was changed by another program; nothing was written"
GONE = "is gone"
TAKEN = "there is a file of this name already"
WRITE_PROTECTED = "is write-protected"


@dataclass(frozen=True)
class TextChange:
    """A caption file's content before and after; None: no such file. ``name`` is the path in the dataset."""

    name: str
    old: bytes | None
    new: bytes | None

    def inverse(self, number: int) -> Change:
        return TextChange(self.name, self.new, self.old)

    def to_json(self) -> list[Any]:
        return ["text", self.name, _text(self.old), _text(self.new)]


@dataclass(frozen=True)
class Move:
    """A file's name before and after: paths in the dataset, or whole ones where they lie elsewhere."""

    name: str
    target: str

    def inverse(self, number: int) -> Change:
        return Move(self.target, self.name)

    def to_json(self) -> list[Any]:
        return ["move", self.name, self.target]


@dataclass(frozen=True)
class Copy:
    """A file that is copied to ``target``. Its inverse moves the copy to the trash."""

    name: str
    target: str

    def inverse(self, number: int) -> Change:
        return Move(self.target, trash_name(number, self.target))

    def to_json(self) -> list[Any]:
        return ["copy", self.name, self.target]


Change = TextChange | Move | Copy


def trash_name(number: int, name: str) -> str:
    """Where the file ``name`` goes that operation ``number`` deletes."""
    inside = name if not os.path.isabs(name) else os.path.basename(name)
    return f"{HOME}/trash/{number:06d}/{inside}"


def _text(data: bytes | None) -> str | None:
    """Any bytes as a text that JSON holds."""
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _change(values: list[Any]) -> Change:
    kind, name, *rest = values
    if not all(isinstance(text, str) or (text is None and kind == "text") for text in (name, *rest)) or "\0" in name:
        raise ValueError("is no change of a file")
    if kind == "text":
        return TextChange(name, _bytes(rest[0]), _bytes(rest[1]))
    if "\0" in rest[0]:
        raise ValueError("is no change of a file")
    return {"move": Move, "copy": Copy}[kind](name, rest[0])


@dataclass(frozen=True)
class Entry:
    """A line of the history. ``count``: pictures that it changed."""

    number: int
    time: float
    what: str
    count: int
    undone: bool


@dataclass(frozen=True)
class Kept:
    """What the history takes on the disk: files in the trash and their bytes, bytes of the edits."""

    trash_files: int
    trash_bytes: int
    history_bytes: int


@dataclass(frozen=True)
class Done:
    """What an operation did.

    Attributes:
        number: of its (last) entry.
        changes: those that were made, or were so already.
        left: name of the file and why it was not changed.
    """

    number: int
    what: str
    changes: Sequence[Change]
    left: Sequence[tuple[str, str]]


@dataclass
class _Operation:
    number: int
    do: str  # "edit", "undo", "redo", or "forget", with which a journal begins anew
    time: float
    what: str = ""
    group: str | None = None
    count: int = 0
    entries: list[int] = field(default_factory=list)  # of undo and redo
    offset: int = 0  # of its line in the journal
    state: str = "live"  # of an edit: "live", "undone", or "dropped" when another edit followed an undo
    left: set[str] = field(default_factory=set)
    ended: bool = False


class Journal:
    """One per open dataset. Not thread-safe: its owner holds a lock of its own. Other processes may have one, too.

    ``within``: as ``Bounds`` has it.
    """

    def __init__(self, root: Path, within: Sequence[Path] | None = None) -> None:
        self.root = root
        self.bounds = Bounds(root, within)
        self.home = root / HOME
        self._path = self.home / "journal.jsonl"
        self._offset = 0  # how far the file has been read
        self._beginning = b""  # of that file
        self._operations: dict[int, _Operation] = {}  # by number, which rises
        self._undone: set[int] = set()
        self._history: list[Entry] | None = None
        self._was_read = False
        self._first: dict[str, bytes | None] | None = None
        self._first_size = 0
        self._first_end = 0  # of its whole lines
        self.damaged_lines = 0
        self.left: list[tuple[str, str]] = []  # by finishing what was cut off: file and why

    def history(self) -> list[Entry]:
        """Edits that stand or can be redone, oldest first; those of one group, one after the other, are one."""
        if self._history is None:
            self._history = []
            for together in self._groups(operation for operation in self._edits() if operation.state != "dropped"):
                last = together[-1]
                count = sum(operation.count for operation in together)
                self._history.append(Entry(last.number, last.time, last.what, count, last.state == "undone"))
        return list(self._history)

    def read(self) -> list[Change]:
        """Take in what others have written since the last time; the changes that they made.

        Raises:
            StudioError: the journal cannot be read.
        """
        try:
            size = self._path.stat().st_size if self._path.exists() else 0
            # Another journal has taken its place.
            if size < self._offset or (size > self._offset and self._has_another_beginning()):
                self._start_over()
            if size == self._offset:
                self._was_read = True
                return []
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError as fault:
            raise StudioError(f"the journal cannot be read: {fault.strerror or fault}", file=self._path) from fault
        known, was_read, self._was_read = set(self._operations), self._was_read, True
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # cut off while it was written: nothing was changed for it
            self._take(line)
            self._offset += len(line)
        new = [operation for number, operation in self._operations.items() if number not in known]
        return [change for operation in new for change in self._changes(operation)] if was_read else []

    def _start_over(self) -> None:
        self._offset, self._operations, self._undone, self._first = 0, {}, set(), None
        self._history, self._beginning = None, self._read_beginning()

    def _has_another_beginning(self) -> bool:
        """Whether the file is another than the one that was read; its beginning is kept. Each line has its own time."""
        before, self._beginning = self._beginning, self._read_beginning()
        return not self._beginning.startswith(before)

    def _read_beginning(self) -> bytes:
        if not self._path.exists():
            return b""
        with open(self._path, "rb") as file:
            return file.read(_BEGINNING_BYTES)

    @contextlib.contextmanager
    def locked(self) -> Iterator[list[Change]]:
        """Hold the dataset against other processes, with an operation that was cut off finished.

        Yields:
            What others changed since the journal was read last, and what was finished.

        Raises:
            StudioError: another process holds it for too long, or the folder cannot be written.
        """
        with lock_file(self.home / "lock", wait_s=_LOCK_WAIT_S):
            others = self.read()
            yield others + self._finish_cut_off()

    def remove_leftovers(self) -> None:
        """Delete what a killed process left in our folder while it was writing there. To be called locked."""
        remove_leftovers(self.home, "index")
        remove_leftovers(self.home / "edits", ".*")

    @property
    def is_cut_off(self) -> bool:
        """Whether the last operation began and has not ended."""
        return bool(self._operations) and not self._last().ended

    def cut_off(self) -> list[Change]:
        """What the operation changes that was cut off; nothing where none was."""
        return self._changes(self._last()) if self.is_cut_off else []

    def edit(self, what: str, changes: Sequence[Change], *, count: int, group: str | None = None) -> Done:
        """Make ``changes``. To be called with the journal locked, as all that writes.

        Raises:
            StudioError: the disk is full or refuses; what had been changed is as before then.
        """
        number = self.next_number
        self._keep_first(changes)
        operation = _Operation(number, "edit", time.time(), what, group, count)
        self._begin(operation, changes)
        return self._run(operation, changes, _names(changes))

    @property
    def next_number(self) -> int:
        """The number of the operation that comes next."""
        return self._last().number + 1 if self._operations else 1

    def undo(self) -> Done | None:
        """Take back the last edit, or group of edits, that stands; None where there is none."""
        live = [operation for operation in self._edits() if operation.state == "live"]
        return self._again("undo", self._groups(live)[-1][::-1]) if live else None

    def redo(self) -> Done | None:
        """Make the edit again that was undone last; None where there is none."""
        undone = [operation for operation in self._edits() if operation.state == "undone"]
        return self._again("redo", self._groups(undone)[0]) if undone else None

    def first(self) -> dict[str, bytes | None]:
        """Each caption file that was ever changed, as it was before; None: there was no such file."""
        path = self.home / "first.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if self._first is None or size != self._first_size:
            self._first = {}
            data = path.read_bytes() if size else b""
            self._first_size, self._first_end = size, data.rfind(b"\n") + 1
            for line in data[: self._first_end].splitlines():
                with contextlib.suppress(ValueError):
                    name, text = json.loads(line)
                    self._first[name] = _bytes(text)
        return self._first

    # What it takes on the disk

    def kept(self) -> Kept:
        trash = [path.lstat().st_size for path in self._files("trash")]
        edits = [path.lstat().st_size for path in [*self._files("edits"), *self.home.glob(self._path.name)]]
        return Kept(len(trash), sum(trash), sum(edits))

    def empty_trash(self) -> None:
        """Delete for good what was deleted: undone, it does not come back. To be called locked.

        Raises:
            StudioError: the system refuses; the rest is there still.
        """
        self._delete("trash")

    def forget(self) -> None:
        """Begin anew: nothing that was done can be undone or redone, and the trash is emptied. The first captions are
        kept. To be called locked.

        Raises:
            StudioError: as ``empty_trash``.
        """
        number = self.next_number  # numbers go on: they name what is in the trash, and seals are made of them
        lines = [{"number": number, "do": "forget", "time": time.time()}, {"done": number, "left": []}]
        write_bytes(self._path, b"".join(json.dumps(line).encode("ascii") + b"\n" for line in lines))
        self._start_over()
        self.read()
        self._delete("edits")
        self._delete("trash")

    def _files(self, folder: str) -> list[Path]:
        found = os.walk(self.home / folder)
        return [Path(place, name) for place, _, names in found for name in names]

    def _delete(self, folder: str) -> None:
        try:
            if (self.home / folder).is_dir():
                shutil.rmtree(self.home / folder)
        except OSError as fault:
            problem = f"cannot be deleted: {fault.strerror or fault}"
            raise StudioError(problem, file=fault.filename or self.home / folder) from fault

    # What was done

    def _edits(self) -> Iterator[_Operation]:
        return (operation for operation in self._operations.values() if operation.do == "edit")

    @staticmethod
    def _groups(operations: Iterable[_Operation]) -> list[list[_Operation]]:
        groups: list[list[_Operation]] = []
        for operation in operations:
            last = groups[-1][-1] if groups else None
            together = (
                last and last.group is not None and (last.group, last.state) == (operation.group, operation.state)
            )
            if together:
                groups[-1].append(operation)
            else:
                groups.append([operation])
        return groups

    def _last(self) -> _Operation:
        return self._operations[next(reversed(self._operations))]

    def _take(self, line: bytes) -> None:
        """A line of the journal."""
        try:
            values = json.loads(line)
            if "done" in values:
                self._ended(self._operations[values["done"]], values["left"])
                return
            values = {name: values[name] for name in _HEAD if name in values}
            operation = _Operation(**values, offset=self._offset)
            if not self._operations.keys() >= set(operation.entries):
                raise KeyError(operation.number)
            self._enter(operation)
        except (ValueError, KeyError, TypeError):
            self.damaged_lines += 1

    def _enter(self, operation: _Operation) -> None:
        """Know of an operation from now on."""
        self._history = None
        self._operations[operation.number] = operation
        if operation.do == "edit":
            for number in self._undone:
                self._operations[number].state = "dropped"
            self._undone.clear()
        else:
            self._mark(operation.entries, undone=operation.do == "undo")

    def _ended(self, operation: _Operation, left: Iterable[str] | None) -> None:
        """``left``: None where the disk refused, and all was put back as before."""
        self._history = None
        operation.ended, operation.left = True, set(left or ())
        if left is None and operation.do == "edit":
            operation.state = "dropped"
        elif left is None:
            self._mark(operation.entries, undone=operation.do == "redo")

    def _mark(self, numbers: Iterable[int], *, undone: bool) -> None:
        for number in numbers:
            self._operations[number].state = "undone" if undone else "live"
        self._undone = self._undone | set(numbers) if undone else self._undone - set(numbers)

    def _changes(self, operation: _Operation) -> list[Change]:
        """What an operation changes."""
        return self._changes_and_trusted(operation)[0]

    def _changes_and_trusted(self, operation: _Operation) -> tuple[list[Change], set[str]]:
        """What an operation changes, and the names of those changes that may lead outside the dataset."""
        if operation.do == "edit":
            own, is_sealed = self._own_changes(operation)
            return own, _names(own if is_sealed else [])
        found: list[Change] = []
        trusted, others = set(), set()
        for number in operation.entries:
            entry = self._operations[number]
            own, is_sealed = self._own_changes(entry)
            own = [change for change in own if change.name not in entry.left]
            if operation.do == "undo":
                own = [change.inverse(number) for change in reversed(own)]
            else:
                own = [self._repeated(change, number) for change in own]
            (trusted if is_sealed else others).update(_names(own))
            found += own
        return _joined(found), trusted - others

    def _repeated(self, change: Change, number: int) -> Change:
        """A copy that was undone lies in the trash, and comes back from there."""
        if isinstance(change, Copy):
            back = Move(trash_name(number, change.target), change.target)
            return back if os.path.lexists(self.root / back.name) else change
        return change

    def _own_changes(self, operation: _Operation) -> tuple[list[Change], bool]:
        """What an edit changes, and whether it was sealed on this machine."""
        try:
            with open(self._path, "rb") as file:
                file.seek(operation.offset)
                values = json.loads(file.readline())
            given = values.get("seal")
            if "in" in values:
                values = json.loads(zlib.decompress((self.home / "edits" / values["in"]).read_bytes()))
            changes = [_change(change) for change in values["changes"]]
            return changes, given is not None and is_sealed(self.root, operation.number, values["changes"], given)
        except (OSError, ValueError, KeyError, TypeError, IndexError, zlib.error) as fault:
            what = f"what edit {operation.number} ({operation.what}) changed cannot be read: {fault}"
            raise StudioError(what, file=self._path) from fault

    # Writing

    def _begin(self, operation: _Operation, changes: Sequence[Change]) -> None:
        """Put it on the disk, so that it is known before anything is changed."""
        values = {name: getattr(operation, name) for name in _HEAD if getattr(operation, name) not in (None, [])}
        if operation.do == "edit":
            body = {"changes": [change.to_json() for change in changes]}
            if self._lead_out(changes):
                values["seal"] = seal(self.root, operation.number, body["changes"])
            data = json.dumps(body, separators=(",", ":")).encode("ascii")
            if len(data) > _INLINE_BYTES:
                body = {"in": f"{operation.number:06d}.json.z"}
                (self.home / "edits").mkdir(exist_ok=True)
                write_bytes(self.home / "edits" / body["in"], zlib.compress(data, 1))
            values |= body
        operation.offset = self._offset
        self._offset += _append(self._path, [values], self._offset)
        self._beginning = self._beginning or self._read_beginning()
        self._enter(operation)

    def _lead_out(self, changes: Sequence[Change]) -> bool:
        """Whether one of them reads, writes or moves a file outside the dataset."""
        folders: dict[str, str] = {}
        return any(_refusal_of(self.bounds, change, trusted=False, folders=folders) for change in changes)

    def _end(self, operation: _Operation, left: Iterable[str] | None) -> None:
        self._ended(operation, left)
        # Not waited for: without this line the next one to open finds all done and writes it.
        values = {"done": operation.number, "left": None if left is None else sorted(left)}
        self._offset += _append(self._path, [values], self._offset, sync=False)

    def _again(self, do: str, entries: list[_Operation]) -> Done:
        operation = _Operation(self.next_number, do, time.time(), entries[0].what, count=sum(e.count for e in entries))
        operation.entries = [entry.number for entry in entries]
        changes, trusted = self._changes_and_trusted(operation)
        self._begin(operation, changes)
        return self._run(operation, changes, trusted)

    def _run(self, operation: _Operation, changes: Sequence[Change], trusted: Container[str]) -> Done:
        made: list[Change] = []
        try:
            left = make_changes(self.bounds, changes, trusted, made=made)
        except BaseException:
            # Put back what was changed before the disk refused. Where that cannot be done either, the operation stays
            # open, and the next one to lock the journal finishes it.
            back = [change.inverse(operation.number) for change in reversed(made)]
            make_changes(self.bounds, _joined(back), _names(back))
            self._end(operation, None)
            raise
        self._end(operation, {name for name, _ in left})
        self._keep_first_of_moved(made)
        return Done(operation.number, operation.what, made, left)

    def _finish_cut_off(self) -> list[Change]:
        """Finish the operation that a process was killed in; what it changed."""
        if not self.is_cut_off:
            return []
        operation = self._last()
        try:
            changes, trusted = self._changes_and_trusted(operation)
        except StudioError:
            # Nobody can say any more what it was to do. Each file is whole, as it was before or as it should be.
            self._end(operation, None)
            return []
        may_be_made = [
            change for change in changes if not _refusal_of(self.bounds, change, trusted=change.name in trusted)
        ]
        self._remove_temporaries(may_be_made)
        made: list[Change] = []
        left = make_changes(self.bounds, changes, trusted, again=True, made=made)
        self._end(operation, {name for name, _ in left})
        self.left += left
        self._keep_first_of_moved(made)
        return made

    def _remove_temporaries(self, changes: Sequence[Change]) -> None:
        """What a killed writer left beside the files that it was to change."""
        names: dict[Path, set[str]] = {}
        for change in changes:
            path = self.root / getattr(change, "target", change.name)
            path = Path(os.path.realpath(path)) if isinstance(change, TextChange) else path
            names.setdefault(path.parent, set()).add(re.escape(path.name[:32]))
        for folder, starts in names.items():
            remove_leftovers(folder, "|".join(starts))

    def _keep_first(self, changes: Sequence[Change]) -> None:
        known = self.first()
        new = {
            change.name: change.old for change in changes if isinstance(change, TextChange) and change.name not in known
        }
        self._write_first(new)

    def _keep_first_of_moved(self, changes: Sequence[Change]) -> None:
        """A caption file that has another name now has the same first state."""
        moves = [change for change in changes if isinstance(change, (Move, Copy))]
        if moves:
            known = self.first()
            self._write_first({move.target: known[move.name] for move in moves if move.name in known})

    def _write_first(self, new: dict[str, bytes | None]) -> None:
        if not new:
            return
        known = self.first()
        lines = [[name, _text(data)] for name, data in new.items()]
        self._first_end += _append(self.home / "first.jsonl", lines, self._first_end)
        self._first_size = self._first_end
        known |= new


_HEAD = ("number", "do", "time", "what", "group", "count", "entries")


def _append(path: Path, lines: Iterable[Any], end: int, *, sync: bool = True) -> int:
    """Write lines of JSON behind the first ``end`` bytes of the file; how many bytes they are.

    Raises:
        StudioError: the disk is full or refuses; the file ends where it did.
    """
    data = b"".join(json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n" for line in lines)
    try:
        is_new = not path.exists()
        with open(path, "r+b" if not is_new else "w+b", buffering=0) as file:
            file.truncate(end)  # a line that was cut off goes
            file.seek(end)
            try:
                if file.write(data) != len(data):
                    raise OSError("the disk is full")
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        if is_new:
            sync_folder(path.parent)
    except OSError as fault:
        raise StudioError(f"the journal cannot be written: {fault.strerror or fault}", file=path) from fault
    return len(data)


def _joined(changes: list[Change]) -> list[Change]:
    """Several changes of one text, one after the other, as one change. Where files are moved all stays in order."""
    if not all(isinstance(change, TextChange) for change in changes):
        return changes
    found: dict[str, list[TextChange]] = {}
    for change in changes:
        own = found.setdefault(change.name, [])
        if own and own[-1].new == change.old:
            own[-1] = TextChange(change.name, own[-1].old, change.new)
        else:
            own.append(change)
    return [change for own in found.values() for change in own]


def _names(changes: Iterable[Change]) -> set[str]:
    return {change.name for change in changes}


def _refusal_of(bounds: Bounds, change: Change, *, trusted: bool, folders: dict[str, str] | None = None) -> str:
    """Why a change may not be made, because of where its files lie; empty where it may."""
    if isinstance(change, TextChange):
        return bounds.text_refusal(change.name, trusted=trusted, folders=folders)
    return bounds.refusal(
        change.name, follow=isinstance(change, Copy), trusted=trusted, folders=folders
    ) or bounds.refusal(change.target, follow=False, trusted=trusted, folders=folders)


def make_changes(
    bounds: Bounds,
    changes: Sequence[Change],
    trusted: Container[str],
    *,
    again: bool = False,
    made: list[Change] | None = None,
) -> list[tuple[str, str]]:
    """Make what is not made yet, in order; the names and reasons of those that cannot be.

    Args:
        trusted: names of changes that may lead outside the dataset.
        again: these changes were begun before, by a process that was killed.
        made: gets those that were made, or were so already; where the disk refuses, those that may have been made.

    Raises:
        StudioError: the disk is full or refuses.
    """
    left: list[tuple[str, str]] = []
    made = [] if made is None else made
    texts: dict[str, TextChange] = {}
    folders: set[Path] = set()
    for change in changes:
        if isinstance(change, TextChange) and change.name not in texts:
            texts[change.name] = change
            continue
        left += _write_texts(bounds, list(texts.values()), trusted, made)
        texts = {}
        if isinstance(change, TextChange):
            texts[change.name] = change
            continue
        # Asked right before each: the one before may have moved a link or a folder.
        why = _refusal_of(bounds, change, trusted=change.name in trusted)
        if not why:
            source, target = bounds.root / change.name, bounds.root / change.target
            made.append(change)
            why = (_copy if isinstance(change, Copy) else _move)(source, target, again=again)
            folders |= {source.parent, target.parent}
            if why:
                made.pop()
        left += [(change.name, why)] * bool(why)
    for folder in folders:
        sync_folder(folder)
    return left + _write_texts(bounds, list(texts.values()), trusted, made)


def _write_texts(
    bounds: Bounds, changes: Sequence[TextChange], trusted: Container[str], made: list[Change]
) -> list[tuple[str, str]]:
    left: list[tuple[str, str]] = []
    write: dict[str, TextChange] = {}
    stamps: dict[str, Any] = {}
    folders: dict[str, str] = {}
    begun = len(made)
    for change in changes:
        why = _refusal_of(bounds, change, trusted=change.name in trusted, folders=folders)
        if why:
            left.append((change.name, why))
            continue
        path = os.path.join(bounds.root, change.name)
        stamps[path] = _stamp(path)
        now = read_bytes(path) if stamps[path] else None
        why = "" if now == change.new else _refusal(change, now, path)
        if why:
            left.append((change.name, why))
            continue
        made.append(change)
        if now != change.new:
            write[path] = change
    contents = {path: change.new for path, change in write.items() if change.new is not None}
    late = replace_files(contents, lambda path: _stamp(path) == stamps[path])
    deleted = [path for path, change in write.items() if change.new is None]
    late += [path for path in deleted if _stamp(path) != stamps[path]]
    for path in set(deleted) - set(late):
        os.unlink(path)
    for folder in {os.path.dirname(path) for path in deleted}:
        sync_folder(folder)
    refused = {write[path].name for path in late}
    made[begun:] = [change for change in made[begun:] if change.name not in refused]
    return left + [(name, CHANGED_OUTSIDE) for name in sorted(refused)]


def _refusal(change: TextChange, now: bytes | None, path: str) -> str:
    """Why the file cannot be changed; empty where it can."""
    if now != change.old:
        return GONE if now is None else TAKEN if change.old is None else CHANGED_OUTSIDE
    if not os.access(path if now is not None else os.path.dirname(path), os.W_OK):
        return WRITE_PROTECTED
    return ""


def read_bytes(path: str | Path) -> bytes | None:
    """A file's content; None where there is none.

    Raises:
        StudioError: the system does not give it.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise StudioError(f"cannot be read: {fault.strerror or fault}", file=path) from fault


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _move(source: Path, target: Path, *, again: bool) -> str:
    """Why it cannot be done; empty where it was done, or had been before."""
    try:
        if not os.path.lexists(source):
            return "" if os.path.lexists(target) else GONE
        if os.path.lexists(target) and not _is_case_only(source, target):
            # A kill between the two halves of a move to another disk leaves both.
            if not (again and filecmp.cmp(source, target, shallow=False)):
                return TAKEN
            source.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _rename(source, target)
    except OSError as fault:
        raise StudioError(f"cannot be moved: {fault.strerror or fault}", file=source) from fault
    return ""


def _rename(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as fault:
        if fault.errno != errno.EXDEV:
            raise
        _copy_whole(source, target)
        try:
            source.unlink()
        except OSError:
            target.unlink()
            raise


def _is_case_only(source: Path, target: Path) -> bool:
    """Whether both are names of one file because the disk does not tell a from A."""
    alike = source.parent == target.parent and source.name.casefold() == target.name.casefold()
    return alike and source.name != target.name and os.path.samefile(source, target)


def _copy(source: Path, target: Path, *, again: bool) -> str:
    try:
        if os.path.lexists(target):
            done = again and source.exists() and filecmp.cmp(source, target, shallow=False)
            return "" if done else TAKEN
        if not source.exists():
            return GONE
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_whole(source, target)
    except OSError as fault:
        raise StudioError(f"cannot be copied: {fault.strerror or fault}", file=source) from fault
    return ""


def _copy_whole(source: Path, target: Path) -> None:
    with open(source, "rb") as file, atomic_write(target) as copy:
        shutil.copyfileobj(file, copy)
    with contextlib.suppress(OSError):
        shutil.copystat(source, target)
