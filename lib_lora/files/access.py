"""Which files and folders may be named by somebody who need not be this machine's user.

A name is compared as text before the disk is asked: on Windows, asking for ``//host/share`` tells the host who asks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import safe_name

_DRIVE = re.compile(r"[A-Za-z]:")


def check_inside(path: str | Path, allowed: Sequence[Path], *, field: str | None) -> Path:
    """``path`` with all links followed, if it then lies in one of the folders ``allowed``, or is one of them.

    It need not exist. Where somebody may change links between the check and the use, use what is returned.

    Args:
        field: the option that named it.

    Raises:
        StudioError: it lies elsewhere, or is no path of this system (a drive on Linux, a line break).
    """
    text = os.fspath(path)
    problem = _path_problem(text)
    if problem:
        raise _refused(problem, text, allowed, field)
    real = [Path(os.path.realpath(folder)) for folder in allowed]
    as_text = Path(os.path.abspath(text))
    named = [Path(os.path.abspath(folder)) for folder in allowed]
    if not any(as_text.is_relative_to(folder) for folder in (*named, *real)):
        raise _refused("lies outside the allowed folders", text, allowed, field)
    followed = Path(os.path.realpath(text))
    if not any(followed.is_relative_to(folder) for folder in real):
        raise _refused("is a link to outside the allowed folders", text, allowed, field)
    return followed


def check_subfolder(text: str, *, field: str | None) -> PurePosixPath:
    """``text`` as a path below some folder: names with ``/`` between them, or nothing at all for the folder itself.

    Each name can name a folder on Windows, macOS and Linux alike.

    Raises:
        StudioError: it is absolute, leads upwards, or holds a name that some system refuses.
    """
    if not text:
        return PurePosixPath()
    if text.startswith(("/", "\\")) or _DRIVE.match(text):
        raise StudioError("must not be absolute", field=field, came=text, allowed="a name such as characters/zorb")
    for name in text.split("/"):
        safe_name(name, field=field)
    return PurePosixPath(text)


def _path_problem(text: str) -> str | None:
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in text):
        return "holds a control character"
    if os.name != "nt" and (_DRIVE.match(text) or "\\" in text):
        return "is a path of Windows, and this is another system"
    return None


def _refused(problem: str, came: str, allowed: Sequence[Path], field: str | None) -> StudioError:
    where = ", ".join(map(str, allowed)) or "no folder is set; the settings name them"
    return StudioError(problem, field=field, came=came, allowed=where)
