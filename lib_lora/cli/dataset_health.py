"""``dataset health``: the report as text or JSON, and its fixes."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lib_lora.base.events import Progress
from lib_lora.base.options import add_flags, from_mapping
from lib_lora.cli.progress import Printer, watched

if TYPE_CHECKING:
    from lib_lora.dataset.collection import Applied, Collection
    from lib_lora.dataset.health import HealthReport

_STOPPED = 130


def add_health_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.dataset.health import HealthSettings
    from lib_lora.dataset.health.checks import CHECKS

    parser.add_argument(
        "--fix", nargs="+", choices=CHECKS.names(), default=[], metavar="KIND", help="do what findings of a kind offer"
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    add_flags(parser, HealthSettings)


def run_health(collection: Collection, flags: dict[str, Any], told: Callable[[Collection, Applied], int]) -> int:
    """0 when it was looked at and mended, 1 where something could not be mended, 130 when stopped.

    Args:
        flags: those of ``add_health_flags``, and nothing else.
        told: says what was done; 1 where something could not be.
    """
    from lib_lora.dataset.health import HealthSettings, Watch, apply_fix, health

    kinds, as_json = flags.pop("fix"), flags.pop("json")
    settings = from_mapping(HealthSettings, flags)
    with watched() as (printer, control):
        report = health(collection, settings, _tell(printer), control)
    if report is None:
        return _STOPPED
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=False, indent=1))
    else:
        print("\n".join(report_lines(report)))
    status = 0
    with watched() as (printer, control):
        for finding in report.findings:
            if finding.kind in kinds and finding.fix is not None and not control.stopping:
                watch = Watch(functools.partial(_tell(printer), finding.kind), control)
                status |= told(collection, apply_fix(collection, finding, watch))
    return _STOPPED if control.stopping else status


def _tell(printer: Printer) -> Callable[[str, int, int], None]:
    """Shows how far it is; the checks themselves take no time."""

    def tell(what: str, done: int, total: int) -> None:
        if what != "checking":
            printer.show(Progress(what, done, total))

    return tell


def report_lines(report: HealthReport) -> Iterator[str]:
    """The report for a terminal."""
    for finding in report.findings:
        yield f"{finding.severity}: {finding.text}"
        yield f"    {finding.kind}" if finding.fix is None else f"    --fix {finding.kind}: {finding.fix.label}"
    if not report.findings:
        yield "nothing was found"
    yield from (f"note: {note}" for note in report.notes)
    if report.buckets:
        yield ""
        yield "buckets: " + ", ".join(f"{b['width']}x{b['height']} ({b['pictures']})" for b in report.buckets)
    if report.steps:
        steps = report.steps
        yield (
            f"steps: {steps['total_steps']} in {steps['epochs']} epochs of {steps['steps_per_epoch']} "
            f"({steps['samples']} samples, {steps['reg_samples']} of regularisation)"
        )
