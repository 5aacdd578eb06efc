"""Seconds per step and the card's memory at full size, in less than eight minutes: ``python bench/gpu.py``.

Models of Stable Diffusion 1.5's and SDXL's exact shapes with random weights are made on the card, and a LoRA of rank 16
is trained on them by the very code that trains otherwise, at 512, 768 and 1024 px. Smaller cards are emulated by
allowing PyTorch so much of this one. With SD_SCRIPTS_DIR (and SD_SCRIPTS_PYTHON) sd-scripts trains beside it.

Columns: the median step; the most memory in use at a time while training ("peak"), and the most that PyTorch had taken
from the card ("taken"), which is what a small card must have.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from full_size import SIZES, random_tensors, shapes, write_checkpoint, write_vocabulary
from train_step import make_pictures, sd_scripts, sd_scripts_folder
from watch import watch

from lib_lora.base.errors import StudioError
from lib_lora.base.events import StepDone, TrainingStarted
from lib_lora.base.options import from_mapping
from lib_lora.models.loader import build_model
from lib_lora.models.model import DiffusionModel
from lib_lora.models.precision import cast_on_use
from lib_lora.text.tokenizer import Tokenizer
from lib_lora.training.config import TrainConfig
from lib_lora.training.run import Run

STEPS, WARM_UP = 6, 2
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, a resolution and the options beside the usual ones."""

    family: str
    side: int
    precision: str
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    card_gib: int | None = None

    @property
    def title(self) -> str:
        card = f"on {self.card_gib} GiB" if self.card_gib else ""
        return f"{self.family:<10} {self.side:>4} px  {self.precision:<5} {self.note:<26} {card:<9}"


CHECKPOINTING = {"gradient_checkpointing": True}
FRUGAL = {**CHECKPOINTING, "optimizer_type": "AdamW8bit"}


def rows(families: tuple[str, str], sides: tuple[int, ...], has: dict[str, bool]) -> Iterator[Row]:
    """What matters most comes first: time may run out."""
    sd, sdxl = families
    frugal, frugal_note = (FRUGAL, "8 bit, checkpointing") if has["bitsandbytes"] else (CHECKPOINTING, "checkpointing")
    for side in sides:
        yield Row(sd, side, "bf16")
        yield Row(sd, side, "bf16", "checkpointing", CHECKPOINTING)
    for card in (4, 6, 8):
        yield Row(sd, sides[0], "fp16", frugal_note, frugal, card)
    for side in sides:
        yield Row(sdxl, side, "bf16", "checkpointing", CHECKPOINTING)
    yield Row(sdxl, sides[-1], "bf16")
    for card in (8, 10, 12, 16):
        yield Row(sdxl, sides[-1], "fp16", frugal_note, frugal, card)
    for family, side in ((sd, sides[0]), (sdxl, sides[-1])):
        yield Row(family, side, "fp16", "checkpointing", CHECKPOINTING)
        for depth in (1, 2):
            note = f"checkpointing, depth {depth}"
            yield Row(family, side, "bf16", note, {**CHECKPOINTING, "gradient_checkpointing_depth": depth})
        if has["bitsandbytes"]:
            yield Row(family, side, "bf16", frugal_note, frugal)
        if has["xformers"]:
            yield Row(family, side, "bf16", "xformers, checkpointing", {**CHECKPOINTING, "attention": "xformers"})
    if has["triton"]:
        yield Row(sd, sides[0], "bf16", "torch_compile", {"torch_compile": True})


def make_model(family: str, device: torch.device, vocabulary: Path) -> DiffusionModel:
    """Weights in half precision on the card, as most checkpoints have them."""
    size = SIZES[family]
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    tokenizer = Tokenizer.from_folder(vocabulary)
    model = build_model(
        dict(random_tensors(shapes(size), dtype, device)),
        None,
        name=f"random-{family}",
        file=f"random {family}",
        tokenizers=[tokenizer] * len(size.text_encoders),
    )
    torch.nn.Module.to(model.vae, dtype=torch.float32)
    for module in model.modules():
        cast_on_use(module, model.compute_dtype)
    model.device = device
    return model


@dataclass
class Result:
    step_s: float
    peak_gib: float
    taken_gib: float

    def __str__(self) -> str:
        return f"{self.step_s:>8.3f} {self.peak_gib:>9.2f} {self.taken_gib:>9.2f}"


def train(row: Row, model: DiffusionModel, work: Path) -> Result:
    """Some steps of a real run.

    Raises:
        torch.cuda.OutOfMemoryError, StudioError: it cannot be done here.
    """
    device, steps, run = model.device, [], Run(_config(row, model.device, work), model=model)
    for event in run.events():
        if isinstance(event, TrainingStarted) and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif isinstance(event, StepDone):
            steps.append(event.seconds)
    peak, taken = 0, 0
    if device.type == "cuda":
        peak, taken = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return Result(statistics.median(steps[WARM_UP:]), peak / GIB, taken / GIB)


