from __future__ import annotations

import pytest
import torch

from lib_lora.arch.prediction import Prediction
from lib_lora.base.errors import StudioError
from lib_lora.models.loader import load_model
from lib_lora.models.prediction import answers_with_v, describe_prediction, override_prediction, settle_prediction


@pytest.fixture
def sd2(tiny_checkpoints):
    return load_model(tiny_checkpoints["SD2"])


def always_answer(model, value):
    """A UNet that gives ``value`` everywhere."""
    conv = model.unet.conv_out
    conv.weight = torch.nn.Parameter(torch.zeros_like(conv.weight), requires_grad=False)
    conv.bias = torch.nn.Parameter(torch.full_like(conv.bias, value), requires_grad=False)


def test_the_yaml_beside_the_checkpoint_speaks_first(sd2):
    assert (sd2.prediction_type, sd2.zero_terminal_snr) == ("v_prediction", False)
    assert describe_prediction(sd2) == (
        "The UNet predicts v-prediction, according to the yaml beside the checkpoint.",
        "info",
    )


# mean(out - 0.5) below -1, as in the WebUI: a v-prediction UNet gives about -picture at the last timestep.
@pytest.mark.parametrize(("answer", "expected"), [(-0.51, "v_prediction"), (-0.49, "epsilon"), (0.5, "epsilon")])
def test_an_sd2_checkpoint_that_says_nothing_is_asked(sd2, answer, expected):
    always_answer(sd2, answer)
    assert answers_with_v(sd2) == (expected == "v_prediction")
    settle_prediction(sd2, Prediction())
    assert sd2.prediction_type == expected
    assert "one forward" in describe_prediction(sd2)[0]


def test_what_the_file_says_is_not_asked_again(sd2):
    always_answer(sd2, -9.0)
    settle_prediction(sd2, Prediction("epsilon", source="the metadata"))
    assert sd2.prediction_type == "epsilon"


@pytest.mark.parametrize("family", ["SD1", "SDXL", "SD2 inpainting"])
def test_other_checkpoints_are_assumed_to_predict_epsilon_and_that_is_said(tiny_checkpoints, family):
    model = load_model(tiny_checkpoints[family])
    always_answer(model, -9.0)
    settle_prediction(model, Prediction())
    assert model.prediction_type == "epsilon"
    text, _ = describe_prediction(model)
    assert "assumed" in text and "prediction_type" in text


def test_options_override_what_was_found(sd2):
    before = sd2.alphas_cumprod
    override_prediction(sd2, "auto", "auto")
    assert sd2.prediction_type == "v_prediction" and not sd2.zero_terminal_snr
    override_prediction(sd2, "epsilon", "on")
    assert sd2.prediction_type == "epsilon"
    assert sd2.alphas_cumprod[-1] == 0 and sd2.alphas_cumprod[0] == pytest.approx(before[0].item(), rel=1e-12)
    text, level = describe_prediction(sd2)
    assert level == "warning" and "zero terminal SNR" in text and "the option prediction_type" in text
    override_prediction(sd2, zero_terminal_snr="off")
    assert torch.equal(sd2.alphas_cumprod, before)


@pytest.mark.parametrize(("field", "value"), [("prediction_type", "x0"), ("zero_terminal_snr", "yes")])
def test_an_unknown_choice_is_named(sd2, field, value):
    with pytest.raises(StudioError) as caught:
        override_prediction(sd2, **{field: value})
    assert caught.value.field == field and caught.value.came == value
