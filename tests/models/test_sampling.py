from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.base.signals import Control
from lib_lora.models.odd_sizes import webui_upsampling
from lib_lora.models.prompt import encode_chunks
from lib_lora.models.samplers import SAMPLERS
from lib_lora.models.sampling import PictureSettings, decode, generate, generate_latents, generate_many
from lib_lora.text.chunks import chunk_prompt

SMALL = {"steps": 3, "width": 64, "height": 64, "cfg_scale": 2.0}


def latents(model, prompt="red cat", negative="blue", seed=1, **settings):
    return generate_latents(model, prompt, negative, [seed], PictureSettings(**{**SMALL, **settings}))


def context(model, prompt):
    return encode_chunks(model.text_encoders[0], chunk_prompt(prompt, model.tokenizers[0]))


def close(a, b):
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * a.std().item())


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_a_picture_is_its_seeds(tiny_model, sampler):
    first, again, other = (
        generate(tiny_model, "red cat", "blue", seed=seed, sampler=sampler, **SMALL) for seed in (1, 1, 2)
    )
    assert first.dtype == np.uint8 and first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_global_random_state_stays(tiny_model):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    generate(tiny_model, "red", seed=1, **SMALL)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_pictures_of_a_batch_are_those_made_alone(tiny_model):
    together = generate_many(tiny_model, "red BREAK cat", "blue", seeds=[3, 4], **SMALL)
    alone = [generate(tiny_model, "red BREAK cat", "blue", seed=seed, **SMALL) for seed in (3, 4)]
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
            is_v = prediction == "v_prediction"
            outs.append(alpha**0.5 * x - (1 - alpha) ** 0.5 * out if is_v else (x - (1 - alpha) ** 0.5 * out) / alpha**0.5)
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


def test_the_negative_prompt_has_no_part_at_guidance_one(tiny_model):
    assert torch.equal(latents(tiny_model, cfg_scale=1.0, negative="blue"), latents(tiny_model, cfg_scale=1.0, negative="dog"))
    assert not close(latents(tiny_model, negative="blue"), latents(tiny_model, negative="dog"))


def test_prompts_of_unequal_length_are_not_padded(tiny_model):
    # "red BREAK red" has twice the tokens of "": with every token seen twice, attention gives the same.
    assert close(latents(tiny_model, "red", "cat"), latents(tiny_model, "red BREAK red", "cat"))


def test_parts_joined_by_and_add_up(tiny_model):
    assert close(latents(tiny_model, "red AND red :-0.5", cfg_scale=2.0), latents(tiny_model, "red", cfg_scale=1.0000001))
    assert close(latents(tiny_model, "red :0.5"), latents(tiny_model, "red", cfg_scale=1.0))


def test_prompt_editing_changes_the_prompt_on_its_way(tiny_model):
    assert torch.equal(latents(tiny_model, "[red:cat:99]"), latents(tiny_model, "red"))
    assert torch.equal(latents(tiny_model, "[red:cat:0]"), latents(tiny_model, "cat"))
    edited = latents(tiny_model, "[red:cat:1]")
    assert not close(edited, latents(tiny_model, "red")) and not close(edited, latents(tiny_model, "cat"))


def test_comments_and_emphasis_are_understood(tiny_model):
    assert torch.equal(latents(tiny_model, "red # cat"), latents(tiny_model, "red "))
    assert not close(latents(tiny_model, "(red:1.5) cat"), latents(tiny_model, "red cat"))


def test_decoding_scales_and_cuts_off(tiny_model):
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        picture = tiny_model.vae.decode(latent / 0.18215).sample[0].double()
    expected = ((picture + 1) / 2).clamp(0, 1).mul(255).permute(1, 2, 0).numpy()
    difference = expected - decode(tiny_model, latent)
    assert difference.min() > -1e-3 and difference.max() < 1 + 1e-3


def test_odd_sizes_are_resized_where_the_halves_meet(tiny_model):
    x, at = torch.randn(1, 4, 9, 17, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    states = context(tiny_model, "red")

    def predict():
        with torch.no_grad():
            return tiny_model.unet(x, at, encoder_hidden_states=states).sample

    plain = predict()
    with webui_upsampling(tiny_model.unet):
        resized = predict()
    assert resized.shape == plain.shape
    assert not torch.allclose(resized, plain)
    assert torch.equal(predict(), plain), "nothing is left behind"
    x = x[:, :, :8, :16]
    plain = predict()
    with webui_upsampling(tiny_model.unet):
        assert torch.equal(predict(), plain)


def test_steps_are_reported_and_stopping_is_obeyed(tiny_model):
    seen, control = [], Control()

    def on_step(done, total):
        seen.append((done, total))
        if done == 2:
            control.stop()

    assert generate(tiny_model, "red", seed=1, control=control, on_step=on_step, **{**SMALL, "steps": 5}) is None
    assert seen == [(1, 5), (2, 5)]


@pytest.mark.parametrize(
    ("field", "settings"),
    [("sampler", {"sampler": "Fancy"}), ("width", {"width": 60}), ("height", {"height": 0}), ("steps", {"steps": 0}),
     ("clip_skip", {"clip_skip": 9}), ("seed", {"seed": -1}), ("randn_source", {"randn_source": "TPU"})],
)
def test_bad_settings_are_named(tiny_model, field, settings):
    with pytest.raises(StudioError) as caught:
        generate(tiny_model, "red", **{"seed": 1, **SMALL, **settings})
    assert caught.value.field == field


def test_tags_left_in_the_prompt_are_refused(tiny_model):
    with pytest.raises(StudioError, match="taken out"):
        generate(tiny_model, "red <lora:x:1>", seed=1, **SMALL)


def test_values_that_are_no_numbers_are_not_painted(tiny_model):
    tiny_model.vae.decoder.conv_out.bias = torch.nn.Parameter(torch.full((3,), float("nan")), requires_grad=False)
    with pytest.raises(StudioError, match="VAE"):
        generate(tiny_model, "red", seed=1, **SMALL)
