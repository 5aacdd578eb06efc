"""What a tag says, against readings by hand and sd-webui-lora-block-weight's code."""

from __future__ import annotations

import pytest

from lbw_reference import load_lbw, needs_lbw
from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.weights.blocks.elements import Elements
from lib_lora.weights.blocks.words import WORDS, read_tag

SD1 = Family.SD1
IN04, OUT11 = (
    f"lora_unet_{name}_attentions_{place}_proj_in" for name, place in (("down_blocks_1", 0), ("up_blocks_3", 2))
)
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
VECTOR = ",".join(["0.5", *["X"] * 16])
MINE = Elements({"MINE": "IN04:proj:0.25"})


def read(tag: str, **options: object):
    return read_tag(tag.split(":"), **{"family": SD1, "elements": MINE, **options})


@pytest.mark.parametrize(
    ("tag", "te", "unet", "dyn"),
    [
        ("a", 1, 1, None),
        ("a:0.8", 0.8, 0.8, None),
        ("a:0.8:0.5", 0.8, 0.5, None),
        ("a:0.8:0.5:4", 0.8, 0.5, 4),
        ("a:te=0.8", 0.8, 0.8, None),
        ("a:unet=0.5", 1, 0.5, None),  # as the WebUI has it
        ("a:0.3:unet=-1:dyn=2", 0.3, -1, 2),
        ("te=0.8:a", 0.8, 0.8, None),
    ],
)
def test_strengths_are_the_webuis(tag, te, unet, dyn):
    found = read(tag)
    assert (found.te, found.unet, found.dyn) == (te, unet, dyn)
    assert found.is_plain and found.ratio(IN04) == 1 and found.at(0, 10) == (1, 1)
    weighted = read(f"{tag}:lbw=ALL")
    assert (weighted.te, weighted.unet, weighted.dyn) == (te, unet, dyn) and not weighted.is_plain


@pytest.mark.parametrize("key", ["lbw", "lwb", "w"])
def test_block_weights_have_three_names(key):
    found = read(f"a:0.5:{key}=OUTALL")
    assert [found.ratio(layer) for layer in (TEXT, IN04, OUT11)] == [1, 0, 1]
    assert found.text.startswith("<lora:a:0.5:lbw=1,0,")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a:0.5:OUTX:0.7", "a:0.5:lbw=OUTX:x=0.7"),
        ("a:0.5:1:OUTX:0.7", "a:0.5:1:lbw=OUTX:x=0.7"),
        (f"a:0.5:{VECTOR}", f"a:0.5:lbw={VECTOR}"),
        ("a:OUTALL", "a:lbw=OUTALL"),
        ("a:1:OUTALL:MINE", "a:1:lbw=OUTALL:lbwe=MINE"),
        ("a:1:OUTX:x=0.2", "a:1:lbw=OUTX:x=0.2"),
    ],
)
def test_the_positions_of_old_are_read_and_told(old, new):
    before, today = read(old), read(new)
    assert before.signature == today.signature
    assert any(f"<lora:{new}>" in hint for hint in before.hints) and not today.hints and not before.notes


def test_a_filter_takes_the_place_of_block_weights_where_it_fits():
    found = read("a:lbw=NONE:lbwe=MINE")
    assert [found.ratio(layer) for layer in (IN04, OUT11, TEXT)] == [0.25, 0, 0]
    assert [read("a:lbwe=MINE").ratio(layer) for layer in (IN04, OUT11, TEXT)] == [0.25, 1, 1]


def test_steps_switch_the_unet_and_leave_the_text_encoders():
    found = read("a:start=2:stop=4")
    assert [found.at(step, 5) for step in range(5)] == [(1, 0), (1, 1), (1, 1), (1, 0), (1, 0)]


def test_random_values_come_of_the_seed_and_the_name():
    vector = ",".join("R" * 17)
    one = read(f"a:lbw={vector}", seed=1)
    assert one.signature == read(f"a:lbw={vector}", seed=1).signature
    assert one.ratios != read(f"a:lbw={vector}", seed=2).ratios
    assert one.ratios != read(f"b:lbw={vector}", seed=1).ratios
    with pytest.raises(StudioError, match="drawn anew"):
        read(f"a:lbw={vector}")


