from __future__ import annotations

import pytest

from lib_lora.base.errors import StudioError
from lib_lora.base.options import from_mapping
from lib_lora.training.config import TrainConfig, check
from lib_lora.training.remarks import remarks


def config(options, **more) -> TrainConfig:
    return from_mapping(TrainConfig, {**options, **more})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"noise_offset_random_strength": True}, "without noise_offset"),
        ({"multires_noise_discount": 0.8}, "without multires_noise_iterations"),
        ({"ip_noise_gamma_random_strength": True}, "without ip_noise_gamma"),
        ({"huber_c": 0.2}, "huber_c has no effect with loss_type l2"),
        ({"huber_schedule": "constant", "loss_type": "l1"}, "with loss_type l1"),
        ({"loss_type": "huber", "huber_scale": 2}, "with huber_schedule snr"),
        (
            {"lr_scheduler_power": 2, "lr_scheduler": "cosine"},
            "lr_scheduler_power has no effect with lr_scheduler cosine",
        ),
        ({"lr_decay_steps": 0.1}, "lr_decay_steps has no effect with lr_scheduler"),
        ({"conv_alpha": 2}, "conv_alpha has no effect without conv_dim or conv_block_dims"),
        ({"keep_tokens": 1}, "without shuffle_caption or caption_tag_dropout_rate or token_warmup_step"),
        ({"prior_loss_weight": 0.5}, "prior_loss_weight has no effect without reg_data_dir"),
        ({"sample_sampler": "Euler"}, "sample_sampler has no effect without sample_every_n_epochs"),
        ({"unit": 2}, "unit has no effect with network_type LoRA"),
        ({"network_type": "IA3", "network_dim": 16, "network_alpha": 1}, "network_alpha has no effect"),
        ({"network_type": "Full", "network_dim": 4, "network_alpha": 8}, "network_dim has no effect"),
        ({"min_snr_gamma": 5, "scale_v_pred_loss_like_noise_pred": True}, "product"),
    ],
)
def test_what_has_no_effect_is_said(train_options, more, words):
    (said,) = remarks(config(train_options, **more))
    assert words in said


def test_what_a_file_decides_is_said(train_options):
    said = remarks(config(train_options, dim_from_weights=True, network_type="LoKr", factor=4))
    for name in ("network_type", "network_dim", "factor"):
        assert f"{name} has no effect with dim_from_weights" in said


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"noise_offset": 0.1, "noise_offset_random_strength": True},
        {"multires_noise_iterations": 6, "multires_noise_discount": 0.8},
        {"lr_scheduler_power": 2, "lr_scheduler": "polynomial"},
        {"lr_decay_steps": 0.1, "lr_scheduler": "warmup_stable_decay", "lr_scheduler_min_lr_ratio": 0.1},
        {"conv_dim": 4, "conv_alpha": 2},
        {"keep_tokens": 1, "token_warmup_step": 0.5},
        {"loss_type": "smooth_l1", "huber_c": 0.2, "huber_schedule": "exponential", "huber_scale": 2},
    ],
)
def test_what_has_an_effect_is_not_remarked_on(train_options, more):
    assert remarks(config(train_options, **more)) == []


def test_a_lora_to_merge_that_is_not_there_is_named_before_the_start(train_options, tmp_path):
    with pytest.raises(StudioError, match="(?s)base_weights.*no such file"):
        check(config(train_options, base_weights=[str(tmp_path / "gone.safetensors")]))


def test_min_snr_and_debiased_estimation_exclude_each_other(train_options):
    with pytest.raises(StudioError, match="debiased_estimation_loss"):
        check(config(train_options, min_snr_gamma=5, debiased_estimation_loss=True))
