"""What it costs to begin a job on the model that a real WebUI has loaded: time and memory, beside loading the file.

    SD_WEBUI_DIR=... SD_WEBUI_PYTHON=... python bench/webui_live.py

The checkpoint has Stable Diffusion 1.5's exact shapes and random weights; the WebUI runs on the CPU with --no-half. The
pictures are tiny, so that what remains is the start itself. Linux only: memory is RssAnon of /proc/self/status.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDE_PX = 64
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written and kept")
    parser.add_argument("--dtype", default="float16", choices=("float16", "float32"), help="of the checkpoint's file")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print("RESULT", json.dumps(measure(**json.loads(args.inside))))
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_model(args.folder or Path(folder), args.dtype)
        work = Path(folder) / "work"
        write_pictures(work / "pictures" / "1_thing")
        inside = {"webui": os.environ["SD_WEBUI_DIR"], "checkpoint": str(checkpoint), "work": str(work)}
        command = [os.environ["SD_WEBUI_PYTHON"], __file__, "--inside", json.dumps(inside)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print_table(json.loads(re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)[1]))


def write_model(folder: Path, dtype: str) -> Path:
    """The checkpoint, and a yaml for the WebUI that names the text encoder's folder absolutely."""
    import torch
    from full_size import SIZES, write_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    path = write_checkpoint(folder, SIZES["sd15"], getattr(torch, dtype), f"sd15-{dtype}").resolve()
    text = SIZES["sd15"].text_encoders[0]
    (path.parent / "clip" / "config.json").write_text(json.dumps({"model_type": "clip_text_model", **text}), "utf-8")
    config = (Path(os.environ["SD_WEBUI_DIR"]) / "configs" / "v1-inference.yaml").read_text("utf-8")
    encoder = "target: ldm.modules.encoders.modules.FrozenCLIPEmbedder"
    named = f"{encoder}\n      params: {{version: {json.dumps(str(path.parent / 'clip'))}}}"
    path.with_suffix(".yaml").write_text(config.replace(encoder, named), "utf-8")
    return path


def write_pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    Image.effect_noise((SIDE_PX, SIDE_PX), 40).convert("RGB").save(folder / "thing.png")
    (folder / "thing.txt").write_text("a thing", encoding="utf-8")


class Clock:
    """Seconds since it was made, and how many of them the processors worked for this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def measure(webui: str, checkpoint: str, work: str) -> dict:
    """Inside the WebUI's interpreter: seconds as ``Clock`` gives them, and MB of anonymous memory."""
    sys.path[:0] = [str(ROOT / "tests" / "hosts"), str(ROOT)]
    from webui_driver import start

    start(Path(webui).resolve(), Path(checkpoint), Path(work) / "data")
    from modules import sd_models, shared

    from lib_lora.base.events import StepDone, TrainingStarted
    from lib_lora.base.options import from_mapping
    from lib_lora.hosts.webui.host import WebuiHost
    from lib_lora.models.loader import load_model
    from lib_lora.training.config import TrainConfig
    from lib_lora.training.run import Run

    weights = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in shared.sd_model.parameters()}
    result = {"file_mb": Path(checkpoint).stat().st_size / 2**20, "live_mb": sum(weights.values()) / 2**20}
    for name in ("disk", "memory"):
        if name == "disk":
            forget_file(Path(checkpoint))
        clock = Clock()
        sd_models.load_model(shared.sd_model.sd_checkpoint_info)
        result[f"from_{name}"] = clock.seconds()
    options = {
        "pretrained_model_name_or_path": checkpoint,
        "train_data_dir": f"{work}/pictures",
        "output_dir": f"{work}/Lora",
        "output_name": "bench",
        "cache_dir": f"{work}/cache",
        "network_dim": RANK,
        "resolution": str(SIDE_PX),
        "min_bucket_reso": SIDE_PX,
        "max_train_steps": 1,
        "learning_rate": 1e-4,
    }
    config, host = from_mapping(TrainConfig, options), WebuiHost()
    before, clock = rss_anon_mb(), Clock()
    lease = host.lend(config)
    result["lend"], result["lend_mb"] = clock.seconds(), rss_anon_mb() - before
    run = Run(config, model=lease.model, previewer=lease.previewer)
    for event in run.events():
        if isinstance(event, TrainingStarted):
            result["first_step"], result["first_step_mb"] = clock.seconds(), rss_anon_mb() - before
        elif isinstance(event, StepDone):
            result["step_mb"] = rss_anon_mb() - before
            result["adapters_mb"] = adapters_mb(run)
    lease.give_back()
    clock = Clock()
    lease.take_again(put_back=True)
    result["again"] = clock.seconds()
    lease.give_back()
    clock = Clock()
    load_model(checkpoint)
    result["our_load"] = clock.seconds()
    return result


def forget_file(path: Path) -> None:
    """Let the system drop what it has of the file in memory."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def adapters_mb(run) -> float:
    """What AdamW keeps of the adapters: weights, gradients and two moments."""
    parameters = [parameter for group in run.optimizers.param_groups for parameter in group["params"]]
    return sum(4 * parameter.numel() * parameter.element_size() for parameter in parameters) / 2**20


def rss_anon_mb() -> float:
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


def print_table(found: dict) -> None:
    size, start = found["file_mb"], found["first_step"]
    of_disk, of_memory = (_shares(start, found[f"from_{name}"]) for name in ("disk", "memory"))
    rows = [
        ("the checkpoint's file", "", "", f"{size:.0f} MB"),
        ("its weights in the WebUI", "", "", f"{found['live_mb']:.0f} MB"),
        ("the WebUI loads it from the disk", *_seconds(found["from_disk"]), ""),
        ("the WebUI loads it from the system's memory", *_seconds(found["from_memory"]), ""),
        ("our loader loads it from there", *_seconds(found["our_load"]), ""),
        ("the model is lent", *_seconds(found["lend"]), f"{found['lend_mb']:+.0f} MB"),
        ("the job is at its first step", *_seconds(start), f"{found['first_step_mb']:+.0f} MB"),
        ("of loading from the disk, of the file's size", *of_disk, f"{100 * found['first_step_mb'] / size:.1f} %"),
        ("of loading from memory", *of_memory, ""),
        ("after the step", "", "", f"{found['step_mb']:+.0f} MB"),
        ("of which adapters, gradients and AdamW", "", "", f"{found['adapters_mb']:.0f} MB"),
        ("taken again after a pause", *_seconds(found["again"]), ""),
    ]
    print("| | time | processors' time | anonymous memory |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _shares(own: list[float], whole: list[float]) -> list[str]:
    return [f"{100 * part / all_of_it:.0f} %" for part, all_of_it in zip(own, whole)]


def _seconds(times: list[float]) -> list[str]:
    return [f"{seconds:.2f} s" for seconds in times]


if __name__ == "__main__":
    main()
