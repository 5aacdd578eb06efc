"""The commands. Each imports what it needs when it runs: ``--help`` must not wait for torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib_lora import __version__
from lib_lora.base.errors import StudioError
from lib_lora.base.options import add_flags, from_mapping
from lib_lora.base.reproducible import ask_for_reproducible_sums
from lib_lora.base.signals import Control
from lib_lora.cli import tools
from lib_lora.cli.blocks import add_blocks_flags
from lib_lora.cli.dataset import add_dataset_flags
from lib_lora.cli.imports import add_import_flags, run_import
from lib_lora.cli.several import start_processes
from lib_lora.cli.ui import add_ui_flags, run_ui
from lib_lora.jobs.wire import check_source, event_file, listen
from lib_lora.training.planning import is_main_process, process_count


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
        if command is not None:
            sub.set_defaults(command=command)
        flags(sub)
    return parser


def _train_flags(parser: argparse.ArgumentParser) -> None:
    from lib_lora.training.config import TrainConfig

    parser.add_argument("--config_file", metavar="PATH", help="TOML file of the options below; flags override it")
    add_flags(parser, TrainConfig)


def _talk_flags(parser: argparse.ArgumentParser) -> None:
    _train_flags(parser)
    parser.add_argument("--events", default=argparse.SUPPRESS, metavar="FILE", help="tell events there, as JSON lines")
    parser.add_argument(
        "--control",
        default=argparse.SUPPRESS,
        metavar="-",
        help="- takes words on standard input: pause, resume, stop, abort, save_state, save_lora; its end stops it",
    )


def _processes_flag(parser: argparse.ArgumentParser) -> None:
    _talk_flags(parser)
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
    from lib_lora.cli.train import run_training

    return _told(flags, run_training)


def _preflight(flags: dict[str, Any]) -> int:
    from lib_lora.cli.preflight import run_preflight

    return _told(flags, run_preflight)


def _told(flags: dict[str, Any], work: Callable[..., int]) -> int:
    """``work(config, control, tell)`` of the first process, which listens and tells as the flags ask for it."""
    events, source = flags.pop("events", None), flags.pop("control", None)
    control, is_main = Control(), is_main_process()
    if check_source(source) and is_main:
        listen(control)
    with event_file(events if is_main else None) as file:
        return work(_train_config(flags), control, file.tell if file else lambda event: None)


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


_COMMANDS = [
    ("train", "train a LoRA on a folder of pictures", _train, _processes_flag),
    ("preflight", "make a few steps: how long train will take, and whether it fits", _preflight, _talk_flags),
    ("plan", "say what train would do: pictures, buckets, repeats, steps", _plan, _train_flags),
    ("sample", "make pictures with a checkpoint and LoRAs", _sample, _sample_flags),
    *tools.commands(),
    ("blocks", "block weights: presets, figures, files, pictures", None, add_blocks_flags),  # has commands of its own
    ("dataset", "look at pictures and captions, and edit them", None, add_dataset_flags),  # so has this
    ("import", "turn another program's settings, or a LoRA's, into a config file", run_import, add_import_flags),
    ("options", "print the table of all options", _options, _no_flags),
    ("ui", "open the page in the browser", run_ui, add_ui_flags),
]
