"""An edit of very many captions, in portions: it can be watched and stopped, and others are not kept waiting."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterable

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Applied, Collection
from lib_lora.dataset.edits import Edit

PORTION = 500  # captions; a fifth of a second


def apply_in_portions(
    collection: Collection,
    edit: Edit,
    ids: Iterable[int],
    *,
    remove_empty: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    control: Control | None = None,
) -> Applied:
    """As ``Collection.apply``; undone and redone as one, unless somebody else edits in between.

    Args:
        progress: called with (captions looked after, captions that are to change).
        control: asked to stop, it leaves the captions that are not written yet as they are.
    """
    # All at once: what an edit makes of a caption may depend on the others.
    new, left = collection.edited(edit, ids)
    was = {id: collection.item(id).caption for id in new}
    group, what = uuid.uuid4().hex, edit.describe()
    done = Applied(None, what, [], conflicts=list(left))
    waiting, total = iter(new.items()), len(new)
    for begun in range(0, total, PORTION):
        progress(begun, total)
        if control is not None and control.stopping:
            break
        portion = dict(itertools.islice(waiting, PORTION))
        # A caption that two pictures share may have been written for the other one.
        wanted = {id: text for id, text in portion.items() if not _stands(collection, id, text.strip())}
        part = collection.set_captions(wanted, was=was, what=what, remove_empty=remove_empty, group=group)
        entry, conflicts = part.entry or done.entry, done.conflicts + part.conflicts
        done = Applied(entry, what, done.changed + part.changed, conflicts=conflicts)
    return done


def _stands(collection: Collection, id: int, text: str) -> bool:
    with contextlib.suppress(StudioError):  # a picture that is gone is told of by whoever writes
        return (collection.item(id).caption or "") == text
    return False
