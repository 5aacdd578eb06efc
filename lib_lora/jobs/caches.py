"""The folder of encoded pictures and captions that all jobs share: its size, its limit, and making it empty.

A file's time of change is when it was last used: ``training.cache`` renews it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lib_lora.base.errors import StudioError
from lib_lora.base.protocols import Host
from lib_lora.files.atomic import write_text

DEFAULT_LIMIT_BYTES = 20 * 2**30
# The other file in there, with what is known of checkpoints' hashes, is small and not of datasets.
_KINDS = ("latents", "texts")


class _File(NamedTuple):
    used: float  # epoch seconds
    bytes: int
    path: str


def cache_folder(host: Host) -> Path:
    """Where all jobs keep what they have encoded."""
    return host.data_dir / "cache"


def cache_view(host: Host) -> dict[str, Any]:
    """``{"bytes", "limit_bytes", "folder"}``."""
    used = sum(file.bytes for file in _files(host))
    return {"bytes": used, "limit_bytes": limit_bytes(host), "folder": str(cache_folder(host))}


def limit_bytes(host: Host) -> int:
    """How large the folder may be after a job.

    Raises:
        StudioError: the file that holds the limit is broken.
    """
    try:
        return _checked_limit(json.loads(_settings(host).read_text(encoding="utf-8"))["limit_bytes"])
    except FileNotFoundError:
        return DEFAULT_LIMIT_BYTES
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise StudioError("the limit cannot be read", file=_settings(host), allowed="delete the file") from fault


def set_limit(host: Host, limit: int) -> None:
    """Keep another limit; it is applied at the next job's end.

    Raises:
        StudioError: it is no whole number of bytes.
    """
    limit = _checked_limit(limit)
    host.data_dir.mkdir(parents=True, exist_ok=True)
    write_text(_settings(host), json.dumps({"limit_bytes": limit}))


def trim_cache(host: Host, in_use_since: float | None = None) -> int:
    """Delete what was not used for longest until the limit is kept; to be called at a job's end.

    Args:
        in_use_since: when the first of the jobs still running was started, in epoch seconds; what was used since then
            stays.

    Returns:
        Bytes deleted.
    """
    return _shrink(host, limit_bytes(host), in_use_since)


def clear_cache(host: Host, in_use_since: float | None = None) -> int:
    """Delete everything but what running jobs use; arguments and result as ``trim_cache``."""
    return _shrink(host, 0, in_use_since)


def _shrink(host: Host, limit: int, in_use_since: float | None) -> int:
    files = sorted(_files(host))
    over = sum(file.bytes for file in files) - limit
    deleted = 0
    for file in files:
        if deleted >= over or (in_use_since is not None and file.used >= in_use_since):
            break
        try:
            os.unlink(file.path)
        except OSError:
            continue  # Windows does not give away what somebody has open; it is the next job's end's
        deleted += file.bytes
    return deleted


def _files(host: Host) -> Iterator[_File]:
    for kind in _KINDS:
        for folder, _, names in os.walk(cache_folder(host) / kind):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue  # a job has renamed its temporary file meanwhile
                yield _File(status.st_mtime, status.st_size, path)


def _settings(host: Host) -> Path:
    return host.data_dir / "cache.json"


def _checked_limit(limit: Any) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise StudioError("not allowed", field="limit_bytes", came=limit, allowed="a whole number, at least 0")
    return limit
