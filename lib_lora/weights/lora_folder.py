"""The LoRA files of a folder. Light: a page lists them without torch."""

from __future__ import annotations

from pathlib import Path

from lib_lora.files.walk import walk
from lib_lora.weights.options import LORA_ENDINGS


def lora_paths(folder: Path) -> list[Path]:
    """Every LoRA file in a folder and those below it, sorted by path; none with a hidden name."""
    paths = (place / name for place, _, names in walk(folder) for name in names if not name.startswith("."))
    # A link may lead nowhere.
    return sorted(path for path in paths if path.suffix.lower() in LORA_ENDINGS and path.is_file())
