"""``options``: the table of all options, from which ``docs/options.md`` is made."""

from __future__ import annotations

from lib_lora.base.options import docs_table, options_of
from lib_lora.dataset.edits import EDITS
from lib_lora.dataset.health import HealthSettings
from lib_lora.dataset.masks import MaskRule
from lib_lora.dataset.picture_tools import TOOLS as PICTURE_TOOLS
from lib_lora.hosts.standalone.sampling import SampleConfig
from lib_lora.tagging.options import TagConfig
from lib_lora.training.config import TrainConfig
from lib_lora.weights.tools import TOOLS


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
        *(part for name, tool in TOOLS.items() for part in (f"## {tool.command or name}", docs_table(tool.config))),
        "## dataset edit",
        "What each edit takes beside `--where`, `--dry_run` and `--remove_empty`.",
        *(part for name in EDITS for part in _edit(name)),
        "## dataset picture",
        "What each tool takes beside `--where` and `--over`.",
        *(part for name in PICTURE_TOOLS for part in _picture_tool(name)),
        "## dataset mask make",
        "What it takes beside `--where`.",
        docs_table(MaskRule),
        "## dataset health",
        docs_table(HealthSettings),
        "## dataset tag",
        docs_table(TagConfig),
    ]
    return "\n\n".join(parts) + "\n"


def _edit(name: str) -> list[str]:
    kind = EDITS.get(name)
    return [f"### {name}", f"{kind.help[0].upper()}{kind.help[1:]}.", *([docs_table(kind)] if options_of(kind) else [])]


def _picture_tool(name: str) -> list[str]:
    kind = PICTURE_TOOLS.get(name)
    return [f"### {name}", f"{kind.__doc__}.", *([docs_table(kind)] if options_of(kind) else [])]
