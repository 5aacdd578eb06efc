"""What a plan says of a run's options before anything is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.planning import make_plan


def plan(options, **more):
    return make_plan(from_mapping(TrainConfig, {**options, **more}))


def test_the_description_says_how_pictures_and_captions_are_treated(train_options, tmp_path):
    assert "Treatment" not in plan(train_options).describe()
    text = plan(
        train_options,
        shuffle_caption=True,
        keep_tokens=2,
        caption_tag_dropout_rate=0.1,
        caption_dropout_rate=0.05,
        caption_dropout_every_n_epochs=4,
        caption_prefix="photo of",
        flip_aug=True,
        mid_lr_weight=0.5,
        cache_latents_to_disk=True,
        cache_dir=tmp_path / "cache",
    ).describe()
    for words in (
        "tags are shuffled and left out with probability 0.1 but for the first 2",
        "captions are photo of ...",
        "captions are left out with probability 0.05",
        "captions are left out in epochs divisible by 4",
        "half of the pictures are mirrored",
        "mid_lr_weight 0.5",
        f"encoded pictures are kept in {tmp_path / 'cache'}",
    ):
        assert words in text, f"{words!r} is not in:\n{text}"


def test_a_cache_inside_the_dataset_is_no_data(train_options, pictures):
    (pictures / "cache" / "9_latents").mkdir(parents=True)
    (pictures / "cache" / "9_latents" / "x.png").write_bytes((pictures / "2_zorb" / "0.png").read_bytes())
    assert plan(train_options, cache_dir=pictures / "cache").train_samples == 10


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"caption_separator": ""}, "caption_separator"),
        ({"caption_dropout_rate": 1.5}, "caption_dropout_rate"),
        ({"caption_tag_dropout_rate": -0.1}, "caption_tag_dropout_rate"),
        ({"keep_tokens": -1}, "keep_tokens"),
        ({"cache_latents": False, "cache_latents_to_disk": True}, "cache_latents_to_disk"),
        ({"cache_text_encoder_outputs_to_disk": True}, "cache_text_encoder_outputs_to_disk"),
        ({"block_lr_weight": [1, 2]}, "block_lr_weight"),
        ({"block_lr_weight": [1.0] * 17, "down_lr_weight": "sine"}, "down_lr_weight"),
        ({"block_lr_weight": [1.0] * 17, "block_lr_zero_threshold": 0.1}, "block_lr_zero_threshold"),
        ({"text_encoder_lr": "1e-4 x"}, "text_encoder_lr"),
    ],
)
def test_options_that_make_no_sense_are_named(train_options, more, field):
    with pytest.raises(StudioError) as fault:
        plan(train_options, **more)
    assert fault.value.field == field


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_loaded(train_options, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudioError) as fault:
        plan(train_options, cache_latents_to_disk=True, cache_dir=tmp_path / "file" / "cache")
    assert fault.value.field == "cache_dir"


def test_planning_loads_no_torch():
    code = "import sys, lib_lora.training.planning; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
