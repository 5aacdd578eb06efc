"""A folder of pictures and captions, open for editing: filters, edits with undo, and what others do to it meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.dataset import file_moves
from lib_lora.dataset.bounds import link_in_home
from lib_lora.dataset.edits import About, Edit
from lib_lora.dataset.items import (
    CaptionRead,
    HeaderCache,
    Item,
    ItemMaker,
    Listing,
    PictureFile,
    caption_of,
    is_recent,
    is_text,
    list_pictures,
    read_caption_file,
    read_files,
)
from lib_lora.dataset.journal import (
    CHANGED_OUTSIDE,
    Change,
    Done,
    Entry,
    Journal,
    Kept,
    Move,
    TextChange,
    read_bytes,
    trash_name,
)
from lib_lora.dataset.query import Columns, Query, parse_query
from lib_lora.dataset.records import HOME, natural_key
from lib_lora.dataset.tag_index import TagIndex, bits_of, ids_of
from lib_lora.files.atomic import safe_name, write_bytes
from lib_lora.files.captions import replace_caption
from lib_lora.files.image_header import PICTURE_EXTENSIONS
from lib_lora.files.stamps import Stamp, stamp_of

_EXAMPLES = 20
_LINE_END = re.compile(rb"\r?\n\Z")
_STAGING_KEPT_S = 30 * 86_400.0


@dataclass(frozen=True)
class EditPreview:
    """What an edit would do.

    Attributes:
        changed: captions that would be another.
        examples: the first of them: id, caption before and after.
        emptied: of the changed ones those that would have nothing left.
        left: pictures whose captions cannot be edited, and why.
    """

    changed: int
    examples: list[tuple[int, str, str]]
    emptied: int = 0
    left: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Applied:
    """What was done.

    Attributes:
        entry: its number in the history; None where nothing was to be done.
        what: in words.
        changed, added, removed: ids.
        conflicts: id, or name of a file that is no item, and why nothing was done to it.
    """

    entry: int | None
    what: str
    changed: list[int]
    added: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    conflicts: list[tuple[int | str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Changes:
    """What others did to the folder: ids."""

    added: list[int]
    removed: list[int]
    changed: list[int]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True)
class _Source:
    """What a query is asked of (``query.Source``)."""

    collection: Collection
    index: TagIndex
    columns: Columns
    every: int
    selected: int

    def tokens(self, item: Item) -> int:
        return self.collection.tokens(item.id)


class Collection:
    """One per folder in a process, whoever opens it; all of it may be called from any thread.

    Attributes:
        folder: as an absolute path.
        read_only: why nothing can be written; None where it can.
        version: a number that rises with every change this process knows of.
        notes: what a person should know, one sentence each.
        orphans: caption files without a picture.
        count_tokens: of a text; set by whoever has a tokenizer.
        categories: tag in plain form -> category, for sorting; set by whoever has a list of tags.
    """

    def __init__(
        self,
        folder: Path,
        recursive: bool,
        caption_extension: str,
        within: tuple[Path, ...] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.folder = folder
        self._root = str(folder)
        self.recursive = recursive
        self.caption_extension = caption_extension
        self.version = 1
        self.count_tokens: Callable[[str], int] | None = None
        self.categories: Mapping[str, int] = {}
        self.orphans: list[str] = []
        self._own_notes: list[str] = []
        self._lock = threading.RLock()
        self._journal = Journal(folder, within)
        self._bounds = self._journal.bounds
        self._is_open_to_others = within is not None
        self._headers = HeaderCache(self._journal.home / "index")
        self._listing = Listing()
        self._items: dict[int, Item] = {}
        self._ids: dict[str, int] = {}  # also of pictures that are gone: undone, they come back under their id
        self._next_id = 0
        self._order: list[int] = []
        self._stamps: dict[str, Stamp | None] = {}  # of caption files as they were read; None: to be read again
        self._users: dict[str, list[int]] = {}  # caption file, also one that is not there yet -> its pictures
        self._index = TagIndex({})
        self._every = 0
        self._is_in_order = True
        self._tokens: dict[int, tuple[str, int]] = {}
        self._sequence: tuple[Item, ...] | None = None  # this and the next: made of the items when asked for
        self._columns: Columns | None = None
        self._line_end: bytes | None = None  # of caption files
        self.read_only = self._open_journal()
        self._maker = ItemMaker(str(folder), self._headers)
        self._relist(self._list(), progress)

    # Opening and closing

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        recursive: bool = True,
        caption_extension: str = ".txt",
        within: Sequence[Path] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Collection:
        """The dataset in ``folder``; the one that is open, where somebody in this process has it open. An edit that a
        killed process left half done is finished.

        Args:
            caption_extension: of caption files; where a picture has several, the one that counts.
            within: where others than this machine's user reach it, the folders that they may use: files elsewhere,
                where links lead, are left out and not touched.
            progress: called with (pictures read, pictures in all).

        Raises:
            StudioError: no such folder, it cannot be read, or it is a dataset's own.
        """
        root = _checked_folder(folder)
        extension = _checked_extension(caption_extension)
        allowed = None if within is None else tuple(within)
        key = (os.path.normcase(os.path.realpath(root)), recursive, extension, allowed)
        with _open_lock:
            opened = _open.setdefault(key, _Opened())
            opened.users += 1
        try:
            with opened.lock:
                if opened.collection is None:
                    opened.collection = cls(root, recursive, extension, allowed, progress)
                    return opened.collection
            opened.collection.refresh()
        except BaseException:
            _let_go(key)
            raise
        return opened.collection

    def close(self) -> None:
        """Let go; the last one that does so ends it."""
        key = next((key for key, opened in list(_open.items()) if opened.collection is self), None)
        if key is not None:
            _let_go(key)

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_journal(self) -> str | None:
        """Why nothing can be written; None where it can."""
        link = link_in_home(self._journal.home)
        if link is not None:
            return f"{link} is a link; what is kept there would be written somewhere else"
        try:
            self._journal.home.mkdir(exist_ok=True)
            with self._journal.locked() as found:
                self._journal.remove_leftovers()
                if found:
                    self._own_notes.append(f"an edit that was cut off has been finished ({len(found)} files)")
                for name, why in self._journal.left:
                    self._own_notes.append(f"an edit was cut off, and is left so at {name}, which {why}")
        except (StudioError, OSError) as fault:
            with contextlib.suppress(StudioError):
                self._journal.read()
            if isinstance(fault, StudioError):
                return str(fault)
            return f"the folder cannot be written ({fault.strerror or fault})"
        return None

    # Looking

    @property
    def items(self) -> Sequence[Item]:
        """All pictures, in natural order."""
        with self._lock:
            if self._sequence is None:
                self._sequence = tuple(self._items[number] for number in self._order)
            return self._sequence

    @property
    def ids(self) -> list[int]:
        """All pictures' ids, in natural order."""
        with self._lock:
            return list(self._order)

    @property
    def notes(self) -> list[str]:
        with self._lock:
            notes = self._own_notes + self._listing.faults
            if self._journal.damaged_lines:
                notes.append(f"{self._journal.damaged_lines} lines of the journal cannot be read; the rest is used")
            return notes

    def item(self, id: int) -> Item:
        """Raises StudioError where the picture is not there (any more)."""
        with self._lock:
            try:
                return self._items[id]
            except KeyError:
                raise StudioError("there is no such picture (any more)", field="id", came=id) from None

    def item_named(self, name: str) -> Item | None:
        """The picture with this path in the dataset."""
        with self._lock:
            return self._items.get(self._ids.get(name, -1))

    def tokens(self, id: int) -> int:
        """Tokens of the picture's caption.

        Raises:
            StudioError: nobody has set ``count_tokens``.
        """
        if self.count_tokens is None:
            raise StudioError("tokens cannot be counted: no tokenizer is loaded")
        caption = self.item(id).caption or ""
        known = self._tokens.get(id)
        if known is None or known[0] != caption:
            known = self._tokens[id] = (caption, self.count_tokens(caption))
        return known[1]

    def tag_counts(self, ids: Iterable[int] | None = None) -> list[tuple[str, int]]:
        """(tag, pictures that have it), the most frequent first."""
        with self._lock:
            return self._index.counts(None if ids is None else bits_of(ids))

    def select(self, query: str, *, within: Iterable[int] | None = None, selected: Iterable[int] = ()) -> list[int]:
        """The pictures that a filter lets through, in natural order; docs/dataset.md has the language.

        Raises:
            StudioError: at field "filter", naming the position.
        """
        ask = _parsed(query)
        with self._lock:
            if self._columns is None:
                self._columns = Columns(self._items.values())
            bits = ask(_Source(self, self._index, self._columns, self._every, bits_of(selected) & self._every))
            if within is not None:
                bits &= bits_of(within)
            return self._in_order(ids_of(bits))

    def sort(self, ids: Iterable[int], by: str = "name", reverse: bool = False) -> list[int]:
        """``ids`` sorted by one of ``SORTS``; equal ones in natural order.

        Raises:
            StudioError: an unknown order, or "tokens" without a tokenizer.
        """
        if by not in SORTS:
            raise StudioError("unknown order", field="by", came=by, allowed=SORTS)
        with self._lock:
            ids = self._in_order([number for number in dict.fromkeys(ids) if number in self._items])
            if by == "tokens":
                return sorted(ids, key=self.tokens, reverse=reverse)
            if by == "name":
                return ids[::-1] if reverse else ids
            key = SORTS[by]
            return sorted(ids, key=lambda number: key(self._items[number]), reverse=reverse)

    def _in_order(self, ids: list[int]) -> list[int]:
        if self._is_in_order:
            return sorted(ids)
        chosen = set(ids)
        return [number for number in self._order if number in chosen]

    # Editing captions

    def edited(self, edit: Edit, ids: Iterable[int]) -> tuple[dict[int, str], list[tuple[int, str]]]:
        """New captions by id, where they differ; and what cannot be edited."""
        with self._lock:
            return self._edited(edit, ids)

    def preview(self, edit: Edit, ids: Iterable[int]) -> EditPreview:
        """What ``apply`` would do."""
        with self._lock:
            new, left = self._edited(edit, ids)
            examples = [(number, self._items[number].caption or "", text) for number, text in new.items()]
            emptied = sum(not text.strip() for text in new.values())
            return EditPreview(len(new), examples[:_EXAMPLES], emptied, left)

    def apply(self, edit: Edit, ids: Iterable[int], *, remove_empty: bool = False, group: str | None = None) -> Applied:
        """Edit captions, as one entry of the history.

        Args:
            remove_empty: a caption file whose caption has nothing left is deleted; otherwise such a caption stays as it
                is, and is named among the conflicts.
            group: entries of one group, one after the other, are undone and redone together.

        Raises:
            StudioError: the folder cannot be written.
        """
        with self._writing():
            new, left = self._edited(edit, ids)
            return self._set(new, edit.describe(), remove_empty=remove_empty, group=group, conflicts=list(left))

    def set_captions(
        self,
        new: Mapping[int, str],
        *,
        was: Mapping[int, str | None] | None = None,
        what: str = "edit",
        remove_empty: bool = False,
        group: str | None = None,
    ) -> Applied:
        """Write captions, as one entry of the history.

        Args:
            was: what the editor saw; where a caption is another by now, nothing is written, and it is a conflict.
            remove_empty, group: as in ``apply``.
        """
        with self._writing():
            conflicts: list[tuple[int | str, str]] = []
            wanted = {}
            for number, text in new.items():
                item = self._items.get(number)
                if item is None:
                    conflicts.append((number, "the picture is not there any more"))
                elif was is not None and number in was and (was[number] or "") != (item.caption or ""):
                    conflicts.append((number, "the caption is another by now; nothing was written"))
                else:
                    wanted[number] = text
            return self._set(wanted, what, remove_empty=remove_empty, group=group, conflicts=conflicts)

    def remove_captions(self, ids: Iterable[int]) -> Applied:
        """Delete caption files; the pictures stay."""
        with self._writing():
            files = {
                item.caption_name: None for item in map(self._items.get, ids) if item and item.caption_name is not None
            }
            return self._write_files(files, "delete captions")

    def rewrite(self, new: Mapping[int, bytes | str], what: str) -> Applied:
        """Write whole caption files, whatever they hold: all lines, another encoding. Text is written in UTF-8."""
        with self._writing():
            files = {}
            for number, content in new.items():
                data = content.encode("utf-8") if isinstance(content, str) else content
                files[self._caption_file(self.item(number))] = data
            return self._write_files(files, what)

    def convert_captions(self, ids: Iterable[int], encoding: str = "cp1252") -> Applied:
        """Write caption files that are neither UTF-8 nor UTF-16 in UTF-8; ``encoding`` is what they are in now."""
        new: dict[int, bytes | str] = {}
        conflicts: list[tuple[int | str, str]] = []
        for item in map(self.item, ids):
            if item.caption_data is None or item.caption is not None:
                continue
            try:
                new[item.id] = item.caption_data.decode(encoding)
            except UnicodeDecodeError as fault:
                conflicts.append((item.id, f"is not {encoding} (byte at position {fault.start})"))
            except LookupError:
                raise StudioError("is no encoding", field="encoding", came=encoding) from None
        done = self.rewrite(new, "captions to UTF-8")
        return dataclasses.replace(done, conflicts=[*conflicts, *done.conflicts])

    def restore_first(self, ids: Iterable[int]) -> Applied:
        """Make captions again what they were before they were changed here for the first time."""
        with self._writing():
            first = self._journal.first()
            names = [self._caption_file(item) for item in map(self._items.get, ids) if item]
            return self._write_files({name: first[name] for name in names if name in first}, "restore first captions")

    # History

    def undo(self) -> Applied | None:
        """Take back the last entry of the history; None where there is none. What others have changed since stays."""
        with self._writing():
            done = self._journal.undo()
            return None if done is None else self._applied(done, f"undo {done.what}")

    def redo(self) -> Applied | None:
        """Do again what was undone last; None where there is nothing."""
        with self._writing():
            done = self._journal.redo()
            return None if done is None else self._applied(done, f"redo {done.what}")

    def history(self) -> list[Entry]:
        """What can be undone, and what can be redone, oldest first."""
        with self._lock:
            return self._journal.history()

    def kept(self) -> Kept:
        """What the history and the trash take on the disk."""
        with self._lock:
            return self._journal.kept()

    def empty_trash(self) -> None:
        """Delete what is in the trash for good; undoing its deletion finds nothing then."""
        with self._writing():
            self._journal.empty_trash()
            self.version += 1

    def forget_history(self) -> None:
        """Forget what was done, and empty the trash: nothing of before can be undone. First captions are kept."""
        with self._writing():
            self._journal.forget()
            self.version += 1

    def refresh(self) -> Changes:
        """Take in what others have done to the folder.

        Raises:
            StudioError: the folder is gone or cannot be read.
        """
        _checked_folder(self.folder)
        version, listing = self.version, self._list()  # which takes a while, and others need not wait for
        with self._lock:
            if self.read_only:
                self._follow(self._journal.read())
                return self._relist(listing)
            with self._journal.locked() as others:
                self._follow(others)
                return self._relist(listing if version == self.version and not others else self._list())

    # Files

    def move(self, ids: Iterable[int], folder: str | Path) -> Applied:
        """Move pictures with their captions and masks into ``folder``: one of the dataset (relative), or any other.
        Where one of the files finds its place taken, the picture stays with all of them."""
        target = _no_home(self.folder / folder)
        return self._files(ids, file_moves.into_folder(self.folder, target), f"move to {folder}")

    def copy(self, ids: Iterable[int], folder: str | Path) -> Applied:
        """As ``move``, but the pictures stay where they are, too."""
        target = _no_home(self.folder / folder)
        return self._files(ids, file_moves.into_folder(self.folder, target), f"copy to {folder}", copy=True)

    def trash(self, ids: Iterable[int], *, captions: bool = True) -> Applied:
        """Move pictures to the dataset's trash, with their captions and masks or without."""

        def target(picture: str, name: str) -> str:
            return trash_name(self._journal.next_number, name)

        return self._files(ids, target, "delete", captions=captions)

    def trash_files(self, names: Iterable[str]) -> Applied:
        """Move files that are no items, such as orphaned captions, to the trash; ``names`` are paths in the dataset."""
        with self._writing():
            number = self._journal.next_number
            moves = [Move(self._inside(name), trash_name(number, name)) for name in dict.fromkeys(names)]
            return self._change_files(moves, "delete files", [])

    def rename(self, id: int, stem: str) -> Applied:
        """Give a picture with its captions and masks another name; the folder and the extensions stay."""
        item = self.item(id)
        return self.rename_all({id: stem + os.path.splitext(item.file_name)[1]}, f"rename {item.stem} to {stem}")

    def rename_all(self, names: Mapping[int, str], what: str) -> Applied:
        """Give pictures with their captions and masks other names in their folders, as one entry.

        Args:
            names: the pictures' new file names. Captions and masks keep their extensions. What a picture that keeps its
                name also uses is copied.
        """
        new = {self.item(id).name: safe_name(name, field="name") for id, name in names.items()}

        def target(picture: str, file: str) -> str:
            folder, _, name = file.rpartition("/")
            stem = os.path.splitext(new[picture])[0]
            old_stem = os.path.splitext(picture.rpartition("/")[2])[0]
            renamed = new[picture] if file == picture else stem + name[len(old_stem) :]
            return f"{folder}/{renamed}" if folder else renamed

        return self._files(names, target, what)

    def staging(self) -> Path:
        """A folder for finished files that ``add_files`` is to bring in."""
        with self._writing():
            folder = self._journal.home / "new"
            folder.mkdir(exist_ok=True)
            _remove_old(folder)
            return folder

    def add_files(
        self,
        files: Mapping[str, Path],
        *,
        captions: Mapping[str, str] | None = None,
        replaced: Iterable[int | str] = (),
        what: str = "add pictures",
    ) -> Applied:
        """Bring files into the dataset, as one entry of the history; undone, they lie in ``staging()`` again,
        where they are kept for a month.

        Args:
            files: path in the dataset -> the file, best in ``staging()``, which is moved there.
            captions: path in the dataset of a picture -> its caption.
            replaced: pictures, and names of other files, that go to the trash, so that their names may be used. The
                captions and masks of the pictures stay.
        """
        with self._writing():
            number = self._journal.next_number
            gone = [self._inside(which) if isinstance(which, str) else self.item(which).name for which in replaced]
            changes: list[Change] = [Move(name, trash_name(number, name)) for name in gone]
            leaving = set(gone)
            conflicts: list[tuple[int | str, str]] = []
            for name, source in files.items():
                if os.path.lexists(self.folder / self._inside(name)) and name not in leaving:
                    conflicts.append((name, "there is a file of this name already"))
                else:
                    changes.append(Move(file_moves.name_in(self.folder, source), name))
            if conflicts:
                return Applied(None, what, [], conflicts=conflicts)
            for name, caption in (captions or {}).items():
                file = os.path.splitext(self._inside(name))[0] + self.caption_extension
                why = self._bounds.text_refusal(file, trusted=True)
                if why:
                    return Applied(None, what, [], conflicts=[(name, f"{file} {why}")])
                old = read_bytes(self._place(file))
                new = replace_caption(old, caption, file) if old else self._new_caption(caption)
                changes.append(TextChange(file, old, new))
            return self._change_files(changes, what, [])

    # What the above is made of

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the dataset against other threads and processes, with what they did taken in."""
        with self._lock:
            if self.read_only:
                raise StudioError(f"nothing can be written: {self.read_only}", file=self.folder)
            with self._journal.locked() as others:
                if others:
                    self._follow(others)
                    self._relist(self._list())
                yield

    def _edited(self, edit: Edit, ids: Iterable[int]) -> tuple[dict[int, str], list[tuple[int, str]]]:
        """New captions by id, where they differ; and what cannot be edited."""
        about = About(
            counts=dict(self._index.counts()) if "counts" in edit.needs() else {},
            count_tokens=self.count_tokens,
            categories=self.categories,
        )
        new: dict[int, str] = {}
        left: list[tuple[int, str]] = []
        for number in dict.fromkeys(ids):
            item = self._items.get(number)
            if item is None:
                left.append((number, "the picture is not there any more"))
            elif item.caption is None and item.caption_problem:
                left.append((number, item.caption_problem))
            else:
                text = edit(item.caption or "", dataclasses.replace(about, name=item.name))
                if text != (item.caption or ""):
                    new[number] = text
        return new, left

    def _set(
        self,
        new: Mapping[int, str],
        what: str,
        *,
        remove_empty: bool,
        group: str | None,
        conflicts: list[tuple[int | str, str]],
    ) -> Applied:
        files: dict[str, bytes | None] = {}
        texts: dict[str, str] = {}
        for number, text in new.items():
            item, text = self._items[number], text.strip()
            if text == (item.caption or ""):
                continue
            name = self._caption_file(item)
            problem = _unwritable(item, text, remove_empty=remove_empty)
            if not problem and texts.setdefault(name, text) != text:
                problem = f"shares {name} with another picture, for which another text was given"
            if problem:
                conflicts.append((number, problem))
            else:
                old = item.caption_data
                files[name] = (replace_caption(old, text, name) if old else self._new_caption(text)) if text else None
        return self._write_files(files, what, group=group, conflicts=conflicts)

    def _write_files(
        self,
        files: Mapping[str, bytes | None],
        what: str,
        *,
        group: str | None = None,
        conflicts: list[tuple[int | str, str]] | None = None,
    ) -> Applied:
        """Caption files by name and their whole new content; None deletes."""
        conflicts = list(conflicts or [])
        folders: dict[str, str] = {}
        refusals = {name: self._bounds.text_refusal(name, trusted=True, folders=folders) for name in files}
        for name, why in refusals.items():
            conflicts += [(number, f"{name} {why}") for number in self._users.get(name, [])] * bool(why)
        files = {name: data for name, data in files.items() if not refusals[name]}
        changed_outside = [name for name in files if self._has_changed(name)]
        for name in changed_outside:
            self._read_again(name)
            conflicts += [(number, CHANGED_OUTSIDE) for number in self._users.get(name, [])]
        changes = [
            TextChange(name, self._data(name), data)
            for name, data in files.items()
            if name not in changed_outside and data != self._data(name)
        ]
        if not changes:
            return Applied(None, what, [], conflicts=conflicts)
        count = sum(len(self._users.get(change.name, [])) for change in changes)
        return self._applied(self._journal.edit(what, changes, count=count, group=group), what, conflicts)

    def _has_changed(self, name: str) -> bool:
        """Whether a caption file is another than it was read; if it is, it is known by its content."""
        stamp = stamp_of(self._place(name))
        if stamp is not None and stamp == self._stamps.get(name):
            return False
        return read_bytes(self._place(name)) != self._data(name)

    def _data(self, name: str) -> bytes | None:
        users = self._users.get(name)
        return self._items[users[0]].caption_data if users else None

    def _new_caption(self, text: str) -> bytes:
        """A new caption file, which ends as the others do: with a line break or without."""
        if self._line_end is None:
            datas = (item.caption_data for item in self._items.values() if item.caption_data)
            ending = _LINE_END.search(next(datas, b""))
            self._line_end = ending[0] if ending else b""
        return text.encode("utf-8") + self._line_end

    def _caption_file(self, item: Item) -> str:
        """The picture's caption file, also one that is not there yet."""
        return item.caption_name or os.path.splitext(item.name)[0] + self.caption_extension

    def _place(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _inside(self, name: str) -> str:
        """Raises StudioError where the path does not lie in the dataset."""
        if os.path.isabs(name) or file_moves.name_in(self.folder, self.folder / name) != name:
            raise StudioError("is no path in the dataset", file=name)
        return name

    def _files(
        self,
        ids: Iterable[int],
        target_of: Callable[[str, str], str],
        what: str,
        *,
        copy: bool = False,
        captions: bool = True,
    ) -> Applied:
        with self._writing():
            names = [self._items[number].name for number in dict.fromkeys(ids) if number in self._items]
            plan = file_moves.plan_files(self.folder, self._listing, names, target_of, copy=copy, captions=captions)
            refused = [(self._ids[name], why) for name, why in plan.refused]
            return self._change_files(plan.changes, what, refused, count=len(plan.pictures))

    def _change_files(
        self,
        changes: Sequence[Change],
        what: str,
        conflicts: list[tuple[int | str, str]],
        *,
        count: int | None = None,
    ) -> Applied:
        if not changes:
            return Applied(None, what, [], conflicts=conflicts)
        done = self._journal.edit(what, changes, count=len(changes) if count is None else count)
        return self._applied(done, what, conflicts)

    def _applied(self, done: Done, what: str, conflicts: Iterable[tuple[int | str, str]] = ()) -> Applied:
        """Know of what the journal has done."""
        conflicts = list(conflicts)
        moved = self._follow(done.changes)
        only_texts = all(isinstance(change, TextChange) for change in done.changes)
        names = [change.name for change in done.changes]
        if only_texts and all(name in self._users for name in names) and not self._pairing_changes(done.changes):
            added, removed, changed = [], [], self._take_texts(done.changes)
        else:
            found = self._relist(self._list())
            added, removed, changed = found.added, found.removed, sorted({*found.changed, *moved} - {*found.removed})
        for name, why in done.left:
            users = self._users.get(name, [])
            if users:
                self._read_again(name)
            conflicts += [(number, why) for number in users] or [(self._ids.get(name, name), why)]
        self.version += 1
        return Applied(done.number, what, changed, added, removed, conflicts)

    def _follow(self, changes: Iterable[Change]) -> list[int]:
        """Pictures that have another name keep their ids; these ids."""
        moved = []
        for change in changes:
            if isinstance(change, Move) and change.name in self._ids:
                number = self._ids.pop(change.name)
                self._ids[change.target] = number
                moved.append(number)
        return moved

    def _pairing_changes(self, changes: Iterable[Change]) -> bool:
        """Whether another caption file may become the one that counts: one of several is deleted."""
        gone = [change.name for change in changes if isinstance(change, TextChange) and change.new is None]
        pictures = (self._items[number].name for name in gone for number in self._users[name])
        return any(len(self._listing.pictures[name].captions) > 1 for name in pictures)

    def _take_texts(self, changes: Iterable[Change]) -> list[int]:
        """Put the new content of caption files into their items; ids. They were written just now, so that another write
        may leave their stamps as they are: they have to be read again."""
        changed = []
        for change in changes:
            if isinstance(change, TextChange):
                read = CaptionRead() if change.new is None else caption_of(change.new, change.name)
                self._stamps[change.name] = None
                changed += self._replace_caption(change.name, read)
        return sorted(changed)

    def _read_again(self, name: str) -> None:
        """A caption file was changed by others."""
        stamp = stamp_of(self._place(name))
        why = self._bounds.refusal(name, follow=True, trusted=True)
        self._replace_caption(name, CaptionRead(problem=why) if why else read_caption_file(self._place(name)))
        self._keep_stamp(name, stamp)
        self.version += 1

    def _keep_stamp(self, name: str, stamp: Stamp | None) -> None:
        """Of a file that was written lately another write may leave the stamp as it is: it has to be read again."""
        self._stamps[name] = None if stamp is None or is_recent(stamp, time.time_ns()) else stamp

    def _replace_caption(self, name: str, read: CaptionRead) -> list[int]:
        exists = read.data is not None or read.problem is not None
        parts = self._maker.parts(read.text)
        for number in self._users[name]:
            old = self._items[number]
            self._items[number] = dataclasses.replace(
                old,
                caption=read.text,
                caption_name=name if exists else None,
                caption_data=read.data,
                lines_unused=read.lines_unused,
                caption_problem=read.problem,
                **parts,
            )
            self._index.change(number, old.tags, parts["tags"])
            if self._columns is not None:
                self._columns.change(self._items[number])
            file = self._listing.pictures[old.name]
            if exists != bool(file.captions):
                self._listing.pictures[old.name] = dataclasses.replace(file, captions=(name,) if exists else ())
        self._sequence = None
        return self._users[name]

    # Reading the folder

    def _list(self) -> Listing:
        allowed = self._bounds.is_allowed if self._is_open_to_others else None
        return list_pictures(
            self.folder, recursive=self.recursive, caption_extension=self.caption_extension, is_allowed=allowed
        )

    def _relist(self, listing: Listing, progress: Callable[[int, int], None] | None = None) -> Changes:
        """Take in what lies in the folder; only files that are new or may have changed are opened."""
        names, total = self._sorted(listing), len(listing.pictures)
        files = [listing.pictures[name] for name in names]
        fresh = [file for file in files if not self._is_as_read(file, listing)]
        # Stamps are of before the reading: what changes meanwhile is seen the next time.
        for name in dict.fromkeys(file.captions[0] for file in fresh if file.captions):
            self._keep_stamp(name, listing.stamps.get(name))
        tell = (lambda done: progress(total - len(fresh) + done, total)) if progress else (lambda done: None)
        captions = read_files(self._root, self._headers, fresh, tell)
        old_items, items = self._items, {}
        added, changed, is_fresh = [], [], {file.name for file in fresh}
        for file in files:
            number = self._ids.setdefault(file.name, self._next_id)
            self._next_id = max(self._next_id, number + 1)
            old = old_items.get(number)
            if file.name not in is_fresh:
                items[number] = old
                continue
            item = self._maker.make(number, file, captions[file.captions[0]] if file.captions else CaptionRead())
            items[number] = old if item == old else item
            if item != old:
                (added if old is None else changed).append(number)
        removed = [number for number in old_items if number not in items]
        self._settle(listing, items)
        self._index_changes(old_items, [*added, *removed, *changed])
        if added or removed or changed:
            self.version += 1
            self._write_header_cache()
        return Changes(added, removed, changed)

    def _sorted(self, listing: Listing) -> list[str]:
        """The listing's names in natural order."""
        known = [self._items[number].name for number in self._order]
        if len(known) == len(listing.pictures) and all(name in listing.pictures for name in known):
            return known
        return sorted(listing.pictures, key=natural_key)

    def _is_as_read(self, file: PictureFile, listing: Listing) -> bool:
        item = self._items.get(self._ids.get(file.name, -1))
        if item is None or item.name != file.name or self._listing.pictures.get(file.name) != file:
            return False
        if not file.captions:
            return True
        stamp = self._stamps.get(file.captions[0])
        return stamp is not None and stamp == listing.stamps.get(file.captions[0])

    def _settle(self, listing: Listing, items: dict[int, Item]) -> None:
        """``items`` are in natural order."""
        self._listing, self._items, self._order = listing, items, list(items)
        self._is_in_order = self._order == sorted(self._order)
        self._every = bits_of(items)
        self._sequence = self._columns = self._line_end = None
        self.orphans = sorted(listing.orphans, key=natural_key)
        self._users = {}
        for item in items.values():
            self._users.setdefault(self._caption_file(item), []).append(item.id)

    def _index_changes(self, old_items: Mapping[int, Item], numbers: Sequence[int]) -> None:
        if not old_items:
            self._index = TagIndex({number: item.tags for number, item in self._items.items()})
            return
        for number in numbers:
            old, new = old_items.get(number), self._items.get(number)
            self._index.change(number, old.tags if old else (), new.tags if new else ())

    def _write_header_cache(self) -> None:
        content = None if self.read_only else self._headers.content()
        if content is not None:
            with contextlib.suppress(StudioError):  # without it the next opening takes longer
                write_bytes(self._journal.home / "index", content)


SORTS: dict[str, Callable[[Item], object]] = {
    "name": lambda item: item.name,
    "modified": lambda item: item.modified_ns,
    "kilobytes": lambda item: item.bytes,
    "width": lambda item: item.width_px,
    "height": lambda item: item.height_px,
    "megapixels": lambda item: item.width_px * item.height_px,
    "ratio": lambda item: item.width_px / max(1, item.height_px),
    "tags": lambda item: len(item.tags),
    "characters": lambda item: item.characters,
    "tokens": lambda item: 0,
    "caption": lambda item: natural_key(item.caption or ""),
}

_parsed: Callable[[str], Query] = functools.lru_cache(maxsize=64)(parse_query)


@dataclass
class _Opened:
    lock: threading.Lock = field(default_factory=threading.Lock)
    collection: Collection | None = None
    users: int = 0


_Key = tuple[str, bool, str, tuple[Path, ...] | None]
_open: dict[_Key, _Opened] = {}
_open_lock = threading.Lock()


def _let_go(key: _Key) -> None:
    with _open_lock:
        _open[key].users -= 1
        if not _open[key].users:
            del _open[key]


def _checked_folder(folder: str | Path) -> Path:
    root = _no_home(Path(os.path.abspath(folder)))
    if not root.exists():
        raise StudioError("the folder does not exist", field="folder", file=root)
    if not root.is_dir():
        raise StudioError("this is a file; a folder is wanted", field="folder", file=root)
    try:
        with os.scandir(root):
            return root
    except OSError as fault:
        raise StudioError(f"the folder cannot be read: {fault.strerror or fault}", field="folder", file=root) from fault


def _no_home(folder: Path) -> Path:
    """Raises StudioError for the folder, in some dataset, that holds what is ours, and for those in it."""
    if HOME in {part.lower() for part in Path(os.path.realpath(folder)).parts}:
        problem = f"{HOME} holds a dataset's journal and trash, and is no folder of pictures"
        raise StudioError(problem, field="folder", file=folder)
    return folder


def _checked_extension(extension: str) -> str:
    text = extension.strip().lower()
    text = text if text.startswith(".") else f".{text}"
    if len(text) < 2 or text in PICTURE_EXTENSIONS or os.sep in text or "/" in text or text.count(".") > 1:
        raise StudioError("is no extension of captions", field="caption_extension", came=extension, allowed=".txt")
    return text


def _unwritable(item: Item, text: str, *, remove_empty: bool) -> str:
    """Why the text cannot be the picture's caption; empty where it can."""
    if item.caption is None and item.caption_problem:
        return item.caption_problem
    if not text:
        return "" if remove_empty else "nothing would be left of the caption"
    if "\n" in text or "\r" in text:
        return "a caption is one line"
    if not is_text(text) or "\0" in text:
        return "holds half a character"
    return ""


def _remove_old(folder: Path) -> None:
    """What a tool left that was killed, and what was undone long ago: a rename makes ``st_ctime`` new."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.is_file() and max(status.st_mtime, status.st_ctime) < time.time() - _STAGING_KEPT_S:
                path.unlink()