@pytest.mark.parametrize(
    ("tag", "field", "rest"),
    [
        ("a:0.5:lbw=NOBODYS", "lbw", "a:0.5"),
        ("a:0.5:lbw=1,1,1", "lbw", "a:0.5"),
        ("a:0.5:NOBODYS", "lbw", "a:0.5"),
        (f"a:0.5:lbw={VECTOR},much", "lbw", "a:0.5"),
        ("a:0.5:lbw=OUTX:x=much", "x", "a:0.5"),
        ("a:0.5:lbwe=NOBODYS:lbw=OUTD", "lbwe", "a:0.5:lbw=OUTD"),
        ("a:0.5:lbw=OUTD:start=soon", "start", "a:0.5:lbw=OUTD"),
        ("a:0.5:step=7-5", "step", "a:0.5"),
        ("a:te=much:0.5:0.7", "te", "a:1:0.7"),
        ("a:0.5:unet=nan", "unet", "a:0.5"),
        ("a:0.5:dyn=2.5", "dyn", "a:0.5"),
        ("a:0.5:dyn=\u00b2", "dyn", "a:0.5"),
        ("a:0.5:dyn=" + "1" * 5000, "dyn", "a:0.5"),
        ("a:0.5:start=" + "1" * 5000, "start", "a:0.5"),
        ("a:0.5:stop=0." + "1" * 5000, "stop", "a:0.5"),
    ],
)
def test_a_part_that_cannot_be_understood_is_left_out_and_named(tag, field, rest):
    with pytest.raises(StudioError) as fault:
        read(tag)
    assert fault.value.field == field
    found = read(tag, strict=False)
    assert found.signature == read(rest).signature
    (note,) = found.notes
    assert note.startswith(f"<lora:a>: {field}: ") and str(fault.value) in note


def test_a_tag_without_a_name_is_an_error_in_any_case():
    for strict in (True, False):
        for tag in ("lbw=OUTD:te=1", ":1", " "):
            with pytest.raises(StudioError, match="has no name"):
                read(tag, strict=strict)


def test_signatures_tell_states_apart():
    tags = ["a", "b", "a:0.5", "a:1:0.5", "a:dyn=2", "a:lbw=ALL", "a:lbw=OUTD", "a:lbwe=MINE", "a:start=2", "a:stop=2"]
    assert len({read(tag).signature for tag in tags}) == len(tags)
    changed = Elements({"MINE": "IN04:proj:0.5"})
    assert read("a:lbwe=MINE").signature != read("a:lbwe=MINE", elements=changed).signature
    presets = {"P": ",".join(["0.5", *["1"] * 16])}
    assert read("a:lbw=P", presets=presets).signature != read("a:lbw=P", presets={"P": ",".join("1" * 17)}).signature


@pytest.mark.parametrize(
    "tag", ["a:0.8:0.5:4", "a:lbw=OUTX:x=0.3:lbwe=MINE:start=2:stop=0.5", "a:1:OUTD", "a:-1:w=LOUTX"]
)
def test_what_is_written_out_says_the_same(tag):
    found = read(tag)
    again = read(found.text[len("<lora:") : -1])
    assert again.signature == found.signature and not again.hints


def test_words_are_those_that_the_webui_does_not_know():
    assert (
        WORDS.isdisjoint({"te", "unet", "dyn"}) and {"lbw", "lwb", "w", "x", "lbwe", "start", "stop", "step"} == WORDS
    )


@needs_lbw
@pytest.mark.parametrize(
    "tag",
    [
        "a:0.8:0.5:lbw=OUTD",
        "a:0.8:OUTS:unet=0.5",  # without unet= it fails at its own positions
        "a:1:OUTX:0.4:unet=1",
        "a:te=0.3:w=MIDD",
        "a:0.5:0.25:lbw=OUTX:x=0.2",
        f"a:0.7:{','.join(['0.2', '-1', *['X-0.1'] * 15])}:0.6:unet=-1",
        "a:1:1:lbw=INS:start=3:stop=8",
        "a:1:1:lbw=INS:step=3-8",
        "a:1:MIDD:MINE:unet=1",
    ],
)
def test_a_tag_says_what_the_established_extension_reads_in_it(tag):
    lbw = load_lbw()
    lbw.presets["OUTX"] = ",".join([*"X" * 8, *"1" * 9])
    te, unet, ratios, rules, start, stop = lbw.read(tag.split(":"), {"MINE": "IN04:proj:0.25"})
    found = read(tag)
    assert (found.te, found.unet) == (te, unet)
    theirs = dict(zip(lbw.BLOCKID26, ratios))
    assert dict(found.ratios.by_block) == pytest.approx(theirs)
    assert (found.elements is not None) == bool(rules)
    schedule = found.schedule
    assert (schedule and schedule.start, schedule and schedule.stop) == (start and int(start), stop)
