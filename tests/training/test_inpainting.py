from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_lora.base.seeds import derive_seed
from lib_lora.models.loader import load_model
from lib_lora.training.data import Batch
from lib_lora.training.draws import StepRandom
from lib_lora.training.inpainting import masked_inputs, random_mask


@pytest.fixture(scope="module")
def model(tiny_checkpoints):
    return load_model(tiny_checkpoints["SD1 inpainting"])


def batch(sample_ids, size=(64, 96)):
    pixels = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(sample))
        for sample in sample_ids
    ]
    count = len(sample_ids)
    return Batch(
        latents=torch.zeros(count, 4, size[0] // 8, size[1] // 8),
        captions=("red",) * count,
        conditioning=None,
        sizes=torch.zeros(count, 6),
        weights=torch.ones(count),
        sample_ids=tuple(sample_ids),
        pixels=torch.stack(pixels),
    )


def masks(count, height=32, width=48):
    return [random_mask(height, width, torch.Generator().manual_seed(seed)) for seed in range(count)]


def test_a_quarter_of_the_masks_hides_everything():
    share = sum(bool(mask.all()) for mask in masks(800)) / 800
    assert 0.2 < share < 0.3  # standard deviation 0.015


def test_other_masks_are_rectangles_and_ellipses_of_every_size_and_place():
    parts = [mask for mask in masks(400) if not mask.all() and mask.any()]
    rectangles, areas, touched = 0, [], torch.zeros(32, 48, dtype=torch.bool)
    for mask in parts:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        box = rows[:, None] & columns[None, :]
        rectangles += bool((box == mask).all())
        areas.append(mask.float().mean().item())
        touched |= mask
        assert rows.int().diff().abs().sum() <= 2 and columns.int().diff().abs().sum() <= 2, "in one piece"
        if box.sum() > 100:
            assert mask.sum() >= 0.6 * box.sum(), "an ellipse fills pi / 4 of its box"
    assert 0.4 < rectangles / len(parts) < 0.6
    # The mean of the product of two uniform sides is 1/4; an ellipse has pi / 4 of it.
    assert sum(areas) / len(areas) == pytest.approx(0.25 * (1 + torch.pi / 4) / 2, abs=0.03)
    assert touched.float().mean() > 0.95, "corners are rare"


def test_mask_and_masked_latents_are_what_the_vae_makes_of_the_picture(model):
    ours = masked_inputs(model, batch([3, 8]), StepRandom(5, 2))
    assert ours.shape == (2, 5, 8, 12)
    for row, sample in enumerate((3, 8)):
        mask = random_mask(64, 96, torch.Generator().manual_seed(derive_seed(5, "mask", 2, sample)))
        assert torch.equal(ours[row, 0], mask[::8, ::8].float())
        picture = batch([sample]).pixels.double() / 255 * 2 - 1
        picture[:, :, mask] = 0
        with torch.no_grad():
            posterior = model.vae.encode(picture.float()).latent_dist
        noise = torch.randn(
            4, 8, 12, generator=torch.Generator().manual_seed(derive_seed(5, "masked latent", 2, sample))
        )
        expected = (posterior.mean[0] + posterior.std[0] * noise) * 0.18215
        torch.testing.assert_close(ours[row, 1:], expected, rtol=1e-4, atol=1e-5)


def test_draws_are_the_samples_own(model):
    rng = StepRandom(5, 2)
    together, alone = masked_inputs(model, batch([3, 8]), rng), masked_inputs(model, batch([8]), rng)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.equal(masked_inputs(model, batch([8]), StepRandom(5, 3)), alone), "another epoch draws anew"
    before = torch.get_rng_state()
    masked_inputs(model, batch([8]), rng)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_without_pixels_is_refused(model):
    with pytest.raises(ValueError, match="pixels"):
        masked_inputs(model, replace(batch([1]), pixels=None), StepRandom(1, 1))
