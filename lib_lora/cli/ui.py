"""``ui``: the page on its own."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_ui_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``ui``; they are called as the WebUI's are."""
    parser.add_argument("--listen", action="store_true", help="let other machines reach the page, not only this one")
    parser.add_argument(
        "--port", type=int, metavar="N", help="port of the page (default: 7861, or the first free one after it)"
    )
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="who may sign in; several with commas between them")
    parser.add_argument("--auth-path", type=Path, metavar="FILE", help="the same from a file")
    parser.add_argument("--api", action="store_true", help="routes for scripts, too (docs/api.md)")
    parser.add_argument("--api-auth", metavar="USER:PASSWORD", help="who may use those, as --auth")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which others reach the page: a reverse proxy's, say",
    )
    parser.add_argument(
        "--inbrowser", action=argparse.BooleanOptionalAction, default=True, help="open the page in the browser"
    )
    for flag, default, help in (
        ("--data-dir", "lora_studio", "jobs, presets and caches"),
        ("--models-dir", "models", "checkpoints in Stable-diffusion and VAEs in VAE below it"),
        ("--lora-dir", "models/Lora", "LoRAs"),
    ):
        parser.add_argument(flag, type=Path, default=Path(default), metavar="DIR", help=f"{help} (default: {default})")
    parser.add_argument(
        "--dataset-dir",
        action="append",
        type=Path,
        metavar="DIR",
        help="a folder of datasets (default: datasets); with --listen others may choose in these alone",
    )


def run_ui(flags: Mapping[str, Any]) -> int:
    # Rooms of one brace do not import each other, and this one only starts the page: it is looked up by its name.
    return importlib.import_module("lib_lora.api.server").serve(flags)
