"""The real WebUI in a process of its own, for the tests that want it as their judge."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from webui_server import copy_for_webui, start_webui, webui_server  # noqa: F401 - fixtures of ours, too

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "demo" / "model"
OPEN_CLIP_VOCABULARY = 49408


@pytest.fixture(scope="session")
def run_in_webui() -> Callable[..., None]:
    """Runs a script of this folder with the WebUI's interpreter: ``run_in_webui("driver.py", arguments...)``."""
    webui, python = os.environ.get("SD_WEBUI_DIR"), os.environ.get("SD_WEBUI_PYTHON")
    if not (webui and python):
        pytest.skip("SD_WEBUI_DIR and SD_WEBUI_PYTHON do not name a WebUI and its interpreter")

    def run(script: str, *arguments: object) -> None:
        command = [python, str(HERE / script), webui, *map(str, arguments)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.fixture(scope="session")
def webui_checkpoint(tmp_path_factory, tiny_checkpoint) -> Path:
    """``SD_WEBUI_CKPT``, or the demo's checkpoint, or a tiny one: a copy of it whose yaml names the text encoder's
    folder absolutely, for the WebUI knows no other way."""
    demos = sorted(DEMO.glob("*.safetensors"))
    source = Path(os.environ.get("SD_WEBUI_CKPT") or (demos[0] if demos else tiny_checkpoint)).resolve()
    return copy_for_webui(source, tmp_path_factory.mktemp("webui"))


@pytest.fixture(scope="session")
def webui_families(tmp_path_factory, webui_checkpoint, run_in_webui) -> Callable[[str], Path]:
    """Checkpoints by the names of ``tiny_checkpoints``, in a form that the WebUI reads too.

    Their text encoders know open_clip's whole vocabulary, which the WebUI has built in, and their VAEs encode
    without chance: the WebUI draws the masked picture's latents of inpainting from nobody's seed.
    """
    made: dict[str, Path] = {}

    def checkpoint(name: str) -> Path:
        if name == "SD1":
            return webui_checkpoint
        if name not in made:
            made[name] = _write(tmp_path_factory.mktemp(name.replace(" ", "_")), name)
        return made[name]

    return checkpoint


def _write(folder: Path, name: str) -> Path:
    from safetensors.torch import load_file, save_file

    from tiny import SHAPES, open_clip_config, write_checkpoint, yaml_text

    family, *inpainting = name.split()
    shape = replace(SHAPES[family], vocabulary=OPEN_CLIP_VOCABULARY)
    shape = shape.for_inpainting() if inpainting else shape
    path = write_checkpoint(folder, shape=shape, name=name.replace(" ", "_"))
    tensors = load_file(path)
    tensors["first_stage_model.quant_conv.weight"][4:] = 0
    tensors["first_stage_model.quant_conv.bias"][4:] = -30  # the logarithm of the posterior's variance
    save_file(tensors, str(path))
    path.with_suffix(".yaml").write_text(
        re.sub(r"(?m)^(\s*version:\s*)(\S+)", lambda m: m[1] + _absolute(m[2], folder), yaml_text(shape)), "utf-8"
    )
    if (folder / "open_clip").is_dir():
        for text in {"clip", "open_clip"} & {item.name for item in folder.iterdir()}:
            _write_open_clips_vocabulary(folder / text)  # SDXL's two must cut a prompt at the same places
        path.with_suffix(".open_clip.json").write_text(json.dumps(open_clip_config(shape)), encoding="utf-8")
    return path


def _write_open_clips_vocabulary(folder: Path) -> None:
    """The vocabulary of open_clip.tokenizer.SimpleTokenizer, from the list of merges in the WebUI's own package."""
    code = "import importlib.util; print(importlib.util.find_spec('open_clip').origin)"
    python = os.environ["SD_WEBUI_PYTHON"]
    package = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout).parent
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz") as file:
        merges = file.read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    words = list(vocab)[:512] + ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == OPEN_CLIP_VOCABULARY
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def _absolute(version: str, folder: Path) -> str:
    version = version.strip("'\"")
    return str(folder / version) if (folder / version).is_dir() else version
