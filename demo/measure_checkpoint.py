"""Measure how well the demo checkpoint follows prompts: 200 fresh prompts and seeds, judged on the pixels.

    python demo/measure_checkpoint.py --sheet sheet.png

Exits with status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lib_lora.models.loader import load_model  # noqa: E402
from lib_lora.models.sampling import generate as make_picture  # noqa: E402
from world import PICTURE_PX, TAGS, Scene, agreement, random_scene  # noqa: E402

MODEL = HERE / "model" / "lora-studio-demo.safetensors"
BARS = {"colour": 0.95, "background": 0.95, "position": 0.90, "shape": 0.85}
PROMPT_SEED = 20_240_817
Generate = Callable[[list[str], list[int]], list[Image.Image]]


def load_generator(checkpoint: Path, sampler: str, steps: int, guidance: float) -> Generate:
    """A function from prompts and seeds to pictures: the project's own loader and sampler."""
    model = load_model(checkpoint)
    settings = {
        "sampler": sampler,
        "steps": steps,
        "cfg_scale": guidance,
        "width": PICTURE_PX,
        "height": PICTURE_PX,
    }

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        return [
            Image.fromarray(make_picture(model, prompt, seed=seed, **settings))
            for prompt, seed in zip(prompts, seeds)
        ]

    return generate


def measure_prompts(generate: Generate, n: int, batch: int = 20) -> tuple[list[Scene], list[Image.Image]]:
    """n random scenes and the pictures that their captions give."""
    rng = np.random.default_rng(PROMPT_SEED)
    scenes, pictures = [random_scene(rng) for _ in range(n)], []
    for start in range(0, n, batch):
        prompts = [scene.caption(rng) for scene in scenes[start : start + batch]]
        pictures += generate(prompts, [PROMPT_SEED + start + i for i in range(len(prompts))])
        print(f"{len(pictures)} of {n} pictures", flush=True)
    return scenes, pictures


def count_right(scenes: list[Scene], pictures: list[Image.Image]) -> dict[str, int]:
    """For each field, how many pictures show what was asked for."""
    judged = [agreement(scene, picture) for scene, picture in zip(scenes, pictures)]
    return {field: sum(one[field] for one in judged) for field in TAGS}


def contact_sheet(pictures: list[Image.Image], columns: int = 10) -> Image.Image:
    """All pictures in one, row by row."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * PICTURE_PX, rows * PICTURE_PX))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * PICTURE_PX, i // columns * PICTURE_PX))
    return sheet


def main() -> int:
    """Print the table; 0 when every bar is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=MODEL)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--sampler", default="Euler a")
    parser.add_argument("--sheet", type=Path, help="write the first 100 pictures to this PNG")
    args = parser.parse_args()
    generate = load_generator(args.checkpoint, args.sampler, args.steps, args.guidance)
    scenes, pictures = measure_prompts(generate, args.n)
    if args.sheet:
        contact_sheet(pictures[:100]).save(args.sheet)
    right = count_right(scenes, pictures)
    for field, n in right.items():
        bar = f"bar {BARS[field]:.0%}" if field in BARS else ""
        print(f"{field:12} {n}/{args.n}  {n / args.n:6.1%}  {bar}")
    return int(any(right[field] < bar * args.n for field, bar in BARS.items()))


if __name__ == "__main__":
    raise SystemExit(main())
