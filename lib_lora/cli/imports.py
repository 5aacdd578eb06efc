"""``import``: other programs' settings, or those in a LoRA, as a config file for ``train``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_lora.base.errors import StudioError
from lib_lora.files.atomic import write_text
from lib_lora.files.toml_file import toml_text


def add_import_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``import``."""
    parser.add_argument(
        "file",
        type=Path,
        help="settings of sd-scripts (TOML, or a command in a text file), kohya_ss, LoRA_Easy_Training_Scripts, "
        "OneTrainer or TrainTrain, or a LoRA (.safetensors)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the config file to write (default: print it)")
    parser.add_argument("--overwrite", action="store_true", help="write over a file of this name")
    parser.add_argument(
        "--models-dir", type=Path, default=Path("models"), metavar="DIR", help="where checkpoints are (default: models)"
    )


def run_import(flags: Mapping[str, Any]) -> int:
    """Say what became of each setting, and write the rest.

    Raises:
        StudioError: the file cannot be read or holds no settings, or ``output`` is there already.
    """
    from lib_lora.hosts.standalone.host import StandaloneHost
    from lib_lora.jobs.imports.lora import options_from_lora
    from lib_lora.jobs.imports.text import options_from_text

    file, output = flags["file"], flags["output"]
    if output is not None and output.exists() and not flags["overwrite"]:
        raise StudioError("is there already", field="output", file=output, allowed="another name, or --overwrite")
    host = StandaloneHost(models_dir=flags["models_dir"])
    taken = options_from_lora(file, host) if file.suffix == ".safetensors" else options_from_text(_text(file), host)
    view = taken.view()
    for title, rows in (("left out", view["left_out"]), ("in other words", view["changed"])):
        for row in rows:
            print(f"# {title}: {row['key']}: {row['why']}")
    print(f"# {len(view['values'])} settings of {taken.source}")
    text = toml_text({name: "none" if value is None else value for name, value in view["values"].items()})
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        print(f"written: {output}")
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"cannot be read: {error}", field="file", file=file) from error
