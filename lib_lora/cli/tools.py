"""The tools as commands: ``resize`` and its like."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from lib_lora.base.events import ToolDone
from lib_lora.base.options import add_flags, from_mapping
from lib_lora.base.signals import Control
from lib_lora.cli.progress import Printer, stop_on_ctrl_c
from lib_lora.weights.tools import TOOLS, Tool


def commands() -> Iterator[tuple[str, str, Callable[[dict[str, Any]], int], Callable[[argparse.ArgumentParser], None]]]:
    """Name, help, command and flags of each tool."""
    for tool in TOOLS.values():
        if not tool.command:  # else it is part of another command
            yield tool.name, tool.help, _command(tool), _flags(tool)


def _flags(tool: Tool) -> Callable[[argparse.ArgumentParser], None]:
    return lambda parser: add_flags(parser, tool.config)


def _command(tool: Tool) -> Callable[[dict[str, Any]], int]:
    return lambda flags: run_tool(tool, flags)


def run_tool(tool: Tool, flags: dict[str, Any]) -> int:
    """0 when the work was done, 1 when its report says that something is wrong (``verify``), 130 when stopped."""
    config = from_mapping(tool.config, flags)
    control, printer = Control(), Printer()
    code = 130
    with stop_on_ctrl_c(control):
        try:
            for event in tool.run(config, control):
                printer.show(event)
                if isinstance(event, ToolDone):
                    code = 1 if event.report.get("ok") is False else 0
                    printer.close()
                    print(tool.report_text(event.report))
                    print(f"{event.seconds:.1f} s")
        finally:
            printer.close()
    return code
