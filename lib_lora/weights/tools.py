"""The tools that make files of LoRAs and checkpoints or look at them. Light: their modules, which load torch, are
imported when they work.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lib_lora.base.events import Event
from lib_lora.base.options import options_of
from lib_lora.base.signals import Control
from lib_lora.weights import options


@dataclass(frozen=True)
class Tool:
    """A module of this name beside this one, with ``run(config, control)``, a generator of events that ends in
    ``ToolDone``, ``report_text(report)``, and ``check(config)`` where options alone may be at odds.

    Attributes:
        config: the class of its options.
        command: its words on the command line; none: its name.
        module: where it is, below this package; none: its name.
        label: what forms call it; none: its name.
    """

    name: str
    help: str
    config: type
    command: str = ""
    module: str = ""
    label: str = ""

    @property
    def writes(self) -> str | None:
        """What its option ``output`` is: "lora" or "checkpoint"; None where it has none."""
        folders = {"outputs": "lora", "models": "checkpoint"}
        return next((folders[info.folder] for info in options_of(self.config) if info.name == "output"), None)

    def check(self, config: Any) -> None:
        """Find out before the work what is wrong with the options; of files only headers are read.

        Raises:
            StudioError: naming the option at fault.
        """
        if hasattr(self._module, "check"):
            self._module.check(config)

    def run(self, config: Any, control: Control) -> Iterator[Event]:
        return self._module.run(config, control)

    def report_text(self, report: Mapping[str, Any]) -> str:
        """The report for a terminal."""
        return self._module.report_text(report)

    @property
    def _module(self) -> ModuleType:
        return importlib.import_module(f"lib_lora.weights.{self.module or self.name}")


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("extract", "make a LoRA of the difference of two checkpoints", options.ExtractConfig),
        Tool("merge", "make one LoRA of several, as a prompt has them", options.MergeConfig),
        Tool("bake", "write LoRAs into a checkpoint", options.BakeConfig),
        Tool("resize", "give a LoRA smaller ranks", options.ResizeConfig),
        Tool(
            "blocks",
            "save a LoRA with block weights",
            options.ApplyBlocksConfig,
            command="blocks apply",
            module="blocks.apply",
            label="block weights",
        ),
        Tool("convert", "give a LoRA other names, another type or another precision", options.ConvertConfig),
        Tool("inspect", "say what a LoRA is, and edit its metadata", options.InspectConfig),
        Tool("verify", "say what is wrong with a LoRA file", options.VerifyConfig),
        Tool("compare", "say how alike two LoRAs are", options.CompareConfig),
    )
}
