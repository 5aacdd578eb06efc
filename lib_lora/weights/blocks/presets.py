"""Block weights by name: one ``NAME:values`` a line, in the file format of sd-webui-lora-block-weight.

As there, names are told apart by case, and a line with ``#`` is a comment. One without ``:`` is told as a mistake.
Source: hako-mikan/sd-webui-lora-block-weight b403cb7, ``checkloadcond``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lib_lora.arch.blocks import BLOCK_LISTS
from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import lock_file, write_text
from lib_lora.weights.blocks.named import Named

LENGTHS = sorted({length for lists in BLOCK_LISTS.values() for length in lists})
FLUX_LENGTH = 61
OWN_FILE = "block_presets.txt"
X = re.compile(r"X([+-]\d*\.?\d+)?")
RANDOM = {"R": (0.0, 1.0), "U": (-0.5, 1.5)}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NOT_IN_NAMES = re.compile(r"[:,#=<>]")
_LOCK_WAIT_S = 5.0


class Presets(Named):
    """Presets' values by name."""

    @classmethod
    def load(cls, data_dir: Path) -> Presets:
        """Ours and those in the data folder. What cannot be read is noted, and spoils nothing else."""
        try:
            own, faults = _parsed(_text(own_path(data_dir)))
        except StudioError as fault:
            own, faults = {}, [fault.problem]
        return cls(BUILT_IN, own, tuple(f"{OWN_FILE}: {fault}" for fault in faults))


def own_path(data_dir: Path) -> Path:
    return data_dir / OWN_FILE


def split_values(text: str) -> list[str]:
    """``1,0, X+0.3`` -> its words; whether they are any good is another matter."""
    return [value.strip() for value in text.split(",")]


def check_values(text: str) -> str:
    """The values of a preset, as they are kept.

    Raises:
        StudioError: something else than numbers, X, R and U, or as many of them as no list has.
    """
    values = split_values(text)
    for value in values:
        check_value(value, text)
    if len(values) not in LENGTHS and len(values) + 1 not in LENGTHS:
        raise wrong_length(len(values), text)
    return ",".join(values)


def check_value(value: str, text: str) -> None:
    """
    Raises:
        StudioError: it is no number, and none of X, R and U.
    """
    is_number = _NUMBER.fullmatch(value) and math.isfinite(float(value))
    if not (is_number or X.fullmatch(value) or value in RANDOM):
        raise StudioError(
            f"{value!r} is no number", field="lbw", came=text, allowed="numbers, X, X+0.3, X-0.2, R and U"
        )


def wrong_length(count: int, text: str) -> StudioError:
    if count == FLUX_LENGTH:
        return StudioError("61 block weights are a list for Flux", field="lbw", came=text, allowed=_LENGTHS_TEXT)
    return StudioError(f"{count} block weights are no list", field="lbw", came=text, allowed=_LENGTHS_TEXT)


_LENGTHS_TEXT = "17 or 26 for SD1 and SD2, 12 or 20 for SDXL, BASE first, or one less without it"


def read_presets(path: Path) -> dict[str, str]:
    """The presets of a file.

    Raises:
        StudioError: the file cannot be read, or a line of it is no preset and no comment.
    """
    presets, faults = _parsed(_text(path, must_exist=True))
    if faults:
        raise StudioError(faults[0], field="presets", file=path, allowed="NAME:1,0,1,... or # a comment")
    return presets


def import_presets(path: Path) -> tuple[dict[str, str], list[str]]:
    """The presets of sd-webui-lora-block-weight's file (``scripts/lbwpresets.txt``), and why lines were left out, such
    as those for Flux.

    Raises:
        StudioError: the file cannot be read.
    """
    return _parsed(_text(path, must_exist=True))


def write_presets(path: Path, presets: Mapping[str, str]) -> None:
    """A file of presets, whole or not at all; what was in it is gone."""
    lines = [f"{check_name(name)}:{check_values(values)}\n" for name, values in presets.items()]
    write_text(path, "".join(lines))


def save_preset(data_dir: Path, name: str, values: str) -> None:
    """Add one of a person's own or change it; comments and the other lines stay as they are.

    Raises:
        StudioError: ``field`` "name" or "lbw", or the file cannot be written.
    """
    line = f"{check_name(name)}:{check_values(values)}"
    with _edited(data_dir) as lines:
        places = _places(lines, name.strip())
        if places:
            lines[places[0]] = line
            for place in reversed(places[1:]):
                del lines[place]
        else:
            lines.append(line)


def remove_preset(data_dir: Path, name: str) -> None:
    """Take one of a person's own away; one of ours of this name is there again.

    Raises:
        StudioError: they have none of this name.
    """
    with _edited(data_dir) as lines:
        places = _places(lines, name)
        if not places:
            raise StudioError("is no preset of your own", field="name", came=name)
        for place in reversed(places):
            del lines[place]


def check_name(name: str) -> str:
    """A preset's name as it is kept.

    Raises:
        StudioError: a prompt could not hold it, or would take it for a number.
    """
    own = name.strip()
    is_text = own.isprintable() and own.strip(".")  # an address with . or .. leads elsewhere
    if not is_text or _NOT_IN_NAMES.search(own) or _NUMBER.fullmatch(own):
        raise StudioError(
            "cannot be a preset's name", field="name", came=name, allowed="a word without : , # = < >, and no number"
        )
    return own


def _parsed(text: str) -> tuple[dict[str, str], list[str]]:
    """The presets of a text, and a sentence on each line that is none. Of two of one name the last counts."""
    presets: dict[str, str] = {}
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or "#" in line:
            continue
        name, colon, values = line.partition(":")
        if not colon:
            faults.append(f"line {number} is no preset: {line.strip()[:60]!r}")
            continue
        try:
            name, values = check_name(name), check_values(values)
        except StudioError as fault:
            faults.append(f"line {number}: {name.strip()}: {fault.problem}")
            continue
        if name in presets:
            faults.append(f"line {number}: {name} stands there twice; the last counts")
        presets[name] = values
    return presets, faults


def _places(lines: list[str], name: str) -> list[int]:
    """The lines of a preset."""
    return [index for index, line in enumerate(lines) if "#" not in line and line.partition(":")[0].strip() == name]


@contextlib.contextmanager
def _edited(data_dir: Path) -> Iterator[list[str]]:
    """The lines of a person's file, which are written when they have changed; nobody else does so meanwhile."""
    path = own_path(data_dir)
    with lock_file(path.with_suffix(".lock"), wait_s=_LOCK_WAIT_S):
        lines = _text(path).splitlines()
        before = list(lines)
        yield lines
        if lines != before:
            write_text(path, "".join(f"{line}\n" for line in lines))


def _text(path: Path, must_exist: bool = False) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        if must_exist:
            raise StudioError("no such file", field="presets", file=path) from error
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"cannot be read: {error}", field="presets", file=path) from error


BUILT_IN = Presets(read_presets(Path(__file__).with_name("presets.txt")))
