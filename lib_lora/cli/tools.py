"""The tools: ``resize`` and its like. Each is an option class and a module with ``run`` and ``report_text``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lib_lora.base.events import ToolDone
from lib_lora.base.options import add_flags, from_mapping
from lib_lora.base.signals import Control
from lib_lora.cli.progress import Printer, stop_on_ctrl_c


class Tool(NamedTuple):
    """``module`` has ``run(config, control)``, a generator of events, and ``report_text(report)``."""

    help: str
    module: str
    options: str  # module and name of the option class, which come without torch

    def config(self) -> type:
        module, name = self.options.split(":")
        return getattr(importlib.import_module(module), name)


TOOLS = {
    "inspect": Tool(
        "say what a LoRA is, and edit its metadata",
        "lib_lora.weights.inspect",
        "lib_lora.weights.options:InspectConfig",
    ),
    "compare": Tool(
        "say how alike two LoRAs are", "lib_lora.weights.compare", "lib_lora.weights.options:CompareConfig"
    ),
    "extract": Tool(
        "make a LoRA of the difference of two checkpoints",
        "lib_lora.weights.extract",
        "lib_lora.weights.options:ExtractConfig",
    ),
    "convert": Tool(
        "give a LoRA other names, another type or another precision",
        "lib_lora.weights.convert",
        "lib_lora.weights.options:ConvertConfig",
    ),
    "merge": Tool(
        "make one LoRA of several, as a prompt has them",
        "lib_lora.weights.merge",
        "lib_lora.weights.merge_options:MergeConfig",
    ),
    "bake": Tool("write LoRAs into a checkpoint", "lib_lora.weights.bake", "lib_lora.weights.merge_options:BakeConfig"),
    "verify": Tool(
        "say what is wrong with a LoRA file", "lib_lora.weights.verify", "lib_lora.weights.merge_options:VerifyConfig"
    ),
    "resize": Tool("give a LoRA smaller ranks", "lib_lora.weights.resize", "lib_lora.weights.options:ResizeConfig"),
}


def commands() -> Iterator[tuple[str, str, Callable[[dict[str, Any]], int], Callable[[argparse.ArgumentParser], None]]]:
    """Name, help, command and flags of each tool."""
    for name, tool in TOOLS.items():
        yield name, tool.help, _command(tool), _flags(tool)


def _flags(tool: Tool) -> Callable[[argparse.ArgumentParser], None]:
    return lambda parser: add_flags(parser, tool.config())


def _command(tool: Tool) -> Callable[[dict[str, Any]], int]:
    return lambda flags: run_tool(tool, flags)


def run_tool(tool: Tool, flags: dict[str, Any]) -> int:
    """0 when the work was done, 130 when stopped."""
    config = from_mapping(tool.config(), flags)
    module = importlib.import_module(tool.module)
    control, printer = Control(), Printer()
    done = False
    with stop_on_ctrl_c(control):
        try:
            for event in module.run(config, control):
                printer.show(event)
                if isinstance(event, ToolDone):
                    done = True
                    printer.close()
                    print(module.report_text(event.report))
                    print(f"{event.seconds:.1f} s")
        finally:
            printer.close()
    return 0 if done else 130
