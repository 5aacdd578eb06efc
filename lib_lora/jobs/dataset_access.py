"""Which folders of pictures a host lets its users name."""

from __future__ import annotations

import os
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Host
from lib_lora.files.access import check_inside


def allowed_folder(text: str | Path, host: Host, *, field: str) -> Path:
    """The folder, with links followed.

    Raises:
        StudioError: there is none, the host does not allow it, or it is the one in a dataset that holds what is ours.
    """
    from lib_lora.dataset.records import HOME  # not before somebody names a folder: the WebUI's start is not to wait

    anywhere = [Path(Path(os.path.abspath(text)).anchor)]
    path = check_inside(text, anywhere if (folders := within(host)) is None else folders, field=field)
    if HOME in (part.lower() for part in path.parts):
        problem = f"{HOME} holds a dataset's journal and trash, and is no folder of pictures"
        raise StudioError(problem, field=field, came=text)
    if not os.path.isdir(path):  # Path.is_dir raises where the name is too long
        raise StudioError("no such folder", field=field, came=text)
    return path


def within(host: Host) -> tuple[Path, ...] | None:
    """The folders in which all files of a dataset have to lie; None where only this machine's user reaches them."""
    return tuple(host.folders().datasets) if host.exposed() else None
