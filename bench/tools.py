"""How long the tools take, and how much memory: ours beside sd-scripts', whole processes.

    SD_SCRIPTS_DIR=... SD_SCRIPTS_PYTHON=... python bench/tools.py

Both do the same work through their own command lines: two LoRAs of rank 128 in fp16 with the modules of sd-scripts,
and two checkpoints of Stable Diffusion 1.5's exact shapes in fp16, all with random numbers of decaying spectra. They
take turns, so that a busy machine is busy for both. Beside the times stand the errors: of some layers, how far above
the best approximation of its rank each result is (in float64). Without SD_SCRIPTS_DIR ours runs alone. Linux only:
memory is read from /proc.

``--size sdxl --tools bake extract`` shows what ours holds of a file of 6.9 GB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from full_size import SIZES, Size, shapes, write_checkpoint
from safetensors import safe_open
from watch import Measured, measure

from lib_lora.adapters.network import Network
from lib_lora.adapters.save import tensor_data
from lib_lora.adapters.spec import NetworkSpec
from lib_lora.files.safetensors_file import TensorData, write_safetensors

ROOT = Path(__file__).resolve().parent.parent
CHECKED_LAYERS = 6


class Files(NamedTuple):
    """What the tools work on. ``loras`` and ``conv_loras`` are two each, the latter with 3x3 convolutions."""

    original: Path
    tuned: Path
    loras: tuple[Path, Path]
    conv_loras: tuple[Path, Path]


class Job(NamedTuple):
    """One piece of work: our flags and sd-scripts' script and flags, without the output's."""

    ours: Sequence[object]
    script: str
    theirs: Sequence[object]
    check: Callable[[Path], float] | None = None


def write_files(folder: Path, size: Size, args: argparse.Namespace) -> Files:
    """Nothing is done for files that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    original = write_checkpoint(folder, size, torch.float16, f"{args.size}-original")
    tuned = folder / f"{args.size}-tuned.safetensors"
    if not tuned.is_file():
        _write_tuned(original, tuned, size)
    loras = [_lora(folder, size, args, number, conv_rank) for conv_rank in (None, args.rank // 2) for number in (0, 1)]
    return Files(original, tuned, (loras[0], loras[1]), (loras[2], loras[3]))


def _write_tuned(original: Path, path: Path, size: Size) -> None:
    """Every matrix moves by one of rank 64, decaying, and by noise."""
    generator = torch.Generator().manual_seed(3)
    opened = safe_open(str(original), "pt")

    def moved(name: str) -> torch.Tensor:
        weight = opened.get_tensor(name)
        if weight.dim() < 2 or "first_stage_model" in name or "embedding" in name:
            return weight
        rows = weight.float().flatten(1)
        rank = min(64, *rows.shape)
        up = torch.randn(rows.shape[0], rank, generator=generator) * 0.93 ** torch.arange(rank)
        change = up @ torch.randn(rank, rows.shape[1], generator=generator)
        noise = torch.randn(rows.shape, generator=generator)
        rows = rows + 0.05 * rows.norm() * (change / change.norm() + 0.3 * noise / noise.norm())
        return rows.reshape(weight.shape).half()

    tensors = {
        name: TensorData("F16", shape, lambda name=name: tensor_data({name: moved(name)})[name].bytes())
        for name, shape in shapes(size).items()
    }
    write_safetensors(path, tensors, {"format": "pt"})


def _lora(folder: Path, size: Size, args: argparse.Namespace, number: int, conv_rank: int | None) -> Path:
    path = folder / f"{args.size}-lora{number}{'-conv' if conv_rank else ''}.safetensors"
    if path.is_file():
        return path
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**size.unet)
        encoders = [CLIPTextModel(CLIPTextConfig(**config)) for config in size.text_encoders]
    spec = NetworkSpec(args.rank, args.rank / 2, conv_rank=conv_rank, conv_alpha=16)
    generator = torch.Generator().manual_seed(number)
    tensors = {}
    for adapter in Network.create(unet, encoders, spec, seed=0):
        for suffix, like in adapter.state_tensors().items():
            tensor = torch.tensor(float(adapter.alpha))
            if suffix != "alpha":
                tensor = 0.02 * torch.randn(like.shape, generator=generator)
            if suffix == "lora_up.weight":
                ranks = torch.arange(like.shape[1]).reshape(1, -1, *[1] * (like.dim() - 2))
                tensor = tensor * 0.97**ranks
            tensors[f"{adapter.key}.{suffix}"] = tensor.half()
    write_safetensors(path, tensor_data(tensors), {"ss_network_module": "networks.lora"})
    return path


def jobs(files: Files, args: argparse.Namespace) -> dict[str, Job]:
    """The work by name; ranks as in the measurements of sd-scripts that these are held against."""
    low, middle = args.rank // 8, args.rank // 2
    found = {}
    for name, loras, conv in (("", files.loras, ()), ("-conv", files.conv_loras, ("--new_conv_rank", low // 2))):
        first, both = loras[0], list(loras)
        found[f"resize{name}"] = Job(
            ["resize", "--model", first, "--new_rank", low, *conv],
            "resize_lora.py",
            ["--model", first, "--new_rank", low, *conv, "--save_precision", "fp16"],
            lambda output, first=first: excess_of_resize(first, output),
        )
        conv = ("--new_conv_rank", middle // 2) if conv else ()
        ratios = ["--ratios", 0.7, 0.4]
        found[f"merge{name}"] = Job(
            ["merge", "--models", *both, *ratios, "--new_rank", middle, *conv, "--save_precision", "fp16"],
            "svd_merge_lora.py",
            ["--models", *both, *ratios, "--new_rank", middle, *conv, "--save_precision", "fp16"],
        )
        found[f"bake{name}"] = Job(
            ["bake", "--checkpoint", files.original, "--models", first, "--ratios", 0.7],
            "merge_lora.py",
            ["--sd_model", files.original, "--models", first, "--ratios", 0.7, "--save_precision", "fp16"],
        )
        dims = ["--dim", args.rank // 4, *(("--conv_dim", args.rank // 8) if conv else ())]
        pair = ["--model_org", files.original, "--model_tuned", files.tuned]
        check = None if args.size.endswith("xl") else lambda output: excess_of_extract(files, output)
        found[f"extract{name}"] = Job(
            ["extract", *pair, *dims],
            "extract_lora_from_models.py",
            [*pair, *dims, "--save_precision", "fp16"],
            check,
        )
    return found


def excess_of_resize(source: Path, output: Path) -> float:
    """The largest error above the best of its rank, as a share of the best, of some layers."""
    return max(_excess(_delta(source, key), _delta(output, key), _rank(output, key)) for key in _some_modules(output))


# Layers whose names need no table.
_LAYERS = {
    "lora_te_text_model_encoder_layers_1_mlp_fc1": "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1",
    "lora_unet_mid_block_attentions_0_proj_in": "model.diffusion_model.middle_block.1.proj_in",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": (
        "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.0.proj"
    ),
}


def excess_of_extract(files: Files, output: Path) -> float:
    """As ``excess_of_resize``."""
    found = []
    for key, layer in _LAYERS.items():
        before, after = (_tensor(path, f"{layer}.weight").double().flatten(1) for path in (files.original, files.tuned))
        found.append(_excess(after - before, _delta(output, key), _rank(output, key)))
    return max(found)


def _excess(wanted: torch.Tensor, made: torch.Tensor, rank: int) -> float:
    squares = torch.linalg.eigvalsh(wanted.T @ wanted if wanted.shape[0] > wanted.shape[1] else wanted @ wanted.T)
    best = squares.clamp_min(0)[: len(squares) - rank].sum().sqrt()
    return float((made - wanted).norm() / best - 1)


def _some_modules(path: Path) -> list[str]:
    with safe_open(str(path), "pt") as file:
        keys = sorted({key.split(".")[0] for key in file.keys()})  # noqa: SIM118 - it is no mapping
    return keys[:: max(1, len(keys) // CHECKED_LAYERS)]


def _tensor(path: Path, key: str) -> torch.Tensor:
    with safe_open(str(path), "pt") as file:
        return file.get_tensor(key)


def _rank(path: Path, key: str) -> int:
    return _tensor(path, f"{key}.lora_down.weight").shape[0]


def _delta(path: Path, key: str) -> torch.Tensor:
    up, down = (_tensor(path, f"{key}.lora_{side}.weight").double().flatten(1) for side in ("up", "down"))
    return float(_tensor(path, f"{key}.alpha")) / down.shape[0] * up @ down


def run_ours(job: Job, output: Path) -> Measured:
    command = [sys.executable, "-m", "lib_lora", *job.ours, "--output", output, "--overwrite"]
    return measure([str(part) for part in command], ROOT, {**os.environ, "PYTHONPATH": str(ROOT)})


def run_theirs(job: Job, output: Path) -> Measured:
    folder = Path(os.environ["SD_SCRIPTS_DIR"])
    python = os.environ.get("SD_SCRIPTS_PYTHON", sys.executable)
    command = [python, folder / "networks" / job.script, *job.theirs, "--save_to", output]
    return measure([str(part) for part in command], folder, {**os.environ, "PYTHONPATH": str(folder)})


def compare(name: str, job: Job, args: argparse.Namespace, folder: Path) -> None:
    """Print a line for each side, and the ratios."""
    sides = {"ours": run_ours} | ({"sd-scripts": run_theirs} if os.environ.get("SD_SCRIPTS_DIR") else {})
    runs: dict[str, list[Measured]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, run in sides.items():
            runs[side].append(run(job, folder / f"{side}.safetensors"))
    medians = {side: _medians(own) for side, own in runs.items()}
    for side, (seconds, cpu_s, anon, rss) in medians.items():
        words = f"{seconds:7.1f} s {cpu_s:7.1f} s CPU {anon:7.0f} MB own {rss:7.0f} MB resident"
        error = f"  {job.check(folder / f'{side}.safetensors'):9.2e} above the best" if job.check else ""
        print(f"{name:13} {side:11}{words}{error}", flush=True)
    if "sd-scripts" in medians:
        clock, cpu, anon, _ = (theirs / ours for theirs, ours in zip(medians["sd-scripts"], medians["ours"]))
        print(f"{name:13} ratio      {clock:7.1f} {cpu:9.1f} CPU {anon:11.1f} memory", flush=True)


def _medians(runs: Sequence[Measured]) -> tuple[float, ...]:
    columns = zip(*((run.seconds, run.cpu_s, run.peak_anon_mb, run.peak_rss_mb) for run in runs))
    return tuple(statistics.median(column) for column in columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--rank", type=int, default=128, help="of the LoRAs")
    parser.add_argument("--tools", nargs="*", help="of: resize, merge, bake, extract, each also with -conv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the files here for the next time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        work = jobs(write_files(folder, SIZES[args.size], args), args)
        for name in args.tools or work:
            compare(name, work[name], args, folder)


if __name__ == "__main__":
    main()
