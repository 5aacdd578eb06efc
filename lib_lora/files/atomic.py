"""Writing files so that a crash, a full disk or a stop leaves either the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from lib_lora.base.errors import StudioError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the disk is read-only",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "the folder does not exist",
    errno.EISDIR: "a folder has this name",
    errno.ENAMETOOLONG: "the name is too long",
}
if hasattr(errno, "EDQUOT"):
    _REASONS[errno.EDQUOT] = "the disk quota is used up"

_REPLACE_TRIES = 10
_REPLACE_WAIT_SECONDS = 0.1
_LOCK_WAIT_SECONDS = 0.01
_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # Windows says one of the last two


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write to; it takes the name ``path`` when the block ends without an exception.

    Until then the bytes are in a hidden temporary file of the same folder, so that the last step is a rename
    within one disk. A link is followed, and an existing file's permissions are kept.

    Raises:
        StudioError: the folder is missing, the place cannot be written, or the disk is full. Whatever is
            raised, the temporary file is gone and an old file stays as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    with _write_errors(path, target, temporary):
        _refuse_unwritable(target)
        file = open(temporary, "xb")  # noqa: SIM115 - closed below, before the rename
    try:
        with _write_errors(path, target, temporary):
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            _replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill with files of ``atomic_write``; it takes the name ``path``, which must be free, when
    the block ends without an exception. Until then, and for ever after a crash, it has a hidden temporary name.

    Raises:
        StudioError: the place cannot be written, or the name is taken; the temporary folder is gone.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    with _write_errors(path, target, temporary):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mkdir(temporary)
    try:
        yield temporary
        sync_folder(temporary)
        with _write_errors(path, target, temporary):
            _replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def delete_folder(path: Path) -> None:
    """Delete a folder under a hidden name, so that a crash never leaves half of it under its own."""
    temporary = _temporary(path)
    _replace(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


_LEFTOVER = re.compile(r"\.(.{1,32})\.[0-9a-f]{12}\.tmp", re.DOTALL)


def _temporary(target: Path) -> Path:
    return target.with_name(_temporary_name(target.name, uuid.uuid4().int))


def _temporary_name(name: str, token: int) -> str:
    return f".{name[:32]}.{token % 16**12:012x}.tmp"


def remove_leftovers(folder: Path, names: str) -> list[Path]:
    """Delete what a killed writer left in ``folder``: temporary files and folders for the names that are meant.

    Args:
        names: a regular expression that a name's first 32 characters match whole.

    Returns:
        What was deleted.
    """
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _LEFTOVER.fullmatch(path.name)
        if match and re.fullmatch(names, match[1]):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def write_bytes(path: str | Path, data: bytes) -> None:
    """``data`` as the file's whole content, atomically. Raises StudioError as ``atomic_write`` does."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """``text`` in UTF-8 with the line ends that it has, atomically. Raises StudioError as ``atomic_write`` does."""
    write_bytes(path, text.encode("utf-8"))


_O_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone has it, and writes other line ends without it
_SYNC_THREADS = 16  # a disk serves many that wait for it together in little more time than one


def replace_files(contents: Mapping[str, bytes], may_replace: Callable[[str], bool]) -> list[str]:
    """Write many files, each as ``atomic_write`` would. All of the bytes are on the disk before the first file takes
    its name, so that a full disk changes none of them.

    Args:
        contents: by path.
        may_replace: asked right before a file takes its name.

    Returns:
        The files that were not replaced, because ``may_replace`` said so.

    Raises:
        StudioError: as ``atomic_write``. Then no temporary file is left, and renames have been made only where the
            system refused one of them. After a crash ``remove_leftovers`` finds what was not used.
    """
    targets = {path: os.path.realpath(path) if os.path.islink(path) else path for path in contents}
    temporaries: dict[str, str] = {}
    left = []
    try:
        token = uuid.uuid4().int
        for number, (path, data) in enumerate(contents.items()):
            folder, name = os.path.split(targets[path])
            temporaries[path] = os.path.join(folder, _temporary_name(name, token + number))
            with _write_errors(path, targets[path], temporaries[path]):
                _write_temporary(targets[path], temporaries[path], data)
        with _write_errors("", *temporaries.values()):
            _sync_files(list(temporaries.values()))
        with _LettingGo() as old_files:
            for path in contents:
                if not may_replace(path):
                    left.append(path)
                    continue
                with _write_errors(path, targets[path], temporaries[path]):
                    old_files.hold(targets[path])
                    _replace(temporaries[path], targets[path])
                del temporaries[path]
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    for folder in {os.path.dirname(target) for target in targets.values()}:
        sync_folder(folder)
    return left


def _write_temporary(target: str, temporary: str, data: bytes) -> None:
    """``data`` under the temporary name, with the permissions that the file ``target`` has."""
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode) or not os.access(target, os.W_OK):
            _refuse_unwritable(Path(target))
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_BINARY, 0o666)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), temporary)
        if mode is not None and stat.S_IMODE(mode) != stat.S_IMODE(os.fstat(handle).st_mode):
            os.chmod(temporary, stat.S_IMODE(mode))
    finally:
        os.close(handle)


