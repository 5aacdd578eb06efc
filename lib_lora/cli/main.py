"""The commands. Each imports what it needs when it runs: ``--help`` must not wait for torch."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_lora import __version__
from lib_lora.base.errors import StudioError
from lib_lora.base.options import add_flags, from_mapping
from lib_lora.base.reproducible import ask_for_reproducible_sums
from lib_lora.cli.several import start_processes
from lib_lora.training.planning import process_count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 when it did its work, 1 after an error, 130 after Ctrl-C."""
    ask_for_reproducible_sums()
    parser = _parser()
    namespace = vars(parser.parse_args(arguments))
    processes = namespace.pop("num_processes", 1)
    if processes > 1 and process_count() == 1:
        return start_processes(processes, sys.argv[1:] if arguments is None else arguments)
    command: Callable[[dict[str, Any]], int] = namespace.pop("command")
    try:
        return command(namespace)
    except StudioError as error:
        who = f"process {os.environ['RANK']}: " if process_count() > 1 else ""
        print(f"{who}error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib_lora", description="LoRA Studio", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, help, command, flags in _COMMANDS:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(command=command)
        flags(sub)
    return parser


def _train_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.training.config import TrainConfig

    parser.add_argument("--config_file", metavar="PATH", help="TOML file of the options below; flags override it")
    add_flags(parser, TrainConfig)


def _processes_flag(parser: argparse.ArgumentParser) -> None:
    _train_flags(parser)
    parser.add_argument(
        "--num_processes", type=int, default=1, metavar="N", help="processes that train together, one for each card"
    )


def _sample_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.hosts.standalone.sampling import SampleConfig

    add_flags(parser, SampleConfig)


def _train_config(flags: dict[str, Any]) -> Any:
    from lib_lora.files.toml_file import read_toml
    from lib_lora.training.config import TrainConfig

    config_file = flags.pop("config_file", None)
    values = read_toml(Path(config_file)) if config_file else {}
    return from_mapping(TrainConfig, {**values, **flags})


def _train(flags: dict[str, Any]) -> int:
    config = _train_config(flags)
    from lib_lora.cli.train import run_training

    return run_training(config)


def _plan(flags: dict[str, Any]) -> int:
    config = _train_config(flags)
    from lib_lora.cli.train import show_plan

    return show_plan(config)


def _sample(flags: dict[str, Any]) -> int:
    from lib_lora.cli.sample import run_sampling
    from lib_lora.hosts.standalone.sampling import SampleConfig

    return run_sampling(from_mapping(SampleConfig, flags))


def _no_flags(parser: argparse.ArgumentParser) -> None:
    """A command without flags."""


def _options(flags: dict[str, Any]) -> int:
    from lib_lora.cli.options import options_page

    print(options_page(), end="")
    return 0


def _ui_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7862, metavar="N", help="port to listen on (default: 7862)")
    parser.add_argument(
        "--inbrowser", action=argparse.BooleanOptionalAction, default=True, help="open the page in the browser"
    )


def _ui(flags: dict[str, Any]) -> int:
    # Rooms of one brace do not import each other, and this one only starts the page: it is looked up by its name.
    return importlib.import_module("lib_lora.ui.app").launch(**flags)


_COMMANDS = [
    ("train", "train a LoRA on a folder of pictures", _train, _processes_flag),
    ("plan", "say what train would do: pictures, buckets, repeats, steps", _plan, _train_flags),
    ("sample", "make pictures with a checkpoint and LoRAs", _sample, _sample_flags),
    ("options", "print the table of all options", _options, _no_flags),
    ("ui", "open the page in the browser", _ui, _ui_flags),
]
