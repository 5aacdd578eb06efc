"""The presets and filters that a tool's options name.

Of a data folder's own files, which stand among the options whether a tag names anything of them or not, a line that
cannot be read spoils nothing else, as in prompts; a tag that names it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lib_lora.weights.blocks import elements, presets
from lib_lora.weights.blocks.elements import BUILT_IN_ELEMENTS, Elements
from lib_lora.weights.blocks.presets import BUILT_IN, Presets
from lib_lora.weights.options import ApplyBlocksConfig, RecipeConfig


def read_rules(config: RecipeConfig | ApplyBlocksConfig) -> dict[str, Mapping[str, str]]:
    """The presets and the elemental filters that the options name, as ``read_tag`` takes them.

    Raises:
        StudioError: a file that is not there, or another one than a data folder's own that cannot be read.
    """
    return {"presets": _presets(config.presets), "elements": _elements(config.elements)}


def _presets(path: Path | None) -> Presets:
    if path is None:
        return BUILT_IN
    if path.name == presets.OWN_FILE and path.is_file():
        return Presets.load(path.parent)
    return Presets(BUILT_IN, presets.read_presets(path))


def _elements(path: Path | None) -> Elements:
    if path is None:
        return BUILT_IN_ELEMENTS
    if path.name == elements.OWN_FILE and path.is_file():
        return Elements.load(path.parent)
    return Elements(BUILT_IN_ELEMENTS, elements.read_elements(path))
