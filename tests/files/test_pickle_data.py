"""Hostile and odd pickles: each would act, were it unpickled, and here becomes data or an error."""

from __future__ import annotations

import collections
import datetime
import io
import pickle
import pickletools
import struct
import sys

import numpy as np
import pytest

from lib_lora.files.pickle_data import Global, Inert, PickleFault, load_pickle


def load(data: bytes):
    return load_pickle(io.BytesIO(data))


def short(text: str) -> bytes:
    """SHORT_BINUNICODE."""
    return b"\x8c" + bytes([len(text)]) + text.encode()


@pytest.fixture
def trap(tmp_path):
    """A shell command that leaves a trace, and whether it did."""
    mark = tmp_path / "executed"
    return f"touch {mark}", mark.exists


def attacks(command: str) -> dict[str, bytes]:
    system = b"cposix\nsystem\n" if sys.platform != "win32" else b"cnt\nsystem\n"
    argument = short(command)
    return {
        "REDUCE": b"\x80\x04" + system + argument + b"\x85R.",
        "REDUCE of builtins.eval": b"\x80\x04cbuiltins\neval\n"
        + short(f"__import__('os').system({command!r})")
        + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04" + short("os") + short("system") + b"\x93" + argument + b"\x85R.",
        "INST": b"(" + argument + b"ios\nsystem\n.",
        "OBJ": b"\x80\x04(" + system + argument + b"o.",
        "NEWOBJ": b"\x80\x04csubprocess\nPopen\n" + argument + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n)}" + short("args") + argument + b"s\x92.",
        "BUILD calls __setstate__": b"\x80\x04cbuiltins\ntype\n"
        + short("X")
        + b")}"
        + short("__setstate__")
        + system
        + b"s\x87R)R"
        + argument
        + b"b.",
        "BUILD sets a class attribute": b"\x80\x04cos\nenviron\n}" + short("PATH") + short("x") + b"sb.",
        "getattr of a getattr": b"\x80\x04cbuiltins\ngetattr\n(cbuiltins\ngetattr\n(cbuiltins\n__import__\n"
        + short("os")
        + b"\x85R"
        + short("system")
        + b"tR"
        + short("__call__")
        + b"tR"
        + argument
        + b"\x85R.",
        "dotted name": b"\x80\x04" + short("os") + short("path.os.system") + b"\x93" + argument + b"\x85R.",
        "APPEND to an object": b"\x80\x04cos\nsystem\n)R" + argument + b"a.",
        "SETITEM on an object": b"\x80\x04cos\nsystem\n)R" + argument + argument + b"s.",
        "copyreg extension": b"\x80\x02\x82\x01" + argument + b"\x85R.",
    }


@pytest.mark.parametrize("name", attacks("x"))
def test_an_attack_becomes_inert_data(name, trap, monkeypatch):
    command, was_executed = trap
    code = attacks(command)[name]
    assert len(list(pickletools.genops(code))) > 3, "the attack itself is a whole pickle"
    with monkeypatch.context() as patch:
        patch.setattr("builtins.__import__", _no_import)
        value = load(code)
    assert isinstance(value, (Inert, Global)) and not was_executed()


def _no_import(name, *_, **__):
    raise AssertionError(f"imported {name}")


def test_the_attacks_are_real(trap):
    command, was_executed = trap
    with pytest.raises(Exception):  # noqa: B017 - what is built of the result does not matter
        pickle.loads(attacks(command)["APPEND to an object"].replace(b")R", short(command) + b"\x85R"))
    assert was_executed()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_as_pickle_gives_them(protocol):
    shared = ["twice"]
    value = {
        "text": "ünïcode 猫\n",
        "numbers": [0, -1, 255, 65536, -(2**40), 10**30, 1.5, float("inf")],
        "nothing": None,
        "flags": (True, False),
        "nested": {"a": {"b": [(), (1,), (1, 2, 3, 4)]}},
        "shared": [shared, shared],
        5: "number as key",
    }
    read = load(pickle.dumps(value, protocol))
    assert read == value
    assert read["shared"][0] is read["shared"][1]


