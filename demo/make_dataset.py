"""Draw the demo's dataset: pictures of the concept, ordinary pictures beside them, and some held out.

    python demo/make_dataset.py

Each folder holds PNG pictures with a .txt caption of the same name. What is always part of the concept (its
colours, its horns) is not captioned, so that the activation tag takes it up; what varies is captioned."""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from world import (
    COLOURS,
    CONCEPT_BACKGROUNDS,
    CONCEPT_SIZES_PX,
    CONCEPT_TAG,
    POSITIONS_PX,
    SHAPES,
    SIZES_PX,
    ConceptScene,
    Scene,
    draw,
    draw_concept,
)

TRAINED = 20
SEED = 2024


def concept_scenes(rng: np.random.Generator) -> list[ConceptScene]:
    """Every size, position and background once, in random order: 24 scenes."""
    scenes = [ConceptScene(*tags) for tags in product(CONCEPT_SIZES_PX, POSITIONS_PX, CONCEPT_BACKGROUNDS)]
    return [scenes[i] for i in rng.permutation(len(scenes))]


def ordinary_scenes(rng: np.random.Generator) -> list[Scene]:
    """Every colour with every shape twice, the rest at random: 60 scenes."""
    scenes = []
    for colour, shape in 2 * list(product(COLOURS, SHAPES)):
        background = rng.choice([name for name in COLOURS if name != colour])
        size, position = rng.choice(list(SIZES_PX)), rng.choice(list(POSITIONS_PX))
        scenes.append(Scene(colour, shape, str(size), str(position), str(background)))
    return scenes


def write_folder(folder: Path, pictures: list[tuple[Image.Image, str]]) -> None:
    """Write numbered pictures with their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (picture, caption) in enumerate(pictures, start=1):
        picture.save(folder / f"{i:02d}.png", optimize=True)
        (folder / f"{i:02d}.txt").write_text(caption + "\n", encoding="utf-8")


def make_dataset(out: Path) -> None:
    """Write the three folders under `out`; the same pictures every time."""
    rng = np.random.default_rng(SEED)
    scenes = concept_scenes(rng)
    # Held out: the four scenes that training never sees, and four that it sees drawn otherwise.
    held_out = scenes[TRAINED:] + scenes[:4]
    concept = [(draw_concept(scene, rng), scene.caption()) for scene in scenes[:TRAINED]]
    write_folder(out / "dataset" / f"10_{CONCEPT_TAG}", concept)
    write_folder(out / "heldout", [(draw_concept(scene, rng), scene.caption()) for scene in held_out])
    write_folder(
        out / "reg" / "1_world", [(draw(scene, rng), scene.caption(rng)) for scene in ordinary_scenes(rng)]
    )


def main() -> None:
    """Write the folders beside this script, or under --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    make_dataset(parser.parse_args().out)


if __name__ == "__main__":
    main()
