"""The pictures of an open dataset, small and whole."""

from __future__ import annotations

import threading
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.responses import Response

from lib_lora.api.call import Call, not_found
from lib_lora.api.dataset import collection_of, item_of
from lib_lora.api.pictures import file_response
from lib_lora.api.studio import Studio
from lib_lora.base.errors import StudioError

_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
_MEDIA_TYPES |= {".webp": "image/webp", ".bmp": "image/bmp"}
# Its address holds the picture's size and time: another picture has another address.
_FOR_GOOD = "private, max-age=31536000, immutable"
_AT_ONCE = threading.Semaphore(4)  # decoders fill the memory
_prune_once = threading.Lock()


def thumb(studio: Studio, call: Call) -> Any:
    """A small JPEG; made on demand and kept below ``data_dir``."""
    from lib_lora.dataset.thumbnails import thumbnail

    path, folder = picture_path(studio, call), studio.host.data_dir / "thumbnails"
    try:
        with _AT_ONCE:
            small = thumbnail(path, folder)
    except StudioError as error:
        raise not_found(error.problem, file=error.file) from error
    except OSError as error:
        raise not_found(f"cannot be read ({error.strerror})", field="item", came=call.path["item"]) from error
    _prune(folder)
    response = file_response(call, small, (folder,), "image/jpeg")
    if "v" in call.query:
        response.headers["Cache-Control"] = _FOR_GOOD
    return response


def picture(studio: Studio, call: Call) -> Response:
    """The picture's own file."""
    path = picture_path(studio, call)
    ending = PurePosixPath(item_of(collection_of(studio, call), call.path["item"]).name).suffix.lower()
    return file_response(call, path, allowed_places(studio, path), _MEDIA_TYPES[ending])


def picture_path(studio: Studio, call: Call) -> Path:
    """The file of the picture that a request names, with links followed.

    Raises:
        Refusal: there is none.
        StudioError: it lies where the host does not allow.
    """
    from lib_lora.files.access import check_inside

    path = item_of(collection_of(studio, call), call.path["item"]).path
    return check_inside(path, allowed_places(studio, path), field=None)


def allowed_places(studio: Studio, path: Path) -> tuple[Path, ...]:
    """Where pictures may lie: a link in a dataset may lead out of it, for this machine's user."""
    return studio.host.folders().datasets if studio.host.exposed() else (Path(path.anchor),)


def _prune(folder: Path) -> None:
    """Once in a process, in the background."""
    from lib_lora.dataset.thumbnails import prune

    if _prune_once.acquire(blocking=False):
        threading.Thread(target=prune, args=(folder,), name="prune thumbnails", daemon=True).start()
