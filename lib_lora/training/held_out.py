"""Pictures that are kept from training, to measure the LoRA on. No torch."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.seeds import derive_seed
from lib_lora.dataset.records import Scan


def hold_out(scan: Scan, share: float, seed: int) -> tuple[Scan, Scan]:
    """What is trained on, and what is held out: ``share`` of the pictures, at least one, without repeats.

    Each picture has a place of its own in the draw, by its path within the dataset: one that comes or goes changes
    nothing for the others but at the edge.

    Raises:
        StudioError: one of the two would be empty.
    """
    count = max(1, round(share * len(scan.records)))
    if count >= len(scan.records):
        raise StudioError(
            f"leaves nothing to train on of {len(scan.records)} pictures",
            field="validation_split",
            came=share,
            allowed="a smaller share, or more pictures",
        )

    def place(number: int) -> int:
        name = Path(os.path.relpath(scan.records[number].path, scan.folder)).as_posix()
        return derive_seed(seed, "held out", name)

    held = set(sorted(range(len(scan.records)), key=place)[:count])
    train = tuple(record for number, record in enumerate(scan.records) if number not in held)
    kept = tuple(dataclasses.replace(record, repeats=1) for number, record in enumerate(scan.records) if number in held)
    return (
        dataclasses.replace(scan, records=train),
        dataclasses.replace(scan, records=kept, left_out=(), faults=(), notes=()),
    )
