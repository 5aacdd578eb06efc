"""What the WebUI loads of ours when it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AT_START = (
    "lib_lora.hosts.webui.extension",
    "lib_lora.hosts.webui.host",
    "lib_lora.jobs.queue",
    "lib_lora.api.app",
)
ON_FIRST_USE = ("diffusers", "transformers", "accelerate", "lycoris", "tensorboard")


def test_nothing_heavy_is_loaded_before_somebody_trains():
    imports = "; ".join(f"import {name}" for name in AT_START)
    code = f"import sys; {imports}; print(sorted(set({ON_FIRST_USE!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_webui_finds_one_script_to_run_and_one_to_load():
    """It runs every file in scripts/ and gives every page every .js file directly in javascript/."""
    assert [path.name for path in (ROOT / "scripts").glob("*.py")] == ["lora_studio.py"]
    assert [path.name for path in (ROOT / "javascript").glob("*.*js")] == ["lora_studio.js"]
    # It would read these at its start, or offer them in its menus.
    assert not [name for name in ("preload.py", "localizations", "metadata.ini") if (ROOT / name).exists()]
