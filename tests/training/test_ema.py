"""The average of the weights: by its formula, and in a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib_lora.base.errors import StudioError
from lib_lora.base.events import StateSaved
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig
from lib_lora.training.ema import Ema
from lib_lora.training.run import Run
from lib_lora.training.state import read_state


def run(options, model, **more) -> Run:
    job = Run(from_mapping(TrainConfig, {**options, **more}))
    job.model = model
    return job


def test_the_average_equals_its_formula():
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    ema, expected = Ema([parameter], 0.5), parameter.detach().numpy().copy()
    for step in range(1, 30):
        with torch.no_grad():
            parameter += 0.1 * step
        ema.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().numpy()
    np.testing.assert_allclose(ema.shadow[0].numpy(), expected, rtol=1e-12)


def test_weights_come_back_bit_for_bit_after_the_average_was_shown():
    parameter = torch.nn.Parameter(torch.tensor([0.1, 0.7]))
    ema = Ema([parameter], 0.9)
    with torch.no_grad():
        parameter.mul_(3)
    ema.update()
    trained = parameter.detach().clone()
    with ema.shown():
        assert torch.equal(parameter, ema.shadow[0])
    assert torch.equal(parameter, trained)


def test_a_run_saves_the_average_and_its_state_keeps_both(train_options, tiny_model):
    """The weights after each step, from runs of one step more each, averaged by hand."""
    states = [
        read_state(list(run(train_options, tiny_model, max_train_steps=steps, save_state=True, lr_scheduler="constant",
                            output_name=f"plain{steps}").events())[-1].state).weights
        for steps in (1, 2, 3)
    ]  # fmt: skip
    end = list(run(train_options, tiny_model, ema_decay=0.9, save_state=True, lr_scheduler="constant").events())[-1]
    saved, state = load_file(train_options["output_dir"] / "zorb.safetensors"), read_state(end.state)
    assert all(torch.equal(state.weights[key], states[2][key]) for key in states[2])
    up = "lora_unet_mid_block_attentions_0_proj_in.lora_up"
    average = torch.zeros_like(states[0][f"adapters.{up}"], dtype=torch.float64)
    for step, weights in enumerate(states, 1):
        decay = (1 + step) / (10 + step)
        average = decay * average + (1 - decay) * weights[f"adapters.{up}"].double()
    torch.testing.assert_close(saved[f"{up}.weight"].double(), average, rtol=1e-5, atol=1e-9)


def test_a_resumed_run_averages_on_bit_for_bit(train_options, tiny_model):
    options = {**train_options, "ema_decay": 0.9, "max_train_steps": 4}
    list(run(options, tiny_model, output_name="whole").events())
    for event in run(options, tiny_model, save_state_every_n_steps=1).events():
        if isinstance(event, StateSaved) and event.step == 2:
            break
    list(run(options, tiny_model, resume=event.path).events())
    whole, resumed = (load_file(options["output_dir"] / f"{name}.safetensors") for name in ("whole", "zorb"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_an_optimizer_that_averages_takes_no_second_average(train_options, tiny_model):
    with pytest.raises(StudioError, match="ema_decay.*averages"):
        list(run(train_options, tiny_model, ema_decay=0.9, optimizer_type="AdamWScheduleFree").events())
