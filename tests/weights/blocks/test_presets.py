"""Block weights by name, and files of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbw_reference import load_lbw, needs_lbw
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.blocks.presets import (
    BUILT_IN,
    Presets,
    import_presets,
    own_path,
    read_presets,
    remove_preset,
    save_preset,
    write_presets,
)
from lib_lora.weights.blocks.vector import parse_vector

ONES = ",".join("1" * 17)


def test_ours_are_there_for_every_family():
    assert {"NONE", "ALL", "ALL0.5", "INS", "IND", "INALL", "MIDD", "OUTD", "OUTS", "OUTALL"} <= set(BUILT_IN)
    assert {"OUTX", "INX", "LOUTX", "LINX"} <= set(BUILT_IN) and not BUILT_IN.own
    for name in BUILT_IN:
        for family in Family:
            assert all(0 <= ratio <= 1 for ratio in parse_vector(name, family).by_block.values())


def test_the_page_on_block_weights_names_all_of_ours():
    page = (Path(__file__).parents[3] / "docs" / "block-weights.md").read_text(encoding="utf-8")
    assert [name for name in BUILT_IN if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("name", "block"), [("XL-STYLE", "OUT01"), ("XL-CONTENT", "OUT00"), ("XL-LAYOUT", "IN08")])
def test_sdxls_own_are_the_blocks_that_papers_name(name, block):
    found = parse_vector(name, Family.SDXL)
    assert {key for key, ratio in found.by_block.items() if ratio} == {"BASE", block} and not found.remarks


def test_ones_own_are_kept_changed_and_taken_away(tmp_path):
    own_path(tmp_path).write_text("# mine\nA:" + ONES + "\n", encoding="utf-8")
    save_preset(tmp_path, "B", "X, X+0.5," + ",".join("0" * 10))
    save_preset(tmp_path, "A", ",".join("0" * 17))
    save_preset(tmp_path, "OUTD", ONES)
    loaded = Presets.load(tmp_path)
    assert loaded.own == {"A", "B", "OUTD"} and not loaded.notes
    assert loaded["A"] == ",".join("0" * 17) and loaded["B"].startswith("X,X+0.5,0") and loaded["OUTD"] == ONES
    assert own_path(tmp_path).read_text(encoding="utf-8").startswith("# mine\nA:0,")
    remove_preset(tmp_path, "OUTD")
    assert Presets.load(tmp_path)["OUTD"] == BUILT_IN["OUTD"]
    with pytest.raises(StudioError, match="no preset of your own"):
        remove_preset(tmp_path, "OUTD")


@pytest.mark.parametrize(
    ("name", "values", "field"),
    [
        ("", ONES, "name"),
        ("a:b", ONES, "name"),
        ("a,b", ONES, "name"),
        ("#a", ONES, "name"),
        ("a>", ONES, "name"),
        ("a\nb", ONES, "name"),
        ("a\u2028b", ONES, "name"),
        ("a\tb", ONES, "name"),
        ("..", ONES, "name"),
        ("0.5", ONES, "name"),
        ("a", "1,1", "lbw"),
        ("a", ONES + "\nb:1", "lbw"),
        ("a", ONES.replace("1", "one", 1), "lbw"),
    ],
)
def test_what_a_prompt_or_the_file_could_not_hold_is_refused(tmp_path, name, values, field):
    with pytest.raises(StudioError) as fault:
        save_preset(tmp_path, name, values)
    assert fault.value.field == field and not own_path(tmp_path).exists()


def test_a_line_that_is_none_spoils_no_other_in_a_prompt_and_is_an_error_in_a_tool(tmp_path):
    path = own_path(tmp_path)
    zeros = ",".join("0" * 17)
    path.write_text(f"A:{ONES}\nB:1,1\nwhat is this\n# a comment: 1\n\nC:{ONES}\nA:{zeros}\n", encoding="utf-8")
    loaded = Presets.load(tmp_path)
    assert loaded.own == {"A", "C"} and loaded["A"] == zeros
    assert [note.split(": ")[1] for note in loaded.notes] == ["line 2", "line 3 is no preset", "line 7"]
    with pytest.raises(StudioError, match="no block weights have this name; block_presets.txt: line 2: B: 2 block"):
        parse_vector("B", Family.SD1, presets=loaded)
    with pytest.raises(StudioError, match="line 2: B: 2 block weights are no list"):
        read_presets(path)
    with pytest.raises(StudioError, match="no such file"):
        read_presets(tmp_path / "nobody.txt")
    path.write_bytes(b"\xff\xfe")
    assert not Presets.load(tmp_path).own and "cannot be read" in Presets.load(tmp_path).notes[0]


def test_what_is_written_is_read(tmp_path):
    presets = {"A": ONES, "B": ",".join(["X", "X-0.5", "R", "U", *"1" * 8])}
    write_presets(tmp_path / "out.txt", presets)
    assert read_presets(tmp_path / "out.txt") == presets


@needs_lbw
def test_the_established_extensions_file_is_read_as_it_reads_it(tmp_path):
    lbw = load_lbw()
    lines = [*lbw.DEF_WEIGHT_PRESET.splitlines(), "# no: 1", "a comment", f"MINE :{ONES}", "SHORT:1,1"]
    (tmp_path / "lbwpresets.txt").write_text("\n".join(lines), encoding="utf-8")
    theirs = {line.split(":")[0].strip(): line.split(":")[1] for line in lines if not lbw.checkloadcond(line)}
    found, left_out = import_presets(tmp_path / "lbwpresets.txt")
    assert found == {name: values for name, values in theirs.items() if name != "FLUXALL"}
    assert [text.split(":")[0] for text in left_out] == ["line 11", "line 13 is no preset", "line 15"]
    assert "Flux" in left_out[0]
    assert all(BUILT_IN[name] == values for name, values in found.items() if name != "MINE")
