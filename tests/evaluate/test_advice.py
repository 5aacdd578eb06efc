"""The guides' rules: the strength at which a LoRA is best is what its learning rate is multiplied with."""

from __future__ import annotations

import pytest

from lib_lora.base.options import from_mapping
from lib_lora.evaluate.advice import advise
from lib_lora.training.config import TrainConfig

RATES = {"optimizer_type": "AdamW", "unet_lr": 4e-4, "text_encoder_lr": (1e-4,)}
REQUIRED = {"pretrained_model_name_or_path": "m", "train_data_dir": "d", "output_name": "n"}
ADAPTIVE = {"optimizer_type": "Prodigy", "unet_lr": 1.0, "max_train_epochs": 10}


@pytest.mark.parametrize(
    "unet, te, trained, values",
    [
        # "works fine at 0.5 strength for Unet and 1.0 strength for TE ... reduce the Unet learning rate by half"
        (0.5, 1.0, RATES, {"unet_lr": 2e-4}),
        # "works fine at 1.0 Unet strength and 2.0 TE strength, then ... double the TE learning rate"
        (1.0, 2.0, RATES, {"text_encoder_lr": [2e-4]}),
        (1.0, 1.0, RATES, {}),
        (1.25, 0.0, RATES, {"unet_lr": 5e-4, "network_train_unet_only": True}),
        (0.0, 1.0, RATES, {"network_train_text_encoder_only": True}),
        (0.5, 0.5, {"learning_rate": 1e-3}, {"unet_lr": 5e-4, "text_encoder_lr": 5e-4}),
        (0.5, 0.5, {"text_encoder_lr": (1e-4, 2e-4)}, {"text_encoder_lr": [5e-5, 1e-4]}),
        (0.5, 1.0, {}, {}),
        (0.8, 0.8, ADAPTIVE, {"max_train_epochs": 8}),
        # A part that was not trained has nothing to be changed, and of nothing at all there is nothing to say.
        (0.0, 0.0, RATES, {}),
        (0.0, 0.0, ADAPTIVE, {}),
        (0.5, 0.5, {**RATES, "network_train_unet_only": True}, {"unet_lr": 2e-4}),
        (0.5, 0.5, {**RATES, "text_encoder_lr": (0.0,)}, {"unet_lr": 2e-4}),
        (0.5, 0.5, {**RATES, "network_train_text_encoder_only": True}, {"text_encoder_lr": [5e-5]}),
        (0.0, 0.5, {**RATES, "network_train_unet_only": True}, {}),
        (0.8, 0.0, {**ADAPTIVE, "network_train_unet_only": True}, {"max_train_epochs": 8}),
        (1.0, 0.0, ADAPTIVE, {"network_train_unet_only": True}),
        (1.0, 1.0, ADAPTIVE, {}),
    ],
)
def test_the_best_strengths_say_what_to_train_otherwise(unet, te, trained, values):
    advice = advise(unet, te, trained)
    assert dict(advice.values) == values and advice.why
    from_mapping(TrainConfig, {**REQUIRED, **trained, **advice.values})  # the Train tab takes them as they are


def test_it_says_why():
    (unet, te) = advise(0.5, 1.0, RATES).why
    assert unet.startswith("It is best at 0.5 in the UNet, so too strong at 1: multiply unet_lr with 0.5")
    assert unet.endswith("(0.0004 becomes 0.0002).")
    assert te == "It is best at strength 1 in the text encoder: leave text_encoder_lr as it is."
    assert "too weak" in advise(2.0, 1.0, {}).why[0]
    assert "finds its learning rate itself" in advise(0.5, 1.0, ADAPTIVE).why[0]
