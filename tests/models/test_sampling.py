from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.models.loader import load_model
from lib_lora.models.odd_sizes import webui_upsampling
from lib_lora.models.prompt import encode_prompt
from lib_lora.models.samplers import SAMPLERS
from lib_lora.models.sampling import PictureSettings, decode, generate, generate_latents, generate_many

SMALL = {"steps": 3, "width": 64, "height": 64, "cfg_scale": 2.0}


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    """For tests that leave it as it is."""
    return load_model(tiny_checkpoint)


def latents(model, prompt="red cat", negative="blue", seed=1, **settings):
    return generate_latents(model, prompt, negative, [seed], PictureSettings(**{**SMALL, **settings}))


def context(model, prompt):
    return encode_prompt(model, prompt).context


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=5e-5 * a.std().item())


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_a_picture_is_its_seeds(model, sampler):
    first, again, other = (
        generate(model, "red cat", "blue", seed=seed, sampler=sampler, **SMALL) for seed in (1, 1, 2)
    )
    assert first.dtype == np.uint8 and first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_global_random_state_stays(model):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    generate(model, "red", seed=1, **SMALL)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_pictures_of_a_batch_are_those_made_alone(model):
    together = generate_many(model, "red BREAK cat", "blue", seeds=[3, 4], **SMALL)
    alone = [generate(model, "red BREAK cat", "blue", seed=seed, **SMALL) for seed in (3, 4)]
    for a, b in zip(together, alone):
        assert np.abs(a.astype(int) - b).max() <= 2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_one_euler_step_written_out(tiny_model, prediction):
    tiny_model.prediction_type = prediction
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    alpha = tiny_model.alphas_cumprod[999].item()
    sigma = ((1 - alpha) / alpha) ** 0.5
    outs = []
    with torch.no_grad():
        for prompt in ("red cat", "blue"):
            x = noise * sigma / (sigma**2 + 1) ** 0.5
            out = tiny_model.unet(x, torch.tensor([999.0]), encoder_hidden_states=context(tiny_model, prompt)).sample
            # x0 of the variance-preserving x: (x - sqrt(1-a) eps) / sqrt(a), or sqrt(a) x - sqrt(1-a) v.
            a, b = alpha**0.5, (1 - alpha) ** 0.5
            outs.append(a * x - b * out if prediction == "v_prediction" else (x - b * out) / a)
    expected = outs[1] + 2.0 * (outs[0] - outs[1])
    assert close(latents(tiny_model, steps=1, sampler="Euler"), expected)


def test_v_and_epsilon_meet_in_ddim(tiny_model):
    """A model whose v is made from an epsilon model's answer samples the same picture."""
    expected = latents(tiny_model, sampler="DDIM", cfg_scale=1.0)
    forward, alphas = tiny_model.unet.forward, tiny_model.alphas_cumprod

    def as_v(x, timesteps, **arguments):
        alpha = alphas[int(timesteps[0])].item()
        eps = forward(x, timesteps, **arguments)[0]
        return (eps - (1 - alpha) ** 0.5 * x) / alpha**0.5, None

    tiny_model.unet.forward, tiny_model.prediction_type = as_v, "v_prediction"
    assert close(latents(tiny_model, sampler="DDIM", cfg_scale=1.0), expected)


def test_the_negative_prompt_has_no_part_at_guidance_one(model):
    assert torch.equal(latents(model, cfg_scale=1.0, negative="blue"), latents(model, cfg_scale=1.0, negative="dog"))
    assert not close(latents(model, negative="blue"), latents(model, negative="dog"))


def test_prompts_of_unequal_length_are_not_padded(model):
    # "red BREAK red" has twice the tokens of "": with every token seen twice, attention gives the same.
    assert close(latents(model, "red", "cat"), latents(model, "red BREAK red", "cat"))


def test_parts_joined_by_and_add_up(model):
    assert close(latents(model, "red AND red :-0.5", cfg_scale=2.0), latents(model, "red", cfg_scale=1.0000001))
    assert close(latents(model, "red :0.5"), latents(model, "red", cfg_scale=1.0))


def test_prompt_editing_changes_the_prompt_on_its_way(model):
    assert torch.equal(latents(model, "[red:cat:99]"), latents(model, "red"))
    assert torch.equal(latents(model, "[red:cat:0]"), latents(model, "cat"))
    edited, red, cat = (latents(model, prompt, cfg_scale=8.0) for prompt in ("[red:cat:.4]", "red", "cat"))
    assert not close(edited, red) and not close(edited, cat) and not close(red, cat)


def test_comments_and_emphasis_are_understood(model):
    assert torch.equal(latents(model, "red # cat"), latents(model, "red "))
    assert not close(latents(model, "(red:1.5) cat"), latents(model, "red cat"))


def test_decoding_scales_and_cuts_off(model):
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        picture = model.vae.decode(latent / 0.18215).sample[0].double()
    expected = ((picture + 1) / 2).clamp(0, 1).mul(255).permute(1, 2, 0).numpy()
    difference = expected - decode(model, latent)
    assert difference.min() > -1e-3 and difference.max() < 1 + 1e-3


def test_odd_sizes_are_resized_where_the_halves_meet(model):
    x, at = torch.randn(1, 4, 9, 17, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    states = context(model, "red")

    def predict():
        with torch.no_grad():
            return model.unet(x, at, encoder_hidden_states=states).sample

    plain = predict()
    with webui_upsampling(model.unet):
        resized = predict()
    assert resized.shape == plain.shape
    assert not torch.allclose(resized, plain)
    assert torch.equal(predict(), plain), "nothing is left behind"
    x = x[:, :, :8, :16]
    plain = predict()
    with webui_upsampling(model.unet):
        assert torch.equal(predict(), plain)


def test_steps_are_reported_and_stopping_is_obeyed(model):
    seen, control = [], Control()

    def on_step(done, total):
        seen.append((done, total))
        if done == 2:
            control.stop()

    assert generate(model, "red", seed=1, control=control, on_step=on_step, **{**SMALL, "steps": 5}) is None
    assert seen == [(1, 5), (2, 5)]


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("sampler", {"sampler": "Fancy"}),
        ("width", {"width": 60}),
        ("height", {"height": 0}),
        ("steps", {"steps": 0}),
        ("clip_skip", {"clip_skip": 9}),
        ("seed", {"seed": -1}),
        ("randn_source", {"randn_source": "TPU"}),
    ],
)
def test_bad_settings_are_named(model, field, settings):
    with pytest.raises(StudioError) as caught:
        generate(model, "red", **{"seed": 1, **SMALL, **settings})
    assert caught.value.field == field


def test_tags_left_in_the_prompt_are_refused(model):
    with pytest.raises(StudioError, match="taken out"):
        generate(model, "red <lora:x:1>", seed=1, **SMALL)


def test_values_that_are_no_numbers_are_not_painted(tiny_model):
    tiny_model.vae.decoder.conv_out.bias = torch.nn.Parameter(torch.full((3,), float("nan")), requires_grad=False)
    with pytest.raises(StudioError, match="VAE"):
        generate(tiny_model, "red", seed=1, **SMALL)
