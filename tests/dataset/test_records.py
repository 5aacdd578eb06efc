"""What a scan takes from a folder, what it leaves out, and what it refuses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_lora.base.errors import StudioError
from lib_lora.dataset.records import grouped, natural_key, scan


def picture(path: Path, size=(12, 8), caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path, {".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower()))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def reasons(result) -> dict[str, str]:
    return {item.path.name: item.reason for item in result.left_out}


def test_folders_with_repeats_give_repeats_captions_and_concepts(tmp_path):
    picture(tmp_path / "10_alice" / "a.png", (40, 30), "alice, smile")
    picture(tmp_path / "10_alice" / "b.jpg")
    picture(tmp_path / "3_blue_hair" / "c.webp", caption="hair")
    result = scan(tmp_path)
    assert [(r.path.name, r.caption, r.repeats, r.concept) for r in result.records] == [
        ("c.webp", "hair", 3, "blue_hair"),
        ("a.png", "alice, smile", 10, "alice"),
        ("b.jpg", "alice", 10, "alice"),
    ]
    assert (result.records[1].width_px, result.records[1].height_px) == (40, 30)
    assert not any(r.regularisation or r.mask for r in result.records)
    assert result.left_out == result.faults == ()
    assert any("b.jpg" in note and "alice" in note for note in result.notes)


def test_folders_with_repeats_are_found_at_any_depth(tmp_path):
    picture(tmp_path / "people" / "deep" / "2_bob" / "a.png")
    assert [(r.concept, r.repeats) for r in scan(tmp_path).records] == [("bob", 2)]


def test_the_given_folder_may_have_the_repeats_in_its_own_name(tmp_path):
    picture(tmp_path / "7_carol" / "a.png")
    picture(tmp_path / "7_carol" / "2_dress" / "b.png")
    assert [(r.concept, r.repeats) for r in scan(tmp_path / "7_carol").records] == [("carol", 7), ("dress", 2)]


def test_a_flat_folder_gives_its_name_where_a_caption_is_missing(tmp_path):
    picture(tmp_path / "dave" / "a.png")
    picture(tmp_path / "dave" / "b.png", caption="own words")
    result = scan(tmp_path / "dave", default_repeats=4)
    assert [(r.caption, r.repeats) for r in result.records] == [("dave", 4), ("own words", 4)]


def test_a_flat_folder_given_as_dot_has_a_name(tmp_path, monkeypatch):
    picture(tmp_path / "erin" / "a.png")
    monkeypatch.chdir(tmp_path / "erin")
    assert scan(".").records[0].caption == "erin"


def test_pictures_beside_or_below_folders_with_repeats_are_left_out_and_named(tmp_path):
    picture(tmp_path / "1_alice" / "a.png")
    picture(tmp_path / "1_alice" / "extra" / "b.png")
    picture(tmp_path / "loose.png")
    picture(tmp_path / "plain" / "c.png")
    picture(tmp_path / "x_bob" / "d.png")
    picture(tmp_path / "0_bob" / "e.png")
    picture(tmp_path / "20240101_trip" / "f.png")
    picture(tmp_path / "5_" / "g.png")
    result = scan(tmp_path)
    assert [r.path.name for r in result.records] == ["a.png"]
    left_out = reasons(result)
    assert set(left_out) == {"loose.png", "b.png", "c.png", "d.png", "e.png", "f.png", "g.png"}
    assert "beside" in left_out["loose.png"]
    assert "1_extra" in left_out["b.png"]
    assert "1_plain" in left_out["c.png"]
    assert "x_bob" in left_out["d.png"]
    assert "0 repeats" in left_out["e.png"]
    assert "20240101 repeats" in left_out["f.png"]
    assert "nothing after" in left_out["g.png"]


@pytest.mark.parametrize("name", ["0_alice", "20240101_trip"])
def test_a_bad_repeat_count_of_the_given_folder_is_refused(tmp_path, name):
    picture(tmp_path / name / "a.png")
    with pytest.raises(StudioError, match="repeats") as fault:
        scan(tmp_path / name)
    assert fault.value.field == "train_data_dir"


@pytest.mark.parametrize("name", ["reg", "REG", "Regularization", "regularisation", "reg_data"])
def test_a_regularisation_folder_inside_is_never_training_data_and_is_offered(tmp_path, name):
    picture(tmp_path / "1_alice" / "a.png")
    picture(tmp_path / name / "1_girl" / "b.png")
    result = scan(tmp_path)
    assert [r.path.name for r in result.records] == ["a.png"]
    assert result.reg_folders == (tmp_path / name,)
    assert "reg_data_dir" in reasons(result)[name]
    (record,) = scan(tmp_path / name, regularisation=True).records
    assert record.regularisation
    assert record.concept == "girl"


def test_an_empty_regularisation_folder_is_not_worth_a_word(tmp_path):
    picture(tmp_path / "1_alice" / "a.png")
    (tmp_path / "reg").mkdir()
    assert scan(tmp_path).left_out == ()


def test_other_files_are_left_out_with_a_reason(tmp_path):
    picture(tmp_path / "a.png")
    for name in ("b.gif", "c.TIF", "d.psd", "._e.png", "notes.json"):
        (tmp_path / name).write_bytes(b"x")
    picture(tmp_path / ".thumbs" / "f.png")
    assert set(reasons(scan(tmp_path))) == {"b.gif", "c.TIF", "d.psd", "._e.png", ".thumbs"}


def test_folders_of_other_options_are_left_out(tmp_path):
    picture(tmp_path / "1_alice" / "a.png")
    picture(tmp_path / "1_girl" / "b.png")
    result = scan(tmp_path, exclude=[tmp_path / "1_alice" / ".." / "1_girl"])
    assert [r.concept for r in result.records] == ["alice"]
    assert "1_girl" in reasons(result)


def test_extensions_count_in_any_case(tmp_path):
    for name in ("a.PNG", "b.Jpg", "c.JPEG", "d.WebP", "e.BMP"):
        picture(tmp_path / "1_x" / name)
    (tmp_path / "1_x" / "a.TXT").write_text("upper")
    (tmp_path / "1_x" / "b.Caption").write_text("mixed")
    records = scan(tmp_path).records
    assert [r.path.name for r in records] == ["a.PNG", "b.Jpg", "c.JPEG", "d.WebP", "e.BMP"]
    assert [r.caption for r in records] == ["upper", "mixed", "x", "x", "x"]


def test_a_caption_in_another_case_belongs_to_its_picture_as_on_windows(tmp_path):
    picture(tmp_path / "1_x" / "Photo.PNG")
    (tmp_path / "1_x" / "photo.txt").write_text("found")
    result = scan(tmp_path)
    assert result.records[0].caption == "found"
    assert not any("without a picture" in note for note in result.notes)


def test_pictures_that_differ_in_case_keep_their_own_captions(tmp_path):
    picture(tmp_path / "1_x" / "A.png", caption="upper")
    if (tmp_path / "1_x" / "a.png").exists():
        pytest.skip("the file system does not tell names apart by case")
    picture(tmp_path / "1_x" / "a.png", caption="lower")
    picture(tmp_path / "1_x" / "B.png")
    picture(tmp_path / "1_x" / "b.png", caption="mine")
    captions = {r.path.name: r.caption for r in scan(tmp_path).records}
    assert captions == {"A.png": "upper", "a.png": "lower", "B.png": "x", "b.png": "mine"}


@pytest.mark.parametrize(
    ("preferred", "expected"), [(".txt", "from txt"), (".caption", "from caption"), (".TXT", "from txt")]
)
def test_the_preferred_caption_extension_wins_and_it_is_said(tmp_path, preferred, expected):
    picture(tmp_path / "1_x" / "a.png", caption="from txt")
    (tmp_path / "1_x" / "a.caption").write_text("from caption")
    result = scan(tmp_path, caption_extension=preferred)
    assert result.records[0].caption == expected
    assert any("several caption files" in note for note in result.notes)


def test_an_unknown_caption_extension_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(StudioError) as fault:
        scan(tmp_path, caption_extension=".json")
    assert fault.value.field == "caption_extension"


def test_notes_tell_what_a_person_may_not_expect(tmp_path):
    folder = tmp_path / "1_x"
    picture(folder / "a.png", caption="one\ntwo")
    picture(folder / "b.png", caption="shared")
    picture(folder / "b.jpg")
    (folder / "orphan.txt").write_text("no picture")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    result = scan(tmp_path)
    assert [r.caption for r in result.records] == ["one", "shared", "shared", "x"]
    notes = "\n".join(result.notes)
    for words in ("several lines", "share one caption file", "without a picture", "animated"):
        assert words in notes


def test_faults_come_as_one_error_that_names_and_counts_them(tmp_path):
    picture(tmp_path / "1_x" / "good.png", caption="fine")
    for number in range(12):
        (tmp_path / "1_x" / f"bad{number}.png").write_bytes(b"")
    result = scan(tmp_path)
    assert len(result.records) == 1
    assert len(result.faults) == 12
    with pytest.raises(StudioError, match="12 files") as fault:
        result.raise_for_faults()
    message = str(fault.value)
    assert all(f"bad{number}.png" in message for number in range(10))
    assert "bad11.png" not in message
    assert "and 2 more" in message


@pytest.mark.parametrize("data", [b"", b" \n", "blå".encode("latin-1")])
def test_a_caption_that_cannot_be_used_is_a_fault_naming_the_caption_file(tmp_path, data):
    picture(tmp_path / "1_x" / "a.png")
    (tmp_path / "1_x" / "a.txt").write_bytes(data)
    result = scan(tmp_path)
    assert [fault.path.name for fault in result.faults] == ["a.txt"]
    with pytest.raises(StudioError, match=r"a\.txt"):
        result.raise_for_faults()


def test_no_faults_raise_nothing(tmp_path):
    picture(tmp_path / "a.png")
    scan(tmp_path).raise_for_faults()


@pytest.mark.parametrize(("regularisation", "option"), [(False, "train_data_dir"), (True, "reg_data_dir")])
def test_a_missing_folder_and_a_file_name_the_option(tmp_path, regularisation, option):
    for path in (tmp_path / "none", picture(tmp_path / "a.png")):
        with pytest.raises(StudioError) as fault:
            scan(path, regularisation=regularisation)
        assert fault.value.field == option
        assert fault.value.file == str(path)


def test_no_pictures_says_what_was_looked_for_and_what_was_left_out(tmp_path):
    picture(tmp_path / "alice" / "a.png")
    with pytest.raises(StudioError, match="no pictures") as fault:
        scan(tmp_path)
    message = str(fault.value)
    assert "1_alice" in message
    assert "png, jpg" in message
    assert str(tmp_path) in message


def test_the_order_is_natural_and_does_not_depend_on_the_disk(tmp_path):
    names = ["img10.png", "IMG2.png", "img1.png", "b.png", "A.png", "img02.png", "été.png", "1.png"]
    for name in names:
        picture(tmp_path / "1_x" / name)
    assert [r.path.name for r in scan(tmp_path).records] == [
        "1.png",
        "A.png",
        "b.png",
        "img1.png",
        "IMG2.png",
        "img02.png",
        "img10.png",
        "été.png",
    ]


def test_natural_keys_of_any_names_compare():
    names = ["", "1", "a1", "1a", "a", "a1b2", "²", "٣", "a²", "A", "01", "1."]
    assert len(sorted(names, key=natural_key)) == len(names)
    assert len({natural_key(name) for name in names}) == len(names)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_to_a_folder_above_ends(tmp_path):
    picture(tmp_path / "1_x" / "a.png")
    (tmp_path / "1_x" / "2_loop").symlink_to(tmp_path)
    result = scan(tmp_path)
    assert len(result.records) == 1
    assert "read already" in reasons(result)["2_loop"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_broken_link_is_a_fault(tmp_path):
    picture(tmp_path / "1_x" / "a.png")
    (tmp_path / "1_x" / "b.png").symlink_to(tmp_path / "gone.png")
    assert [(f.path.name, "does not exist" in f.problem) for f in scan(tmp_path).faults] == [("b.png", True)]


def test_grouped_says_a_reason_once(tmp_path):
    picture(tmp_path / "a.png")
    for number in range(8):
        (tmp_path / f"{number}.gif").write_bytes(b"x")
    (line,) = grouped(scan(tmp_path).left_out)
    assert line.startswith("8 files")
    assert ".gif is not read" in line


def test_progress_counts_every_picture(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"")
    seen = []
    scan(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_thousand_pictures_take_no_more_than_a_second_or_two(tmp_path):
    data = picture(tmp_path / "1_x" / "0.png", (640, 480), "a caption").read_bytes()
    for number in range(1, 1000):
        (tmp_path / "1_x" / f"{number}.png").write_bytes(data)
    start = time.perf_counter()
    assert len(scan(tmp_path).records) == 1000
    assert time.perf_counter() - start < 5
