"""Atomic writes leave the old file or the new one; names that people type stay in their folder."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.files import atomic
from lib_lora.files.atomic import (
    atomic_folder,
    atomic_write,
    delete_folder,
    lock_file,
    remove_leftovers,
    replace_files,
    safe_name,
    write_bytes,
    write_text,
)


def test_a_new_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, raised):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise raised

    with pytest.raises(raised):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_writer_that_closes_the_file_early_loses_nothing(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="closed"), atomic_write(path) as file:
        file.close()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_is_named_as_such(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(StudioError, match="disk is full") as fault, atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert fault.value.file == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_device_that_is_full_is_reported(tmp_path, monkeypatch):
    real_open = open
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *rest, **named: real_open("/dev/full" if str(path).endswith(".tmp") else path, "wb"),
    )
    with pytest.raises(StudioError, match="disk is full"):
        write_bytes(tmp_path / "a.bin", b"x" * 100_000)
    assert os.listdir(tmp_path) == []


def test_an_error_about_another_file_is_not_explained_away(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.bin"):
        (tmp_path / "source.bin").read_bytes()
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_refused_before_the_work(tmp_path):
    with pytest.raises(StudioError, match="folder does not exist") as fault:
        write_text(tmp_path / "none" / "a.txt", "x")
    assert fault.value.file == str(tmp_path / "none" / "a.txt")


def test_a_folder_of_this_name_is_refused_before_the_work(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(StudioError, match="folder has this name"), atomic_write(tmp_path / "a"):
        pytest.fail("the block ran")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_write_protected_file_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(StudioError, match="permission"):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_kept_and_new_files_follow_the_umask(tmp_path):
    old, new, plain = tmp_path / "old", tmp_path / "new", tmp_path / "plain"
    old.write_text("x")
    old.chmod(0o640)
    plain.write_text("x")
    write_text(old, "y")
    write_text(new, "y")
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def many(folder: Path, count: int = 40) -> dict[str, bytes]:
    return {str(folder / f"{number}.txt"): f"new {number}".encode() for number in range(count)}


def test_many_files_are_written_with_the_permissions_and_links_that_they_have(tmp_path):
    contents = many(tmp_path)
    (tmp_path / "0.txt").write_bytes(b"old")
    (tmp_path / "0.txt").chmod(0o600)
    if os.name != "nt":
        (tmp_path / "real.txt").write_bytes(b"old")
        (tmp_path / "1.txt").symlink_to("real.txt")
    assert replace_files(contents, lambda path: True) == []
    assert {path: Path(path).read_bytes() for path in contents} == contents
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "0.txt").stat().st_mode) == 0o600
        assert (tmp_path / "1.txt").is_symlink()
        assert (tmp_path / "real.txt").read_bytes() == b"new 1"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files cannot be counted here")
def test_no_file_stays_open_after_many_were_replaced(tmp_path):
    contents = many(tmp_path, 300)
    for path in contents:
        Path(path).write_bytes(b"old")
    before = len(os.listdir("/proc/self/fd"))
    most = []
    replace_files(contents, lambda path: most.append(len(os.listdir("/proc/self/fd"))) or True)
    assert len(os.listdir("/proc/self/fd")) == before
    assert before < max(most) < before + 200
    assert {path: Path(path).read_bytes() for path in contents} == contents


def test_none_of_many_files_is_changed_before_all_are_written(tmp_path, monkeypatch):
    contents, synced = many(tmp_path), []
    for path in contents:
        Path(path).write_bytes(b"old")
    real = atomic._sync_file
    monkeypatch.setattr(atomic, "_sync_file", lambda path: (synced.append(path), real(path)))

    def may_replace(path: str) -> bool:
        assert len(synced) == len(contents)
        return True

    replace_files(contents, may_replace)
    assert len(set(synced)) == len(contents)


def test_a_file_that_may_not_be_replaced_stays_and_is_told(tmp_path):
    contents = many(tmp_path, 3)
    kept = str(tmp_path / "1.txt")
    assert replace_files(contents, lambda path: path != kept) == [kept]
    assert sorted(os.listdir(tmp_path)) == ["0.txt", "2.txt"]


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failure_among_many_files_changes_none(tmp_path, monkeypatch, raised):
    contents = many(tmp_path, 3)
    for path in contents:
        Path(path).write_bytes(b"old")
    monkeypatch.setattr(atomic, "_sync_files", lambda paths: (_ for _ in ()).throw(raised))
    with pytest.raises((StudioError, KeyboardInterrupt)):
        replace_files(contents, lambda path: True)
    assert {Path(path).read_bytes() for path in contents} == {b"old"}
    assert not list(tmp_path.glob(".*"))


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "å\n猫\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "å\n猫\r\n".encode()


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path):
    path = tmp_path / ("猫" * 80 + ".txt")
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_file_held_by_another_program_on_windows_is_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    calls = []

    def held_once(source, target, replace=os.replace):
        calls.append(source)
        if len(calls) == 1:
            raise PermissionError(errno.EACCES, "held", str(source))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", held_once)
    monkeypatch.setattr(atomic, "_on_windows", lambda: True)
    monkeypatch.setattr(atomic, "_REPLACE_WAIT_SECONDS", 0.0)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["lora", "my lora v2", "猫.v1", "a-b_c(1)", ".hidden", "console", "com10", "x" * 200])
def test_plain_names_come_back_unchanged(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "...",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "C:x",
        "c:\\x",
        "\\\\server\\share",
        "a:b",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\x9fb",
        "con",
        "CON.txt",
        "nul .txt",
        "Lpt1",
        "com\u00b9",
        "CONIN$",
        "a.",
        "a ",
        "a?",
        "a*b",
        "<a>",
        'a"b',
        "a|b",
        "x" * 201,
        "猫" * 67,
        "a\ud800",
    ],
)
def test_names_that_are_paths_or_that_windows_cannot_hold_are_refused(name):
    with pytest.raises(StudioError) as fault:
        safe_name(name, field="output_name")
    assert fault.value.field == "output_name"
    assert fault.value.came == name


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / "new" / "state") as folder:
        write_text(folder / "a.txt", "a")
        assert not (tmp_path / "new" / "state").exists()
    assert os.listdir(tmp_path / "new") == ["state"]
    assert (tmp_path / "new" / "state" / "a.txt").read_text() == "a"


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_a_folder_that_is_not_finished_is_gone(tmp_path, raised):
    with pytest.raises(raised), atomic_folder(tmp_path / "state") as folder:  # noqa: PT012 - it fails half way
        write_text(folder / "a.txt", "a")
        raise raised
    assert os.listdir(tmp_path) == []


def test_a_folder_never_replaces_one_that_holds_something(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "old").write_text("old")
    with pytest.raises(StudioError, match="cannot be written"):
        with atomic_folder(tmp_path / "state") as folder:
            write_text(folder / "a.txt", "a")
    assert os.listdir(tmp_path) == ["state"] and (tmp_path / "state" / "old").read_text() == "old"


def test_a_deleted_folder_is_never_half_there(tmp_path, monkeypatch):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_text("a")
    seen = []
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda path, **more: seen.append(os.listdir(tmp_path)))
    delete_folder(tmp_path / "state")
    assert len(seen) == 1 and "state" not in seen[0]
    monkeypatch.undo()
    assert len(remove_leftovers(tmp_path, "state")) == 1 and os.listdir(tmp_path) == []


def test_leftovers_are_told_from_other_files(tmp_path):
    with atomic_write(tmp_path / "a.bin") as file:
        left = os.path.basename(file.name)
    (tmp_path / "a.bin").unlink()
    keep = ["a.bin", ".a.bin.tmp", ".b.bin.0123456789ab.tmp", "a.bin.0123456789ab.tmp"]
    for name in [left, *keep]:
        (tmp_path / name).write_text("")
    assert remove_leftovers(tmp_path, r"a\.bin") == [tmp_path / left]
    assert sorted(os.listdir(tmp_path)) == sorted(keep)
    assert remove_leftovers(tmp_path / "nowhere", ".*") == []


def test_a_locked_file_is_held_until_it_is_closed(tmp_path):
    held = lock_file(tmp_path / "new" / "lock")
    with pytest.raises(StudioError, match="in use by another process"):
        lock_file(tmp_path / "new" / "lock")
    held.close()
    lock_file(tmp_path / "new" / "lock").close()


def test_a_lock_is_waited_for(tmp_path):
    held = lock_file(tmp_path / "lock")
    threading.Timer(0.2, held.close).start()
    lock_file(tmp_path / "lock", wait_s=10).close()
    with lock_file(tmp_path / "lock"), pytest.raises(StudioError, match="in use"):
        lock_file(tmp_path / "lock", wait_s=0.05)


def test_a_lock_goes_with_the_process_that_was_killed(tmp_path):
    code = f"import time; from lib_lora.files.atomic import lock_file; from pathlib import Path\n\
held = lock_file(Path({str(tmp_path / 'lock')!r})); print('held', flush=True); time.sleep(60)"
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"held"
    with pytest.raises(StudioError, match="in use"):
        lock_file(tmp_path / "lock")
    process.kill()
    process.wait()
    lock_file(tmp_path / "lock").close()


def test_windows_locks_by_its_own_library(tmp_path, monkeypatch):
    calls = []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(number, mode, size):
            calls.append((mode, size))

    monkeypatch.setattr(atomic, "_on_windows", lambda: True)
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt)
    lock_file(tmp_path / "lock").close()
    assert calls == [(2, 1)]
