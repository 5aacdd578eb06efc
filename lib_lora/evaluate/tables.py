"""Grids and analyses as tables that spreadsheets read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def grid_csv(cells: Sequence[Mapping[str, Any]]) -> str:
    """A line per picture: what it was made of, how far it is from the one without the LoRA (0 to 1), and its file.

    Args:
        cells: as ``Job.view()["grid"]["cells"]`` has them.
    """
    names = list(dict.fromkeys(name for cell in cells for name in cell["values"]))
    rows = ([*(cell["values"].get(name) for name in names), cell["change"], cell["picture"]] for cell in cells)
    return _csv((*names, "change", "picture"), rows)


def analysis_csv(blocks: Sequence[Mapping[str, Any]]) -> str:
    """A line per block, as ranked: its figures alone and off (0 to 1), empty where they were not measured."""
    figures = [(way, figure) for way in ("alone", "off") for figure in ("mean", "changed")]
    rows = (
        [block["rank"], block["block"], *(None if block[way] is None else block[way][name] for way, name in figures)]
        for block in blocks
    )
    return _csv(("rank", "block", *(f"{way} {name}" for way, name in figures)), rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_safe(value) for value in row] for row in rows)
    return text.getvalue()


def _safe(value: Any) -> Any:
    """A spreadsheet would take a text such as ``=1+1`` for a formula, and a prompt may come from anybody."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value
