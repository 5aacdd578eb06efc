from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tools_load_no_model_library():
    """diffusers and transformers take longer to import than most tools take for their work."""
    paths = (ROOT / "lib_lora" / "weights").rglob("[!_]*.py")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({'diffusers', 'transformers', 'accelerate', 'lycoris'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_options_of_tools_come_without_torch():
    code = "import sys, lib_lora.weights.tools, lib_lora.cli.tools, lib_lora.cli.blocks\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_tags_are_read_without_torch():
    code = "import sys, lib_lora.weights.blocks.words, lib_lora.weights.blocks.rules\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
