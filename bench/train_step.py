"""How long a training step takes, how long it takes to get there, and how much memory: ours beside sd-scripts'.

    SD_SCRIPTS_DIR=... SD_SCRIPTS_PYTHON=... python bench/train_step.py

Both train a LoRA through their own command line on the same checkpoint of Stable Diffusion 1.5's exact shapes with
random weights, with the same pictures and options. They take turns, so that a busy machine is busy for both; what
counts is the ratio, of the processors' time ("CPU") above all. Without SD_SCRIPTS_DIR ours runs alone. Linux only:
memory and times are read from /proc.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from full_size import SIZES, write_checkpoint, write_vocabulary
from PIL import Image
from watch import Watched, watch

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 4


def make_pictures(folder: Path, side: int, steps: int) -> Path:
    """One epoch of ``steps`` steps or more at batch 1."""
    concept = folder / f"{-(-steps // PICTURES)}_thing"
    concept.mkdir(parents=True)
    for index in range(PICTURES):
        Image.effect_noise((side, side), 40 + 10 * index).convert("RGB").save(concept / f"{index}.png")
        (concept / f"{index}.txt").write_text(f"a picture of thing number {index}", encoding="utf-8")
    return folder


def common_options(args: argparse.Namespace, checkpoint: Path, pictures: Path, output: Path) -> list[str]:
    """What both command lines call by the same name."""
    options = {
        "pretrained_model_name_or_path": checkpoint,
        "train_data_dir": pictures,
        "output_dir": output,
        "output_name": "bench",
        "resolution": args.resolution,
        "train_batch_size": args.batch,
        "max_train_steps": args.steps,
        "network_dim": args.rank,
        "network_alpha": args.rank,
        "learning_rate": 1e-4,
        "optimizer_type": "AdamW",
        "lr_scheduler": "constant",
        "mixed_precision": args.mixed_precision,
        "save_precision": "fp16",
        "caption_extension": ".txt",
        "seed": 1,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    flags += ["--network_train_unet_only"] if args.unet_only else []
    return flags + (["--gradient_checkpointing"] if args.gradient_checkpointing else [])


def run_ours(args: argparse.Namespace, flags: list[str], _work: Path) -> Watched:
    own = ["--no-enable_bucket", "--device", "cpu", "--overwrite", *args.more]
    command = [sys.executable, "-m", "lib_lora", "train", *flags, *own]
    return watch(command, ROOT, _environment(args))


def run_theirs(args: argparse.Namespace, flags: list[str], work: Path) -> Watched:
    own = ["--max_data_loader_n_workers", "0"]
    return watch([*sd_scripts("train_network.py", work), *flags, *own], sd_scripts_folder(), _environment(args))


def sd_scripts_folder() -> Path:
    return Path(os.environ["SD_SCRIPTS_DIR"])


def sd_scripts(script: str, work: Path) -> list[str]:
    """The beginning of its command line: a LoRA with cached latents, PyTorch's attention and a made vocabulary."""
    for name in ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"):
        write_vocabulary(work / "tokenizers" / name)
    command = [os.environ.get("SD_SCRIPTS_PYTHON", sys.executable), script, "--network_module", "networks.lora"]
    command += ["--tokenizer_cache_dir", str(work / "tokenizers"), "--save_model_as", "safetensors"]
    return [*command, "--cache_latents", "--sdpa"]


def _environment(args: argparse.Namespace) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(args.threads),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


MEASURES = {
    "s per step": lambda seen: seen.step(),
    "s per step, CPU": lambda seen: seen.step(cpu=True),
    "s to the end of step 1": lambda seen: seen.first_step(),
    "s to step 1's end, CPU": lambda seen: seen.first_step(cpu=True),
    "peak RssAnon MB": lambda seen: seen.peak_anon_mb,
    "peak RSS MB": lambda seen: seen.peak_rss_mb,
}


def show(runs: dict[str, list[Watched]]) -> None:
    """Medians over the rounds, and ours divided by theirs."""
    names = list(runs)
    header = [f"{name:>12}" for name in names] + (["       ratio"] if len(names) == 2 else [])
    print(f"{'':<26}{''.join(header)}   (all rounds)")
    for title, measure in MEASURES.items():
        values = [[measure(seen) for seen in runs[name]] for name in names]
        middle = [statistics.median(each) for each in values]
        cells = [f"{value:>12.2f}" for value in middle]
        if len(middle) == 2:
            cells.append(f"{middle[0] / middle[1]:>12.2f}")
        rounds = "; ".join(", ".join(f"{value:.2f}" for value in each) for each in values)
        print(f"{title:<26}{''.join(cells)}   ({rounds})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--mixed_precision", default="no")
    parser.add_argument("--unet-only", action="store_true")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--weights", choices=("float32", "float16"), default="float32")
    parser.add_argument("--size", choices=("sd15", "tiny-sd15"), default="sd15")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--folder", type=Path, help="keeps the checkpoint (4.3 GB) for the next time")
    args, args.more = parser.parse_known_args()  # what is unknown here goes to ours alone
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        checkpoint = write_checkpoint(
            args.folder or work, SIZES[args.size], getattr(torch, args.weights), f"{args.size}-{args.weights}"
        )
        pictures = make_pictures(work / "pictures", args.resolution, args.steps)
        flags = common_options(args, checkpoint, pictures, work / "output")
        sides = {"ours": run_ours, "sd-scripts": run_theirs}
        if args.ours_only or "SD_SCRIPTS_DIR" not in os.environ:
            print("SD_SCRIPTS_DIR is not set: ours alone" if not args.ours_only else "ours alone")
            del sides["sd-scripts"]
        runs: dict[str, list[Watched]] = {name: [] for name in sides}
        for number in range(1, args.rounds + 1):
            for name, run in sides.items():
                runs[name].append(run(args, flags, work))
            print(f"after round {number} of {args.rounds}:")
            show(runs)


if __name__ == "__main__":
    main()