class _LettingGo:
    """Holds files open over their replacement, and lets go of them by several threads. A file's room is given back when
    nobody holds it any more, and where the disk is told so each time (the mount option "discard"), that takes as long
    as a write."""

    _MOST = 160  # open at a time; a system may allow no more than 256

    def __init__(self) -> None:
        self._handles: list[int] = []
        self._closing: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(_SYNC_THREADS)

    def __enter__(self) -> _LettingGo:
        return self

    def hold(self, path: str) -> None:
        if _on_windows():  # which does not replace a file that is open
            return
        if len(self._handles) >= self._MOST // 2:
            self._let_go()
        with contextlib.suppress(OSError):  # a new file replaces none; one that cannot be read is let go at once
            self._handles.append(os.open(path, os.O_RDONLY))

    def _let_go(self) -> None:
        for closing in self._closing:
            closing.result()
        handles, self._handles = self._handles, []
        shares = [handles[start::_SYNC_THREADS] for start in range(_SYNC_THREADS)]
        self._closing = [self._pool.submit(_close_all, share) for share in shares if share]

    def __exit__(self, *_: object) -> None:
        if len(self._handles) < _SYNC_THREADS:
            _close_all(self._handles)
        else:
            self._let_go()
        self._pool.shutdown()


def _close_all(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)


def _sync_files(paths: list[str]) -> None:
    """Wait until the files' bytes are on the disk."""
    shares = [share for share in (paths[start::_SYNC_THREADS] for start in range(_SYNC_THREADS)) if share]
    if len(shares) < 2:
        _sync_share(paths)
        return
    with ThreadPoolExecutor(len(shares)) as pool:
        for _ in pool.map(_sync_share, shares):
            """A failure is raised here."""


def _sync_share(paths: list[str]) -> None:
    for path in paths:
        _sync_file(path)


def _sync_file(path: str) -> None:
    handle = os.open(path, os.O_RDWR | _O_BINARY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _write_errors(path: str | Path, *own: str | Path) -> Iterator[None]:
    """Turns the operating system's errors about our own file into a StudioError.

    An error that names another file comes from the caller's block and is the caller's to explain.
    """
    try:
        yield
    except OSError as fault:
        names = {str(name) for name in own}
        if fault.filename is not None and str(fault.filename) not in names:
            raise
        reason = _REASONS.get(fault.errno, fault.strerror or str(fault))
        raise StudioError(f"cannot be written: {reason}", file=path) from fault


def _refuse_unwritable(target: Path) -> None:
    """Find out before the work is done. A rename would replace a write-protected file on Linux, not on Windows."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))


def _replace(temporary: str | Path, target: str | Path) -> None:
    """Rename over ``target``. On Windows a virus scanner or viewer may hold the old file for a moment."""
    for attempt in range(_REPLACE_TRIES):
        try:
            os.replace(temporary, target)
            return
        except PermissionError:
            if not _on_windows() or attempt == _REPLACE_TRIES - 1:
                raise
            time.sleep(_REPLACE_WAIT_SECONDS)


def _on_windows() -> bool:
    return os.name == "nt"


def sync_folder(folder: str | Path) -> None:
    """Make the rename itself survive a power cut, where the system can (Windows and some network disks cannot)."""
    if _on_windows():
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock_file(path: Path, *, wait_s: float = 0) -> BinaryIO:
    """Hold ``path``, which is made, until the file that is returned is closed or this process ends, however it ends.

    Args:
        wait_s: how long to wait for somebody who holds it.

    Raises:
        StudioError: somebody holds it still, it cannot be written, or the disk knows no locks.
    """
    with _write_errors(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115 - open for as long as it is held
    until = time.monotonic() + wait_s
    while True:
        try:
            _lock(file)
            return file
        except OSError as error:
            is_held = error.errno in _HELD
            if not is_held or time.monotonic() >= until:
                file.close()
                problem = "is in use by another process" if is_held else f"cannot be locked: {error.strerror or error}"
                raise StudioError(problem, file=path) from error
            time.sleep(_LOCK_WAIT_SECONDS)


def _lock(file: BinaryIO) -> None:
    """The system gives the lock back when the process is gone, so that no crash leaves one behind."""
    if _on_windows():
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_MAX_NAME_BYTES = 200  # of 255: extensions, step numbers and the temporary file's ending come on top
_WINDOWS_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)


def safe_name(name: str, *, field: str | None = None) -> str:
    """``name`` unchanged, if it can name one file in any folder on Windows, macOS and Linux.

    Raises:
        StudioError: naming ``field``, with what is wrong. Nothing is replaced or cut off silently.
    """
    problem = _name_problem(name)
    if problem:
        raise StudioError(
            f"cannot be a file name: {problem}", field=field, came=name, allowed="a plain name such as my_lora-v2"
        )
    return name


def _name_problem(name: str) -> str | None:
    if not name.strip():
        return "it is empty"
    if name.strip(".") == "":
        return "it stands for a folder"
    if re.match(r"[A-Za-z]:", name):
        return "it begins with a drive letter"
    if "/" in name or "\\" in name:
        return "it holds a folder separator"
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name):
        return "it holds a control character"
    forbidden = sorted(set(name) & set('<>:"|?*'))
    if forbidden:
        return f"it holds {' '.join(forbidden)}"
    if name[-1] in ". ":
        return "it ends in a dot or a space"
    if _WINDOWS_RESERVED.fullmatch(name.split(".")[0].rstrip()):
        return "Windows reserves it for a device"
    return _encoding_problem(name)


def _encoding_problem(name: str) -> str | None:
    try:
        size_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "it holds half a character"
    return f"it is longer than {_MAX_NAME_BYTES} bytes" if size_bytes > _MAX_NAME_BYTES else None


def check_writable(folder: Path, *, field: str) -> None:
    """Make the folder and try to write in it.

    Raises:
        StudioError: naming the option ``field``, the folder and the system's reason.
    """
    probe = folder / ".lora-studio-write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StudioError(f"cannot be written ({error.strerror})", field=field, file=folder) from error
