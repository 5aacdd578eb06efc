"""``options``: the table of all options, from which ``docs/options.md`` is made."""

from __future__ import annotations

from lib_lora.base.options import docs_table
from lib_lora.cli.tools import TOOLS
from lib_lora.hosts.standalone.sampling import SampleConfig
from lib_lora.training.config import TrainConfig


def options_page() -> str:
    """The page ``docs/options.md``."""
    parts = [
        "# Options",
        "Made by `python run.py cli options`; a test keeps this page and the code together.",
        "## train and plan",
        "As flags (`--network_dim 16`) and in a TOML file (`network_dim = 16`, given by `--config_file`). "
        "`none` means that the option is not set.",
        docs_table(TrainConfig),
        "## sample",
        docs_table(SampleConfig),
        *(part for name, tool in TOOLS.items() for part in (f"## {name}", docs_table(tool.config()))),
    ]
    return "\n\n".join(parts) + "\n"
