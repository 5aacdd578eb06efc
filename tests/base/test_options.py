from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.options import (
    REQUIRED,
    add_flags,
    convert,
    docs_table,
    from_mapping,
    option,
    options_of,
    to_mapping,
)


@dataclass(frozen=True)
class Example:
    name: str = option(REQUIRED, "a name")
    rank: int = option(8, "rank", minimum=1, maximum=64, unit="ranks")
    rate: float | None = option(None, "rate", above=0)
    flag: bool = option(False, "flag")
    kind: str = option("Lion", "kind", choices=("Lion", "AdamW"))
    folder: Path = option(Path("a/b"), "folder")
    args: tuple[str, ...] = option((), "arguments")
    rates: tuple[float, ...] | None = option(None, "rates", minimum=0)


def build(**values):
    return from_mapping(Example, {"name": "x", **values})


def test_defaults_are_taken_for_what_is_not_given():
    assert build() == Example(name="x")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("rank", "12", 12),
        ("rank", 12.0, 12),
        ("rate", "1e-4", 1e-4),
        ("rate", "none", None),
        ("rate", None, None),
        ("flag", "true", True),
        ("flag", False, False),
        ("kind", "adamw", "AdamW"),
        ("folder", "c", Path("c")),
        ("args", "a=1, b=2", ("a=1", "b=2")),
        ("args", ["a=1"], ("a=1",)),
        ("args", "a b, c", ("a b", "c")),
        ("rates", "1e-4 5e-5", (1e-4, 5e-5)),
        ("rates", "1, 2,3", (1.0, 2.0, 3.0)),
        ("rates", 0.5, (0.5,)),
        ("rates", [1, "2"], (1.0, 2.0)),
        ("rates", "none", None),
    ],
)
def test_text_and_values_become_the_options_type(field, text, value):
    result = getattr(build(**{field: text}), field)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("rank", 65),
        ("rank", 1.5),
        ("rank", "many"),
        ("rank", True),
        ("rank", None),
        ("rate", 0),
        ("rate", "nan"),
        ("rate", "inf"),
        ("flag", "perhaps"),
        ("flag", 3),
        ("kind", "SGD"),
        ("folder", ""),
        ("args", 3),
    ],
)
def test_a_bad_value_is_an_error_that_names_field_value_and_what_is_allowed(field, value):
    with pytest.raises(StudioError) as caught:
        build(**{field: value})
    assert caught.value.field == field
    assert field in str(caught.value) and "allowed" in str(caught.value)
    assert caught.value.came == value


def test_an_unknown_option_is_refused_with_the_nearest_known_one():
    with pytest.raises(StudioError, match="did you mean rank"):
        build(rnak=3)


def test_a_missing_required_option_is_named():
    with pytest.raises(StudioError, match="name: must be given"):
        from_mapping(Example, {})


def test_flags_give_the_same_config_as_a_mapping():
    parser = argparse.ArgumentParser()
    add_flags(parser, Example)
    flags = vars(parser.parse_args(["--name", "y", "--rank", "4", "--flag", "--args", "a=1", "b=2"]))
    assert from_mapping(Example, flags) == Example(name="y", rank=4, flag=True, args=("a=1", "b=2"))
    assert vars(parser.parse_args(["--name", "y", "--no-flag"])) == {"name": "y", "flag": False}


def test_a_config_survives_the_way_through_a_mapping():
    config = build(rate=0.5, args=["k=v"], folder="z", flag=True)
    assert from_mapping(Example, to_mapping(config)) == config


def test_the_docs_table_has_a_row_for_every_option():
    table = docs_table(Example)
    assert all(f"| `{info.name}` |" in table for info in options_of(Example))
    assert "from 1 to 64" in table and "Lion, AdamW" in table


def test_every_default_is_itself_allowed():
    from lib_lora.training.config import TrainConfig

    for info in options_of(TrainConfig):
        if not info.required:
            assert convert(info, info.default) == info.default
        assert info.help and not info.help.endswith(".")