def _config(row: Row, device: torch.device, work: Path) -> TrainConfig:
    pictures = work / f"pictures{row.side}"
    if not pictures.is_dir():
        make_pictures(pictures, row.side, STEPS)
    values = {
        "pretrained_model_name_or_path": work / "random",
        "train_data_dir": pictures,
        "output_dir": work / "out",
        "output_name": "bench",
        "overwrite": True,
        "resolution": str(row.side),
        "enable_bucket": False,
        "network_dim": 16,
        "network_train_unet_only": row.family.endswith("sdxl"),
        "learning_rate": 1e-6,
        "max_train_steps": STEPS,
        "mixed_precision": row.precision,
        "device": str(device),
        **row.options,
    }
    return from_mapping(TrainConfig, values)


def try_row(row: Row, model: DiffusionModel, work: Path) -> str:
    """The numbers, or why there are none."""
    device = model.device
    try:
        if row.card_gib:
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, row.card_gib * GIB / torch.cuda.get_device_properties(device).total_memory), device
            )
        return str(train(row, model, work))
    except (torch.cuda.OutOfMemoryError, StudioError) as error:
        return f"   {str(error).splitlines()[0][:110]}"
    finally:
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        _empty(device)


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def run_sd_scripts(row: Row, device: torch.device, work: Path) -> str:
    """The same row by sd-scripts; memory is what the whole card has more in use than before."""
    checkpoint = write_checkpoint(work, SIZES[row.family], torch.float16, row.family)
    before, lowest = torch.cuda.mem_get_info(device)[0], []
    flags = {
        "pretrained_model_name_or_path": checkpoint,
        "train_data_dir": work / f"pictures{row.side}",
        "output_dir": work / "out",
        "output_name": "theirs",
        "resolution": row.side,
        "network_dim": 16,
        "network_alpha": 8,
        "learning_rate": 1e-6,
        "optimizer_type": "AdamW",
        "max_train_steps": STEPS,
        "mixed_precision": row.precision,
        "caption_extension": ".txt",
        "seed": 1,
    }
    script = "sdxl_train_network.py" if row.family.endswith("sdxl") else "train_network.py"
    command = sd_scripts(script, work) + [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    command += ["--gradient_checkpointing"] if row.options.get("gradient_checkpointing") else []
    if row.family.endswith("sdxl"):
        command += ["--network_train_unet_only", "--cache_text_encoder_outputs", "--no_half_vae"]
    try:
        seen = watch(
            command, sd_scripts_folder(), dict(os.environ), lambda: lowest.append(torch.cuda.mem_get_info(device)[0])
        )
    except RuntimeError as error:
        return f"   failed: {str(error).splitlines()[-1][:100]}"
    return f"{seen.step():>8.3f} {'':>9} {(before - min(lowest)) / GIB:>9.2f}"


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA card here, or this PyTorch cannot use it: nothing to measure.")
    return torch.device(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5, help="no row is begun after this (default: 7.5)")
    # For the test: everything but the sizes, where there is no card.
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = _device(args.device)
    families = ("tiny-sd15", "tiny-sdxl") if args.tiny else ("sd15", "sdxl")
    has = {name: importlib.util.find_spec(name) is not None for name in ("bitsandbytes", "xformers", "triton")}
    has = {name: found and device.type == "cuda" for name, found in has.items()}
    table = list(rows(families, (64,) if args.tiny else (512, 768, 1024), has))
    if device.type != "cuda":
        table = [row for row in table if not row.card_gib and row.precision == "bf16"]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{card}; PyTorch {torch.__version__}; " + ", ".join(n if found else f"no {n}" for n, found in has.items()))
    title = f"{'model':<10} {'size':>7}  {'type':<5} {'options':<26} {'card':<9}"
    print(title, f"{'s/step':>8} {'peak GiB':>9} {'taken GiB':>9}")
    measure(table, device, args.minutes * 60)


def measure(table: list[Row], device: torch.device, limit_s: float) -> None:
    """Print row after row, one model after the other, as long as there is time."""
    deadline, left_out = time.perf_counter() + limit_s, 0
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        vocabulary = write_vocabulary(work / "vocabulary")
        for family, own in itertools.groupby(sorted(table, key=lambda row: row.family), lambda row: row.family):
            own = list(own)
            # Each model has its share of the time that is left.
            now, later = time.perf_counter(), sum(row.family > family for row in table)
            until = now + (deadline - now) * len(own) / (len(own) + later)
            model, done = make_model(family, device, vocabulary), 0
            for row in own:
                if time.perf_counter() > until:
                    break
                print(row.title, try_row(row, model, work), flush=True)
                done += 1
            left_out += len(own) - done
            del model
            _empty(device)
            if "SD_SCRIPTS_DIR" in os.environ and device.type == "cuda" and time.perf_counter() < until:
                beside = own[1 if family == "sd15" else 0]
                print(f"{beside.title} {run_sd_scripts(beside, device, work)}   (sd-scripts)", flush=True)
    if left_out:
        print(f"{left_out} rows were left out: the time is up; --minutes gives more")


if __name__ == "__main__":
    main()
