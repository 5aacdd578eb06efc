"""Where sd-scripts' own code may be imported: from the folder that SD_SCRIPTS_DIR names."""

from __future__ import annotations

import ast
import math
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


def functions(file: str, *names: str) -> SimpleNamespace:
    """Functions of sd-scripts by name, without importing the rest of their module; skips the test without sd-scripts.

    Its modules import packages that only its own environment has, so that the functions' text alone is run.
    """
    folder = os.environ.get("SD_SCRIPTS_DIR")
    if not folder:
        pytest.skip("SD_SCRIPTS_DIR does not name a copy of kohya-ss/sd-scripts")
    tree = ast.parse((Path(folder) / file).read_text(encoding="utf-8"))
    wanted = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in wanted:
        node.decorator_list, node.returns = [], None
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
    space = {"torch": torch, "math": math, "random": random}
    exec(compile(ast.Module(wanted, []), file, "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in names})
