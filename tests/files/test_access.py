from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.files import access
from lib_lora.files.access import check_inside, check_subfolder

needs_links = pytest.mark.skipif(os.name == "nt", reason="making links needs a privilege on Windows")


@pytest.fixture
def allowed(tmp_path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "zorb").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    return folder


def refused(path, allowed) -> StudioError:
    with pytest.raises(StudioError) as caught:
        check_inside(path, [allowed], field="train_data_dir")
    assert caught.value.field == "train_data_dir" and caught.value.came == str(path)
    return caught.value


@pytest.mark.parametrize("path", ["zorb", "", "not there yet/a.txt", "zorb/../zorb"])
def test_what_lies_inside_comes_back_whole(allowed, path):
    assert check_inside(allowed / path, [allowed], field="x") == Path(os.path.realpath(allowed / path))


def test_any_of_several_folders_will_do(allowed, tmp_path):
    assert check_inside(tmp_path / "secret", [allowed, tmp_path / "secret"], field="x") == tmp_path / "secret"


@pytest.mark.parametrize("path", ["../secret", "..", "zorb/../../secret", "../allowed2"])
def test_what_leads_outside_is_refused_and_the_folders_are_named(allowed, path):
    fault = refused(f"{allowed}/{path}", allowed)
    assert "outside" in fault.problem and str(allowed) in fault.allowed


@pytest.mark.parametrize("path", ["/etc/passwd", "relative", "~/x"])
def test_other_places_of_the_machine_are_refused(allowed, path):
    refused(path, allowed)


@pytest.mark.parametrize("path", ["zorb\n", "zo\x00rb", "zo\x1brb", "zo\u0085rb"])
def test_control_characters_are_refused_before_the_disk_is_asked(allowed, path):
    assert "control character" in refused(f"{allowed}/{path}", allowed).problem


@pytest.mark.skipif(os.name == "nt", reason="these are paths there")
@pytest.mark.parametrize("path", ["C:\\x", "c:/x", "\\\\server\\share", "zorb\\..\\..\\secret"])
def test_paths_of_windows_are_refused_elsewhere(allowed, path):
    assert "path of Windows" in refused(path, allowed).problem


@needs_links
def test_a_link_to_outside_is_refused(allowed, tmp_path):
    (allowed / "door").symlink_to(tmp_path / "secret")
    assert "is a link" in refused(allowed / "door" / "x.txt", allowed).problem


@needs_links
def test_links_inside_and_folders_given_by_a_link_are_fine(allowed, tmp_path):
    (allowed / "other").symlink_to(allowed / "zorb")
    (tmp_path / "link").symlink_to(allowed)
    assert check_inside(allowed / "other", [allowed], field="x") == allowed / "zorb"
    assert check_inside(tmp_path / "link" / "zorb", [tmp_path / "link"], field="x") == allowed / "zorb"
    assert check_inside(allowed / "zorb", [tmp_path / "link"], field="x") == allowed / "zorb"


def test_nothing_is_allowed_where_no_folder_is_set(tmp_path):
    with pytest.raises(StudioError, match="no folder is set"):
        check_inside(tmp_path, [], field="train_data_dir")


def test_the_disk_is_not_asked_for_what_lies_outside(allowed, monkeypatch):
    """On Windows, following ``//host/share`` would log in there."""
    asked = []
    real = os.path.realpath
    monkeypatch.setattr(access.os.path, "realpath", lambda path: asked.append(str(path)) or real(path))
    refused("//server/share/x", allowed)
    assert "//server/share/x" not in asked and asked


@pytest.mark.parametrize("text", ["", "characters", "characters/zorb", "a b/ü"])
def test_a_subfolder_is_names_with_slashes_between_them(text):
    assert check_subfolder(text, field="output_subfolder") == PurePosixPath(text)


@pytest.mark.parametrize(
    "text",
    ["/etc", "\\x", "C:\\x", "c:x", "../x", "a/../b", "a/./b", "a//b", "a/", "a\\b", "a\nb", "CON", "a/nul.txt", "a.",
     "a /b", "COM1", "a:b", "a*b", "."],
)  # fmt: skip
def test_what_cannot_be_a_subfolder_on_every_system_is_refused(text):
    with pytest.raises(StudioError) as caught:
        check_subfolder(text, field="output_subfolder")
    assert caught.value.field == "output_subfolder"
