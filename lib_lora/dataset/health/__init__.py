"""The health report: what is wrong with a folder of pictures, and one click for each thing that one click can mend.

A check is a function in one of the files here, filed in ``checks.CHECKS``: a new one is one function and one test row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.dataset.collection import Collection

# The files of checks file themselves.
from lib_lora.dataset.health import captions, files, pictures, tags, training  # noqa: F401
from lib_lora.dataset.health.checks import CHECKS
from lib_lora.dataset.health.report import (
    SEVERITIES,
    EditFix,
    Finding,
    Fix,
    HealthReport,
    Watch,
    apply_fix,
)
from lib_lora.dataset.health.settings import HealthSettings
from lib_lora.dataset.health.view import Stopped, View

__all__ = ["EditFix", "Finding", "Fix", "HealthReport", "HealthSettings", "Watch", "apply_fix", "health"]


def health(
    collection: Collection,
    settings: HealthSettings | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    control: Control | None = None,
) -> HealthReport | None:
    """Look at everything; nothing is changed but the cache of what the pixels say.

    Args:
        progress: called with (what is done, done, total), from this thread.

    Returns:
        None where ``control`` was asked to stop.

    Raises:
        StudioError: the folder of regularisation pictures cannot be read.
    """
    view = View(collection, settings or HealthSettings(), progress, control)
    findings: list[Finding] = []
    try:
        for place, kind in enumerate(CHECKS):
            view.check_stop()
            findings += CHECKS.get(kind)(view)
            if progress:
                progress("checking", place + 1, len(CHECKS.names()))
    except Stopped:
        return None
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return HealthReport(
        tuple(findings),
        view.version,
        tuple(_notes(view)),
        tuple(_buckets(view)),
        tuple(_resolutions(view)),
        tuple(collection.tag_counts([item.id for item in view.items])),
        _tokens(view),
        _steps(view),
    )


def _notes(view: View) -> list[str]:
    notes = []
    if view.collection.count_tokens is None:
        notes.append("captions' tokens are not counted: no vocabulary is at hand")
    if not view.settings.look_at_pixels:
        notes.append("pixels were not looked at: duplicates, transparency and damage are not known")
    if not view.activation_tags and view.tagged:
        notes.append("no activation tag is given, and none stands first on most captions")
    return notes


def _buckets(view: View) -> list[dict[str, int]]:
    if isinstance(view.plan, StudioError):
        return []
    counts = Counter(image.bucket.resolution for image in view.plan.images)
    return [
        {
            "width": width,
            "height": height,
            "pictures": counts[width, height],
            "samples": samples,
            "batches": math.ceil(samples / view.plan.batch_size),
        }
        for (width, height), samples in view.plan.buckets.items()
    ]


def _resolutions(view: View) -> list[dict[str, int]]:
    sizes = Counter((item.width_px, item.height_px) for item in view.items if item.width_px)
    return [{"width": width, "height": height, "pictures": count} for (width, height), count in sizes.most_common()]


def _tokens(view: View) -> dict[str, dict[int, int]] | None:
    if view.collection.count_tokens is None:
        return None
    counts = Counter(view.tokens.values())
    over = {limit: sum(n for length, n in counts.items() if length > limit) for limit in captions.TOKEN_LIMITS}
    return {"counts": dict(sorted(counts.items())), "over": over}


def _steps(view: View) -> dict[str, Any] | None:
    plan = view.plan
    if isinstance(plan, StudioError):
        return None
    return {
        "samples": plan.train_samples,
        "reg_samples": plan.reg_samples,
        "batches_per_epoch": plan.batches_per_epoch,
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "epochs": plan.epochs,
    }
