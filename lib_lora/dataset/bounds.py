"""What an edit of a dataset may touch. A dataset may come from anybody: neither its journal nor a link in it may lead a
change to somewhere else, unless this machine's user made that change here."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.dataset.records import HOME
from lib_lora.files.atomic import lock_file, write_bytes

OUTSIDE = "leads outside the dataset; nothing was done"
LINKED = "is a link to outside the dataset; nothing was written"
_SECRET_BYTES = 32


class Bounds:
    """Where the files of a dataset may lie.

    Args:
        within: folders that others who reach the page may use; None: this machine's user may use all.
    """

    def __init__(self, root: Path, within: Sequence[Path] | None = None) -> None:
        self.root = root
        self._text = str(root)
        self._real = os.path.realpath(root)
        self._home = os.path.join(self._real, HOME)
        self._within = None if within is None else [os.path.realpath(folder) for folder in within]

    def is_allowed(self, real: str) -> bool:
        """Whether a file may be used that lies there, with links followed."""
        return self._within is None or any(_lies_in(real, folder) for folder in self._within)

    def refusal(self, name: str, *, follow: bool, trusted: bool, folders: dict[str, str] | None = None) -> str:
        """Why the path, in the dataset or whole, may not be used; empty where it may.

        Args:
            follow: the file is read or written; otherwise it is renamed, and a link is renamed itself.
            trusted: somebody asked for just this in this process or, as a seal shows, on this machine.
            folders: folders and where they lie, for many questions between which nothing is moved.
        """
        path = os.path.join(self._text, name)
        is_followed = follow and os.path.islink(path)
        return self._refusal(name, path, {} if folders is None else folders, is_followed=is_followed, trusted=trusted)

    def text_refusal(self, name: str, *, trusted: bool, folders: dict[str, str] | None = None) -> str:
        """The same for a file that is written. Through a link of its own it may not lead out, whoever asks for it:
        captions are written, and a link to somewhere else is none."""
        path = os.path.join(self._text, name)
        is_link = os.path.islink(path)
        if is_link:
            real = os.path.realpath(path)
            if not _lies_in(real, self._real) and not _lies_in(real, os.path.realpath(os.path.dirname(path))):
                return LINKED
        return self._refusal(name, path, {} if folders is None else folders, is_followed=is_link, trusted=trusted)

    def _refusal(self, name: str, path: str, folders: dict[str, str], *, is_followed: bool, trusted: bool) -> str:
        folder, file = os.path.split(path)
        if is_followed or file in ("", os.curdir, os.pardir):
            real = os.path.realpath(path)
        else:
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            real = os.path.join(folders[folder], file)
        if name.startswith(f"{HOME}/"):
            return "" if _lies_in(real, self._home) else OUTSIDE
        if not (trusted or _lies_in(real, self._real)) or not self.is_allowed(real):
            return OUTSIDE
        return ""


def _lies_in(path: str, folder: str) -> bool:
    path, folder = os.path.normcase(path), os.path.normcase(folder).rstrip(os.sep)
    return path == folder or path.startswith(folder + os.sep)


def link_in_home(home: Path) -> Path | None:
    """A link among the files that are ours, through which we would write somewhere else."""
    for place in (home, home / "edits", home / "scores"):
        if os.path.realpath(place) != os.path.join(os.path.realpath(place.parent), place.name):
            return place
        if place.is_dir():
            with os.scandir(place) as entries:
                link = next((entry.path for entry in entries if entry.is_symlink()), None)
            if link is not None:
                return Path(link)
    return None


def seal(root: Path, number: int, changes: Sequence[Sequence[Any]]) -> str | None:
    """Shows that edit ``number`` of the dataset in ``root`` was made on this machine; None where no secret can be kept.

    An HMAC-SHA256 (RFC 2104) of it with a secret that lies in the user's own folder.
    """
    try:
        key = _secret()
    except (OSError, StudioError):
        return None
    body = json.dumps([os.path.realpath(root), number, changes], separators=(",", ":"))
    return hmac.new(key, body.encode("ascii"), hashlib.sha256).hexdigest()


def is_sealed(root: Path, number: int, changes: Sequence[Sequence[Any]], given: object) -> bool:
    own = seal(root, number, changes) if isinstance(given, str) and given.isascii() else None
    return own is not None and hmac.compare_digest(own, given)


def _secret() -> bytes:
    """Made when it is first asked for."""
    folder = _user_folder(os.environ)
    path = folder / "seal"
    if path.is_file() and len(data := path.read_bytes()) == _SECRET_BYTES:
        return data
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock_file(folder / "seal.lock", wait_s=10):
        if not path.is_file() or path.stat().st_size != _SECRET_BYTES:
            write_bytes(path, secrets.token_bytes(_SECRET_BYTES))
            path.chmod(0o600)
        return path.read_bytes()


def _user_folder(environment: Mapping[str, str]) -> Path:
    """Where programs of this system keep what is the user's own."""
    base = environment.get("LOCALAPPDATA" if os.name == "nt" else "XDG_DATA_HOME")
    usual = Path("Library", "Application Support") if sys.platform == "darwin" else Path(".local", "share")
    return Path(base or Path.home() / usual) / "lora_studio"
