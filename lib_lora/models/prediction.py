"""What a UNet predicts and on which schedule: what was found, one forward where nobody says, and what overrides it."""

from __future__ import annotations

import torch

from lib_lora.arch.family import Family
from lib_lora.arch.prediction import ASSUMED, EPSILON, V_PREDICTION, Prediction
from lib_lora.base.errors import StudioError
from lib_lora.models.model import DiffusionModel

AUTO = "auto"
PREDICTION_CHOICES = (AUTO, EPSILON, V_PREDICTION)
ZERO_SNR_CHOICES = (AUTO, "on", "off")


def settle_prediction(model: DiffusionModel, found: Prediction) -> None:
    """Let the model follow what was found; of an SD2 checkpoint that nobody says anything about, its UNet is asked."""
    model.prediction_type, model.prediction_source = found.prediction_type, found.source
    model.zero_terminal_snr = found.zero_terminal_snr
    # For inpainting the WebUI takes v2-inpainting-inference.yaml without asking: epsilon.
    if found.assumed and model.family is Family.SD2 and not model.inpainting:
        model.prediction_type = V_PREDICTION if answers_with_v(model) else EPSILON
        model.prediction_source = "one forward of the UNet"


def override_prediction(model: DiffusionModel, prediction_type: str = AUTO, zero_terminal_snr: str = AUTO) -> None:
    """Let options decide instead of what was found.

    Raises:
        StudioError: an option has a value that is none of its choices.
    """
    for field, came, allowed in (
        ("prediction_type", prediction_type, PREDICTION_CHOICES),
        ("zero_terminal_snr", zero_terminal_snr, ZERO_SNR_CHOICES),
    ):
        if came not in allowed:
            raise StudioError("not allowed", field=field, came=came, allowed=allowed)
    if prediction_type != AUTO:
        model.prediction_type, model.prediction_source = prediction_type, "the option prediction_type"
    if zero_terminal_snr != AUTO:
        model.zero_terminal_snr = zero_terminal_snr == "on"


@torch.no_grad()
def answers_with_v(model: DiffusionModel) -> bool:
    """Whether an SD2 UNet predicts v: for x = 0.5 at the last timestep mean(out - x) < -1.

    There a UNet that predicts noise gives about x back, and one that predicts v about minus the picture.
    Source: A1111 v1.10.1, sd_models_config.py, ``is_using_v_parameterization_for_sd2``.
    """
    unet, dtype = model.unet, model.compute_dtype
    x = torch.full((1, unet.config.in_channels, 8, 8), 0.5, device=model.device, dtype=dtype)
    context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, device=model.device, dtype=dtype)
    timestep = torch.tensor([999], device=model.device)
    out = unet(x, timestep, encoder_hidden_states=context, return_dict=False)[0]
    return (out - x).float().mean().item() < -1


def describe_prediction(model: DiffusionModel) -> tuple[str, str]:
    """What a person should read about it, and how urgent it is ("info" or "warning")."""
    name = "v-prediction" if model.prediction_type == V_PREDICTION else "epsilon"
    schedule = " with zero terminal SNR" if model.zero_terminal_snr else ""
    if model.prediction_source == ASSUMED:
        text = f"The checkpoint does not say what its UNet predicts: {name}{schedule} is assumed"
        return f"{text}. If that is wrong, set prediction_type.", "info"
    text = f"The UNet predicts {name}{schedule}, according to {model.prediction_source}"
    if model.zero_terminal_snr and model.prediction_type == EPSILON:
        return f"{text}. From noise alone epsilon tells nothing of the picture: v-prediction is usual here.", "warning"
    return f"{text}.", "info"
