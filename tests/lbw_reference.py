"""sd-webui-lora-block-weight's own functions, where its folder is at hand (LBW_DIR); nothing of it is kept here.

Its script imports the WebUI and Gradio, which its arithmetic does not need: the functions and constants are taken out
of its source and run as they are.
"""

from __future__ import annotations

import ast
import os
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

_FUNCTIONS = (
    *("to26", "hyphener", "ratiodealer", "getinheritedweight", "checkloadcond", "syntaxdealer", "multidealer"),
    *("stepsdealer", "settolist", "loradealer"),
)
_CONSTANTS = (
    *("BLOCKID26", "BLOCKID17", "BLOCKID12", "BLOCKID20", "BLOCKIDFLUX", "BLOCKNUMS", "BLOCKIDS", "BLOCKS"),
    "DEF_WEIGHT_PRESET",
)

needs_lbw = pytest.mark.skipif(
    not os.environ.get("LBW_DIR"), reason="needs sd-webui-lora-block-weight (LBW_DIR names its folder)"
)


def load_lbw() -> SimpleNamespace:
    """Its functions. ``read(items)`` is what it makes of a tag: (te, unet, 26 ratios, elements, start, stop)."""
    source = (Path(os.environ["LBW_DIR"]) / "scripts/lora_block_weight.py").read_text(encoding="utf-8")
    wanted = [node for node in ast.parse(source).body if _name(node) in (*_FUNCTIONS, *_CONSTANTS)]
    names: dict[str, Any] = {"re": re, "random": random, "forge": False, "reforge": False, "princ": False}
    names["re_inherited_weight"] = re.compile(r"X([+-])?([\d.]+)?")
    names["print"] = lambda *words: None
    exec(compile(ast.Module(wanted, []), "lora_block_weight.py", "exec"), names)
    presets = dict(line.split(":") for line in names["DEF_WEIGHT_PRESET"].splitlines())
    lbw = SimpleNamespace(**{name: names[name] for name in (*_FUNCTIONS, *_CONSTANTS)}, presets=presets)

    def read(items: list[str], elements: dict[str, str] | None = None) -> tuple:
        found = []
        names["load_loras_blocks"] = lambda *a, starts: found.append([*(each[0] for each in a[2:6]), starts[0]])
        self = SimpleNamespace(is_flux=False, isnet=True, log={}, starts={}, stops={})
        tag = SimpleNamespace(items=items)
        names["loradealer"](self, [], presets, elements or {}, {"lora": [tag]})
        ratios, te, unet, rules, start = found[0]
        return te, unet, ratios, rules, start, self.stops.get(items[0])

    lbw.read = read
    return lbw


def _name(node: ast.stmt) -> str | None:
    if isinstance(node, ast.FunctionDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def lbw_key(key: str) -> str:
    """A module of an SDXL file as it looks in the WebUI."""
    return key.replace("lora_unet_", "diffusion_model_").replace("lora_te1_", "0_transformer_")
