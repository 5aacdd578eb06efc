"""The taggers that the model hub has, and how they come from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib_lora.base.errors import StudioError
from lib_lora.base.events import Event, Progress
from lib_lora.base.signals import Control
from lib_lora.tagging.form import Form

_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.2
_MB = 2**20

CL_TAGGER = Form(values="-1..1", output="logits", general=0.55, character=0.6)
CL_TAGGER_2 = Form(channels="RGB", values="-1..1", output="logits", size=384, general=0.55, character=0.6)
ML_DANBOORU = Form(
    channels="RGB", values="0..1", fit="stretch", resample="bilinear", output="logits", general=0.7, character=0.7
)


@dataclass(frozen=True)
class HubModel:
    """Attributes:
    repository: "owner/name" on huggingface.co.
    model, labels: files in it.
    """

    repository: str
    help: str
    form: Form
    model: str = "model.onnx"
    labels: str = "selected_tags.csv"

    def is_in(self, folder: Path) -> bool:
        """Whether all its files are there."""
        return all((folder / name).is_file() for name in (self.model, self.labels))


def _wd(name: str, threshold: float, help: str) -> tuple[str, HubModel]:
    """SmilingWolf's; the threshold is where precision equals recall, by the models' own pages."""
    return name, HubModel(f"SmilingWolf/{name}", f"anime; {help}", Form(general=threshold))


_CL, _MLD = "cl_tagger_1_02", "ml_caformer_m36_dec-5-97527"
HUB_MODELS: dict[str, HubModel] = dict(
    [
        _wd("wd-swinv2-tagger-v3", 0.2653, "WD14 v3, a good first choice"),
        _wd("wd-convnext-tagger-v3", 0.2682, "WD14 v3, the fastest of its kind"),
        _wd("wd-vit-tagger-v3", 0.2614, "WD14 v3"),
        _wd("wd-vit-large-tagger-v3", 0.2606, "WD14 v3, large"),
        _wd("wd-eva02-large-tagger-v3", 0.5296, "WD14 v3, large and the most exact"),
        _wd("wd-v1-4-swinv2-tagger-v2", 0.3771, "WD14 v2"),
        _wd("wd-v1-4-convnext-tagger-v2", 0.3685, "WD14 v2"),
        _wd("wd-v1-4-convnextv2-tagger-v2", 0.371, "WD14 v2"),
        _wd("wd-v1-4-vit-tagger-v2", 0.3537, "WD14 v2"),
        _wd("wd-v1-4-moat-tagger-v2", 0.3771, "WD14 v2"),
        (
            _CL,
            HubModel(
                "cella110n/cl_tagger",
                "anime; knows also copyrights, artists and qualities",
                CL_TAGGER,
                f"{_CL}/model.onnx",
                f"{_CL}/tag_mapping.json",
            ),
        ),
        (
            "ml-danbooru",
            HubModel(
                "deepghs/ml-danbooru-onnx",
                "anime; ML-Danbooru, without categories",
                ML_DANBOORU,
                f"{_MLD}.onnx",
                "classes.json",
            ),
        ),
    ]
)


def download(name: str, model: HubModel, folder: Path, control: Control) -> Iterator[Event]:
    """Fetch a model into ``folder``; ends early where ``control`` says so, and goes on from there the next time.

    Raises:
        StudioError: the hub does not give it, or it cannot be written.
    """
    child = _start(model, folder)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(child.stdout), daemon=True)
    reader.start()
    before = _bytes_in(folder)
    try:
        while reader.is_alive() and not control.stopping:
            reader.join(_POLL_SECONDS)
            total = next((json.loads(line)["bytes"] for line in lines[:1] if "bytes" in line), 0)
            if total:
                done = min(max(0, _bytes_in(folder) - before), total)
                yield Progress(f"downloading {name} (MB)", done // _MB, -(-total // _MB))
    finally:
        child.kill()
        child.wait()
    if not control.stopping and not model.is_in(folder):
        raise _failure(name, model, folder, lines)


def _start(model: HubModel, folder: Path) -> subprocess.Popen[str]:
    known = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), known] if known else [str(_ROOT)]),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-m", "lib_lora.tagging.download", model.repository, str(folder)]
    return subprocess.Popen(
        [*command, model.model, model.labels],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        encoding="utf-8",
        errors="replace",
    )


def _failure(name: str, model: HubModel, folder: Path, lines: list[str]) -> StudioError:
    why = json.loads(lines[-1]).get("error") if lines else None
    return StudioError(
        f"{name} cannot be downloaded: {why or 'the download ended without a word'}",
        field="taggers",
        came=name,
        allowed=f"{model.model} and {model.labels} of huggingface.co/{model.repository}, put into {folder} by hand",
    )


def _bytes_in(folder: Path) -> int:
    """What lies in a folder, unfinished downloads included."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(place, name))
            except OSError:
                continue  # it has got its final name meanwhile
    return total
