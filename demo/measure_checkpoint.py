"""Measure how well the demo checkpoint follows prompts: 200 fresh prompts and seeds, judged on the pixels.

    python demo/measure_checkpoint.py --sheet sheet.png

Exits with status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from latents import tensor_pictures
from ldm_layout import TEXT_PREFIX
from sample import sample_latents
from text_encoder import caption_ids, encode
from unet import make_unet
from vae import decode, make_vae
from world import PICTURE_PX, TAGS, Scene, agreement, random_scene

MODEL = Path(__file__).parent / "model" / "lora-studio-demo.safetensors"
BARS = {"colour": 0.95, "background": 0.95, "position": 0.90, "shape": 0.85}
PROMPT_SEED = 20_240_817
Generate = Callable[[list[str], list[int]], list[Image.Image]]


def load_generator(checkpoint: Path, steps: int, guidance: float, eta: float) -> Generate:
    """A function from prompts and seeds to pictures, with the networks of a checkpoint file."""
    weights = {name: tensor.float() for name, tensor in load_file(checkpoint).items()}
    unet, vae = make_unet().eval(), make_vae().eval()
    unet.load_state_dict(convert_ldm_unet_checkpoint(dict(weights), dict(unet.config)))
    vae.load_state_dict(convert_ldm_vae_checkpoint(dict(weights), dict(vae.config)))
    clip_folder = checkpoint.with_name(checkpoint.stem + "-clip")
    tokenizer, encoder = CLIPTokenizer.from_pretrained(clip_folder), load_text_encoder(clip_folder, weights)

    @torch.no_grad()
    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        context = encode(encoder, caption_ids(prompts, tokenizer))
        empty = encode(encoder, caption_ids([""], tokenizer))
        return tensor_pictures(decode(vae, sample_latents(unet, context, empty, seeds, steps, guidance, eta)))

    return generate


def load_text_encoder(clip_folder: Path, weights: dict[str, torch.Tensor]) -> CLIPTextModel:
    """The text encoder of the folder's config with the checkpoint's weights."""
    encoder = CLIPTextModel(CLIPTextModel.config_class.from_pretrained(clip_folder)).eval()
    prefix = "text_model." if any(name.startswith("text_model.") for name in encoder.state_dict()) else ""
    text = {
        prefix + name.removeprefix(TEXT_PREFIX): w
        for name, w in weights.items()
        if name.startswith(TEXT_PREFIX)
    }
    encoder.load_state_dict(text)
    return encoder


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
    parser.add_argument(
        "--eta", type=float, default=1.0, help="1: ancestral sampling as Euler a; 0: plain DDIM"
    )
    parser.add_argument("--sheet", type=Path, help="write the first 100 pictures to this PNG")
    args = parser.parse_args()
    generate = load_generator(args.checkpoint, args.steps, args.guidance, args.eta)
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
