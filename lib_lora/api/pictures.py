"""Files that the page shows: its own scripts, and previews."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response

from lib_lora.api.call import Call, not_found
from lib_lora.api.jobs import find_job
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError
from lib_lora.files.access import check_inside, check_subfolder
from lib_lora.jobs.job import Job

_ROOT = Path(__file__).resolve().parents[2]
_SCRIPTS = _ROOT / "javascript" / "studio"
_STYLE = "style.css"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def static_file(studio: Studio, call: Call) -> Any:
    """A script of ``javascript/studio``, or the style sheet."""
    name = call.path["path"]
    path = _ROOT / _STYLE if name == _STYLE else _SCRIPTS / check_subfolder(name, field="path")
    if path.suffix not in _MEDIA_TYPES:
        raise not_found("no such file", field="path", came=name)
    return file_response(call, path, (_ROOT / _STYLE, _SCRIPTS), _MEDIA_TYPES[path.suffix])


def preview(studio: Studio, call: Call) -> Any:
    """One of a job's preview pictures."""
    job = find_job(studio, call.path["id"])
    return file_response(call, preview_file(job, call.path["name"]), (job.folder,), "image/png")


def preview_file(job: Job, name: str) -> Path:
    """Raises Refusal where the job has made no picture of this name."""
    try:
        return job.picture(name)
    except StudioError as error:
        raise not_found(error.problem, field=error.field, came=error.came) from error


def file_response(call: Call, path: Path, allowed: tuple[Path, ...], media_type: str) -> Response:
    """A file for the browser to keep, and to ask each time whether it has changed.

    Raises:
        Refusal: there is none.
        StudioError: it is a link to outside ``allowed``.
    """
    real = check_inside(path, allowed, field=None)
    try:
        status = real.stat()
    except (OSError, ValueError):
        raise not_found("no such file", field="path", came=path.name) from None
    if not real.is_file():
        raise not_found("no such file", field="path", came=path.name)
    headers = {
        "ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"',
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if call.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(real, media_type=media_type, headers=headers)
