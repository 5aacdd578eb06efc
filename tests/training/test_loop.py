"""One step of the loop against the plain formula: dense weights W + s U D, float64, torch's own layers."""

from __future__ import annotations

import copy

import pytest
import torch

from float64_run import Setting
from lib_lora.base.errors import StudioError
from lib_lora.base.events import EpochDone, StepDone, TrainingStarted
from lib_lora.base.signals import Control
from lib_lora.training.noise import sample_noise, sample_timesteps


def dense_gradients(setting, batches):
    """The mean loss over the samples of ``batches`` and its gradients, adapters written out as dense weights."""
    unet, encoder = copy.deepcopy(setting.model.unet), copy.deepcopy(setting.model.text_encoders[0])
    layers = {}
    for copied, original in ((unet, setting.model.unet), (encoder, setting.model.text_encoders[0])):
        names = {module: name for name, module in original.named_modules()}
        for adapter in setting.network:
            if adapter.target.layer in names:
                layers[adapter.key] = copied.get_submodule(names[adapter.target.layer])
    factors, weights = {}, {}
    for adapter in setting.network:
        up, down, scale = adapter.low_rank()
        factors[adapter.key] = (up.detach(), down.detach(), float(scale))
        layer = layers[adapter.key]
        delta = (up.flatten(1) @ down.flatten(1)).view(layer.weight.shape) * scale
        weights[adapter.key] = layer.weight = torch.nn.Parameter((layer.weight + delta).detach())
    config, data = setting.config, setting.data
    losses = []
    for ids in batches:
        batch = data.batch(ids, torch.device("cpu"), 1)
        tokenizer = setting.model.tokenizers[0]
        for index, sample in enumerate(ids):
            tokens = tokenizer.encode(batch.captions[index])
            row = [tokenizer.bos_id, *tokens, tokenizer.eos_id] + [tokenizer.pad_id] * (75 - len(tokens))
            context = encoder(torch.tensor([row])).last_hidden_state
            latent = batch.latents[index : index + 1].double()
            noise = sample_noise(latent.shape[1:], config.seed, 1, [sample]).double()
            t = sample_timesteps(config.seed, 1, [sample])
            alpha_bar = setting.model.alphas_cumprod[t]
            noisy = alpha_bar.sqrt() * latent + (1 - alpha_bar).sqrt() * noise
            losses.append(((unet(noisy, t, encoder_hidden_states=context).sample - noise) ** 2).mean())
    loss = sum(losses) / len(losses)
    loss.backward()
    gradients = {}
    for key, (up, down, scale) in factors.items():
        dense = weights[key].grad.flatten(1)
        gradients[key] = (scale * dense @ down.flatten(1).T, scale * up.flatten(1).T @ dense)
    return loss.item(), gradients


@pytest.mark.parametrize("more", [{"train_batch_size": 2}, {"gradient_accumulation_steps": 3, "train_batch_size": 2}])
def test_a_step_takes_the_gradient_of_the_mean_loss_over_its_samples(train_options, more):
    setting = Setting(train_options, **more)
    first = setting.data.epoch(1)[: setting.config.gradient_accumulation_steps]
    expected_loss, expected = dense_gradients(setting, first)
    before = {a.key: [t.detach().clone() for t in a.low_rank()[:2]] for a in setting.network}
    step = next(event for event in setting.train() if isinstance(event, StepDone))
    assert step.loss == pytest.approx(expected_loss, rel=1e-9)
    scale = max(float(g.abs().max()) for pair in expected.values() for g in pair)
    for adapter in setting.network:
        for now, then, gradient in zip(adapter.low_rank()[:2], before[adapter.key], expected[adapter.key]):
            taken = (then - now.detach()).flatten(1) / 0.1
            assert torch.allclose(taken, gradient.view(taken.shape), rtol=1e-6, atol=1e-9 * scale)


def test_accumulated_batches_give_the_step_of_one_large_batch(train_options):
    # all pictures of one bucket, so that the same samples can stand in one batch or in two
    options = {**train_options, "enable_bucket": False, "max_train_epochs": 1, "max_train_steps": None}
    results = []
    for more in ({"train_batch_size": 10}, {"train_batch_size": 5, "gradient_accumulation_steps": 2}):
        setting = Setting(options, **more)
        steps = [event for event in setting.train() if isinstance(event, StepDone)]
        assert len(steps) == 1
        results.append((steps[0].loss, setting.network.state_tensors(torch.float64)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    for key, tensor in results[0][1].items():
        assert torch.allclose(tensor, results[1][1][key], rtol=1e-9, atol=1e-12)


def test_events_tell_the_steps_and_epochs_of_the_plan(train_options):
    setting = Setting(train_options, max_train_steps=12)
    events = list(setting.train())
    assert events[0] == TrainingStarted(12, 10, 2)
    assert [e.step for e in events if isinstance(e, StepDone)] == list(range(1, 13))
    assert [(e.epoch, e.step) for e in events if isinstance(e, EpochDone)] == [(1, 10), (2, 12)]


def test_a_stop_ends_the_run_after_the_step_at_hand(train_options):
    setting, control, steps = Setting(train_options), Control(), []
    for event in setting.train(control):
        if isinstance(event, StepDone):
            steps.append(event.step)
            control.stop()
    assert steps == [1]


def test_the_global_generator_is_neither_used_nor_changed(train_options):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        setting = Setting(train_options)
        list(setting.train())
        assert torch.equal(state, torch.get_rng_state())
        results.append(setting.network.state_tensors(torch.float64))
    assert all(torch.equal(tensor, results[1][key]) for key, tensor in results[0].items())


def test_a_full_card_is_told_as_such(train_options):
    def too_large(model, batch, rng):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(StudioError, match="memory is full at step 1"):
        list(Setting(train_options).train(objective=too_large))