def test_bytes_come_as_pickle_gives_them():
    value = [b"short", b"x" * 300, bytearray(b"abc")]
    assert load(pickle.dumps(value, 5)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_of_any_library_become_inert_and_keep_their_arguments(protocol):
    value = [np.float64(2.5), datetime.date(2023, 1, 2), collections.Counter("aab"), {1, 2}, frozenset({3}), object]
    read = load(pickle.dumps(value, protocol))
    assert len(read) == len(value)
    assert all(isinstance(item, (Inert, list, Global)) for item in read)
    assert read[-1] in (Global("builtins", "object"), Global("__builtin__", "object"))


def test_known_names_are_made_by_the_given_functions():
    data = pickle.dumps(collections.OrderedDict(a=1, b=2), 2)
    made = load_pickle(io.BytesIO(data), {Global("collections", "OrderedDict"): lambda items=(): dict(items)})
    assert made == {"a": 1, "b": 2}


def test_a_table_may_hold_itself():
    value = {}
    value["self"] = value
    read = load(pickle.dumps(value))
    assert read["self"] is read


@pytest.mark.parametrize(
    "opening, closing",
    [(b"", b"\x85"), (b"]", b"a"), (b"}K\x01", b"s")],
    ids=["tuples", "lists", "tables"],
)
def test_deep_nesting_neither_recurses_nor_crashes(opening, closing):
    depth = 200_000
    value = load(b"\x80\x02" + (opening * depth) + b"N" + closing * depth + b".")
    for _ in range(depth):
        value = value[1] if isinstance(value, dict) else value[0]
    assert value is None


def test_a_deeply_nested_key_is_not_hashed():
    # hash() of such a tuple recurses in C without a check and ends the process.
    value = load(b"\x80\x02}N" + b"\x85" * 300_000 + b"K\x01s.")
    assert list(value.values()) == [1]


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02}q\x00",
        b"h\x05.",
        b"\x80\x02(.",
        b"\x80\x02(\x85.",
        b"\x80\x02u.",
        b"t.",
        b"K\x01t.",
        b"K\x01a.",
        b"K\x01K\x02a.",
        b"}K\x01s.",
        b"K\x01K\x02K\x03s.",
        b"(K\x01d.",
        b"R.",
        b"b.",
        b"0.",
        b"K\x01K\x02\x93.",
        b"cnodotline",
        b"I" + b"9" * 20 + b"x\n.",
        b"\x8d" + struct.pack("<Q", 2**60) + b"abc.",
        b"X" + struct.pack("<I", 2**31) + b"abc.",
        b"\x8b" + struct.pack("<i", -1) + b".",
        b"\x8b" + struct.pack("<i", 2**30) + b".",
        b"\x8c\x02\xff\xff.",
        b"P0\n.",
        b"K\x01Q.",
        b"\x97.",
        b"\x98.",
        b"\xff.",
        b"r\xff\xff\xff\xff.",
    ],
)
def test_damaged_pickles_are_refused(code):
    with pytest.raises(PickleFault):
        load(code)


def test_every_cut_of_a_pickle_is_refused():
    data = pickle.dumps({"a": [1, 2.5, "three", (b"four",)], "b": np.float64(1)}, 4)
    for size in range(len(data)):
        with pytest.raises(PickleFault):
            load(data[:size])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_random_damage_gives_data_or_a_fault():
    random = np.random.default_rng(0)
    data = pickle.dumps({"a": [1, 2.5, "three"], "b": np.float64(1), "c": collections.OrderedDict(x=1)}, 2)
    for _ in range(3000):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(0, 256)
        try:
            load(bytes(damaged))
        except PickleFault:
            continue


def test_a_huge_memo_index_takes_no_memory():
    assert load(b"K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 1


def test_the_number_of_instructions_is_limited(monkeypatch):
    monkeypatch.setattr("lib_lora.files.pickle_data.MAX_OPCODES", 1000)
    with pytest.raises(PickleFault, match="1000"):
        load(b"\x80\x02" + b"]" * 2000 + b".")


def test_the_place_in_the_file_is_behind_the_pickle():
    file = io.BytesIO(pickle.dumps("one", 2) + pickle.dumps("two", 2) + b"rest")
    assert (load_pickle(file), load_pickle(file), file.read()) == ("one", "two", b"rest")
