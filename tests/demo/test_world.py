"""The demo's judge must itself be right, and the bundled files must fit together."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_lora.base.options import from_mapping
from lib_lora.files.toml_file import read_toml
from lib_lora.models.loader import load_model
from lib_lora.models.sampling import generate
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import make_plan

DEMO = Path(__file__).parents[2] / "demo"
sys.path.insert(0, str(DEMO))

import world  # noqa: E402


def test_the_measure_reads_drawn_pictures_rightly():
    rng = np.random.default_rng(5)
    scenes = [world.random_scene(rng) for _ in range(60)]
    assert all(all(world.agreement(scene, world.draw(scene, rng)).values()) for scene in scenes)


def test_the_concept_is_seen_where_it_is_and_nowhere_else():
    rng = np.random.default_rng(6)
    concepts = [world.draw_concept(world.random_concept_scene(rng), rng) for _ in range(40)]
    others = [world.draw(world.random_scene(rng), rng) for _ in range(40)]
    assert all(map(world.shows_concept, concepts))
    assert not any(map(world.shows_concept, others))


def test_the_demos_options_are_valid_and_its_dataset_can_be_planned(monkeypatch):
    monkeypatch.chdir(DEMO.parent)
    plan = make_plan(from_mapping(TrainConfig, read_toml(DEMO / "demo.toml")))
    assert plan.train_samples == 200 and plan.reg_samples == 200 and plan.total_steps == 850


@pytest.mark.slow
def test_the_demo_checkpoint_draws_what_the_prompt_says():
    model = load_model(DEMO / "model" / "lora-studio-demo.safetensors")
    picture = generate(
        model, "square, red, large, left, yellow background", seed=3, steps=20, cfg_scale=3.0, width=128, height=128
    )
    seen = world.measure(Image.fromarray(picture))
    assert (seen.colour, seen.background, seen.position, seen.shape) == ("red", "yellow", "left", "square")
