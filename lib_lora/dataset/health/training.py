"""What training would make of the pictures: from its own plan of buckets, repeats and steps."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from lib_lora.base.errors import StudioError
from lib_lora.dataset.health.checks import CHECKS, many, some
from lib_lora.dataset.health.report import Finding
from lib_lora.dataset.health.view import View
from lib_lora.dataset.plan import Size

_ENOUGH = 10  # pictures, for one that is alone in its bucket to mean something
_BALANCE = 2  # one concept may be shown so many times as often as another


@CHECKS.register("plan")
def no_plan(view: View) -> Iterator[Finding]:
    """Where the folder itself is refused, ``folder_name`` says so."""
    if isinstance(view.plan, StudioError) and not isinstance(view.scan, StudioError):
        yield Finding("plan", "error", f"training refuses the folder with these settings: {view.plan}")


@CHECKS.register("thin_bucket")
def thin_buckets(view: View) -> Iterator[Finding]:
    """The guide: most pictures in one bucket, or buckets of about the same number."""
    members: dict[Size, list[int]] = defaultdict(list)
    for item, image in view.planned:
        members[image.bucket.resolution].append(item.id)
    batch = view.settings.train_batch_size
    alone = len(view.planned) >= _ENOUGH
    thin = {
        size: ids
        for size, ids in members.items()
        if view.plan.buckets[size] < batch or (alone and len(ids) == 1 and len(members) > 1)
    }
    if thin:
        rows = [f"{width}x{height} ({len(ids)})" for (width, height), ids in sorted(thin.items())]
        yield Finding(
            "thin_bucket",
            "hint",
            f"{many(len(thin), 'bucket')} with one picture, or with too few for a batch of {batch}: {some(rows)}",
            view.in_order(id for ids in thin.values() for id in ids),
        )


@CHECKS.register("balance")
def concepts_out_of_balance(view: View) -> Iterator[Finding]:
    samples: Counter[str] = Counter()
    for item, image in view.planned:
        samples[item.concept] += image.repeats
    if len(samples) < 2:
        return
    most, least = max(samples.values()), min(samples.values())
    if most > _BALANCE * least:
        pictures = Counter(item.concept for item, _ in view.planned)
        rows = [
            f"{concept} {count} (with {math.ceil(most / pictures[concept])} repeats as many as the most)"
            if count * _BALANCE < most
            else f"{concept} {count}"
            for concept, count in samples.most_common()
        ]
        seldom = {concept for concept, count in samples.items() if count * _BALANCE < most}
        yield Finding(
            "balance",
            "warning",
            f"some concepts are shown more than {_BALANCE} times as often as others; samples of an epoch: "
            + some(rows),
            tuple(item.id for item, _ in view.planned if item.concept in seldom),
        )
