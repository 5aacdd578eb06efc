from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from full_size import SIZES, shapes, write_checkpoint, write_vocabulary

from lib_lora.models.loader import load_model
from lib_lora.text.tokenizer import Tokenizer

# Parameters of the published models: UNet, VAE and text encoders (OpenAI's ViT-L/14, OpenCLIP's bigG).
PUBLISHED = {
    "sd15": {"model": 859_520_964, "first_stage_model": 83_653_863, "cond_stage_model": 123_060_480},
    "sdxl": {"model": 2_567_463_684, "first_stage_model": 83_653_863, "conditioner": 123_060_480 + 694_659_841},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_sizes_have_as_many_parameters_as_the_published_models(name):
    counts = Counter()
    for key, shape in shapes(SIZES[name]).items():
        counts[key.split(".")[0]] += math.prod(shape)
    assert counts == PUBLISHED[name]


@pytest.mark.parametrize(("name", "encoders"), [("tiny-sd15", 1), ("tiny-sdxl", 2)])
def test_a_written_checkpoint_is_loaded_as_any_other(tmp_path, name, encoders):
    model = load_model(write_checkpoint(tmp_path, SIZES[name], torch.float16, name))
    assert len(model.text_encoders) == encoders
    assert all(tensor.isfinite().all() for module in model.modules() for tensor in module.parameters())


def test_the_made_vocabulary_is_as_large_as_openais(tmp_path):
    tokenizer = Tokenizer.from_folder(write_vocabulary(tmp_path))
    ids = tokenizer.encode("a thing")
    assert ids and max(ids) < 49406  # the start's and the end's
