"""Small copies of pictures, kept on disk."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from pathlib import Path

from lib_lora.dataset.images import load_image

SIZE_PX = 256  # of the longer side
_QUALITY = 82
_MOST_BYTES = 512 * 2**20  # some 50,000


def thumbnail(picture: Path, folder: Path) -> Path:
    """The small copy of a picture as a JPEG file below ``folder``, made where there is none of its present content.

    Raises:
        StudioError: the picture cannot be read.
    """
    status = os.stat(picture)
    text = f"{os.path.realpath(picture)}\0{status.st_mtime_ns}\0{status.st_size}\0{SIZE_PX}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    path = folder / digest[:2] / f"{digest[2:]}.jpg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not files.atomic: what a crash takes is made again, and waiting for the disk would cost more than the work.
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        temporary.write_bytes(_small(picture))
        os.replace(temporary, path)
    return path


def _small(picture: Path) -> bytes:
    image = load_image(picture, at_least=(SIZE_PX, SIZE_PX))
    image.thumbnail((SIZE_PX, SIZE_PX))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def prune(folder: Path, most_bytes: int = _MOST_BYTES) -> int:
    """Delete the oldest copies until the rest takes no more than three quarters of ``most_bytes``, once they take more
    than that; how many were deleted."""
    files = []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(place, name))
            except OSError:
                continue
            files.append((status.st_mtime, status.st_size, os.path.join(place, name)))
    left, deleted = sum(size for _, size, _ in files), 0
    if left <= most_bytes:
        return 0
    for _, size, path in sorted(files):
        if left <= most_bytes * 3 // 4:
            break
        try:
            os.unlink(path)
        except OSError:
            continue
        left, deleted = left - size, deleted + 1
    return deleted
