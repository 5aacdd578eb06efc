from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tools_load_no_model_library():
    """diffusers and transformers take longer to import than most tools take for their work."""
    names = [f"lib_lora.weights.{path.stem}" for path in (ROOT / "lib_lora" / "weights").glob("[!_]*.py")]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({'diffusers', 'transformers', 'accelerate', 'lycoris'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_options_of_tools_come_without_torch():
    code = "import sys, lib_lora.weights.tools, lib_lora.cli.tools\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
