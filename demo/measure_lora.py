"""Measure what a LoRA has learnt of the demo concept, and what it has changed that it should have left alone.

    python demo/measure_lora.py models/Lora/demo.safetensors

Prints a table: the loss on held-out pictures at fixed noise and timesteps with and without the LoRA, with the
activation tag and without it; the share of pictures made with the tag that show the concept; how many prompts
without the tag the base model and the LoRA follow; and that strength 0 is the base model. Exits with status 1 when
a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from lib_lora.base.protocols import PictureRequest  # noqa: E402
from lib_lora.dataset.images import fit_to_bucket, load_image  # noqa: E402
from lib_lora.dataset.plan import Bucket  # noqa: E402
from lib_lora.files.captions import read_caption  # noqa: E402
from lib_lora.hosts.standalone.generator import StandaloneGenerator  # noqa: E402
from lib_lora.models.loader import load_model  # noqa: E402
from lib_lora.models.prompt import encode_captions  # noqa: E402
from lib_lora.training.draws import Draws  # noqa: E402
from lib_lora.training.noise import sample_noise  # noqa: E402
from lib_lora.training.objectives import DenoisingOptions, NoiseSchedule, denoising_loss  # noqa: E402
from world import CONCEPT_TAG, PICTURE_PX, agreement, random_concept_scene, random_scene, shows_concept  # noqa: E402

PICTURE = {
    "steps": 25,
    "sampler": "Euler a",
    "cfg_scale": 3.0,
    "width": PICTURE_PX,
    "height": PICTURE_PX,
}
SEED = 77_000
TIMESTEPS = tuple(range(25, 1000, 50))
STRUCTURE = 500  # above this timestep the shape is decided


@dataclass(frozen=True)
class HeldOut:
    """A picture that was never trained on: latent [4,h,w] and caption."""

    latent: torch.Tensor
    caption: str


class LoraMeasure:
    """A checkpoint, a LoRA file and everything that is measured of them."""

    def __init__(self, checkpoint: Path, lora: Path) -> None:
        self.model = load_model(checkpoint)
        self.generator = StandaloneGenerator(self.model, lora.parent)
        self.tag = f" <lora:{lora.stem}:1>"
        self.name = lora.stem

    @torch.no_grad()
    def held_out(self, folder: Path) -> list[HeldOut]:
        pictures = []
        for path in sorted(folder.glob("*.png")):
            size = (PICTURE_PX, PICTURE_PX)
            pixels = torch.from_numpy(fit_to_bucket(load_image(path), Bucket(size, size)).pixels)
            image = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
            latent = self.model.vae.encode(image).latent_dist.mean[0] * self.model.vae.config.scaling_factor
            pictures.append(HeldOut(latent, read_caption(path.with_suffix(".txt")).text))
        return pictures

    @torch.no_grad()
    def losses(self, pictures: Sequence[HeldOut], *, strength: float, with_tag: bool) -> np.ndarray:
        """The plain loss [pictures, timesteps]; noise and timesteps are the same in every call."""
        schedule = NoiseSchedule(self.model.alphas_cumprod, self.model.prediction_type)
        timesteps = torch.tensor(TIMESTEPS)
        rows = []
        with self.generator.active(f"<lora:{self.name}:{strength}>"):
            for index, picture in enumerate(pictures):
                caption = picture.caption if with_tag else without_tag(picture.caption)
                context = encode_captions(self.model, [caption]).context.expand(len(timesteps), -1, -1)
                noise = sample_noise(picture.latent.shape, SEED, index, range(len(timesteps)))
                latents = picture.latent[None].expand(len(timesteps), -1, -1, -1)
                terms = denoising_loss(
                    lambda x, t, c: self.model.unet(x, t, encoder_hidden_states=c).sample,
                    latents,
                    context,
                    torch.ones(len(timesteps)),
                    Draws(noise, timesteps),
                    schedule,
                    DenoisingOptions(),
                )
                rows.append(terms.raw.numpy())
        return np.stack(rows)

    def pictures(self, prompts: Sequence[str], what: str, *, lora: str = "") -> list[Image.Image]:
        return [
            self.generator.generate(PictureRequest(prompt + lora, seed=SEED + index, **PICTURE))
            for index, prompt in enumerate(tqdm(prompts, desc=what, unit="picture", mininterval=5))
        ]


def without_tag(caption: str) -> str:
    return ", ".join(tag for tag in caption.split(", ") if tag != CONCEPT_TAG)


def measure_loss(measure: LoraMeasure) -> list[tuple[str, float, str]]:
    pictures = measure.held_out(HERE / "heldout")
    structure = np.array(TIMESTEPS) >= STRUCTURE
    rows, fall = [], {}
    for with_tag in (True, False):
        base = measure.losses(pictures, strength=0, with_tag=with_tag)
        lora = measure.losses(pictures, strength=1, with_tag=with_tag)
        words = "with the tag" if with_tag else "without the tag"
        fall[with_tag] = 1 - lora.mean() / base.mean()
        rows.append(
            (
                f"held-out loss {words}: base {base.mean():.4f}, LoRA {lora.mean():.4f}, lower by",
                fall[with_tag],
                "bar 15%" if with_tag else "bar: clearly less than with it",
            )
        )
        rows.append(
            (
                f"  the same at timesteps >= {STRUCTURE}: {base[:, structure].mean():.4f}, "
                f"{lora[:, structure].mean():.4f}, lower by",
                1 - lora[:, structure].mean() / base[:, structure].mean(),
                "",
            )
        )
    return rows


def measure_pictures(measure: LoraMeasure, concepts: int, ordinary: int) -> list[tuple[str, float, str]]:
    rng = np.random.default_rng(SEED)
    prompts = [random_concept_scene(rng).caption() for _ in range(concepts)]
    scenes = [random_scene(rng) for _ in range(ordinary)]
    captions = [scene.caption(rng) for scene in scenes]
    shown = {
        lora: [shows_concept(p) for p in measure.pictures(prompts, "with the tag", lora=lora)]
        for lora in ("", measure.tag)
    }
    rows = [
        (f"pictures with the tag that show the concept, {words}", float(np.mean(shown[lora])), bar)
        for lora, words, bar in (("", "base", ""), (measure.tag, "LoRA", "bar 80%"))
    ]
    right = {}
    for lora in ("", measure.tag):
        pictures = measure.pictures(captions, "without the tag", lora=lora)
        right[lora] = np.array([all(agreement(scene, picture).values()) for scene, picture in zip(scenes, pictures)])
        leaked = float(np.mean([shows_concept(picture) for picture in pictures]))
        words = "LoRA" if lora else "base"
        rows.append((f"prompts without the tag right in everything, {words}", float(right[lora].mean()), ""))
        rows.append((f"  of them showing the concept, {words}", leaked, ""))
    kept = float(right[measure.tag][right[""]].mean()) if right[""].any() else 0.0
    rows.append(("prompts that the base gets right and the LoRA too", kept, "bar 80%"))
    return rows


def measure_zero(measure: LoraMeasure) -> list[tuple[str, float, str]]:
    """Strength 0 must give the base model's picture exactly."""
    prompt = f"{CONCEPT_TAG}, left, blue background"
    base, zero = (measure.pictures([prompt], "strength 0", lora=lora)[0] for lora in ("", f" <lora:{measure.name}:0>"))
    return [
        (
            "strength 0 gives the base model's picture exactly",
            float(base.tobytes() == zero.tobytes()),
            "bar 100%",
        )
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "model" / "lora-studio-demo.safetensors")
    parser.add_argument("--concepts", type=int, default=50, help="pictures made with the tag")
    parser.add_argument("--ordinary", type=int, default=100, help="prompts without the tag")
    options = parser.parse_args()
    measure = LoraMeasure(options.checkpoint, options.lora)
    missed = 0
    measure_made = partial(measure_pictures, concepts=options.concepts, ordinary=options.ordinary)
    for measure_some in (measure_loss, measure_zero, measure_made):
        for words, share, bar in measure_some(measure):
            figures = [int(part[:-1]) for part in bar.split() if part.endswith("%")]
            missed += bool(figures) and share < figures[0] / 100
            print(f"{words:<75} {share:7.1%}  {bar}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
