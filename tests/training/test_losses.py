from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.training import losses as subject
from sd_scripts import functions


def ratio(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_min_snr_of_epsilon_by_hand():
    # min(SNR, 5) / SNR: 1/1, 5/5, 5/10, 5/50
    got = subject.min_snr_weight(ratio(1, 5, 10, 50), 5.0, "epsilon")
    torch.testing.assert_close(got, ratio(1, 1, 0.5, 0.1))


def test_min_snr_of_velocity_by_hand():
    # min(SNR, 5) / (SNR + 1): 1/2, 5/6, 5/11, 5/51
    got = subject.min_snr_weight(ratio(1, 5, 10, 50), 5.0, "v_prediction")
    torch.testing.assert_close(got, ratio(1 / 2, 5 / 6, 5 / 11, 5 / 51))


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_equals_the_published_quotients_at_every_timestep(gamma):
    betas = np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2
    alphas = np.cumprod(1 - betas)
    every = alphas / (1 - alphas)
    got = subject.min_snr_weight(torch.from_numpy(every), gamma, "epsilon").numpy()
    np.testing.assert_allclose(got, np.minimum(every, gamma) / every, rtol=1e-12)
    got = subject.min_snr_weight(torch.from_numpy(every), gamma, "v_prediction").numpy()
    np.testing.assert_allclose(got, np.minimum(every, gamma) / (every + 1), rtol=1e-12)


def test_min_snr_is_finite_where_the_signal_is_zero():
    assert subject.min_snr_weight(ratio(0.0), 5.0, "epsilon").item() == 1.0
    assert subject.min_snr_weight(ratio(0.0), 5.0, "v_prediction").item() == 0.0


def test_an_unknown_prediction_type_is_refused():
    with pytest.raises(StudioError, match="prediction_type.*'sample'.*epsilon, v_prediction"):
        subject.min_snr_weight(ratio(1.0), 5.0, "sample")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mse_is_computed_in_float32_from_any_type(dtype):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 4, 5, 6, generator=generator).to(dtype)
    target = torch.randn(3, 4, 5, 6, generator=generator).to(dtype)
    got = subject.per_sample_loss(prediction, target)
    expected = ((prediction.double().numpy() - target.double().numpy()) ** 2).mean(axis=(1, 2, 3))
    assert got.dtype == torch.float32 and got.shape == (3,)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_mse_does_not_overflow_in_half_precision():
    got = subject.per_sample_loss(torch.full((1, 1, 2, 2), 300.0).half(), torch.full((1, 1, 2, 2), -300.0).half())
    assert got.item() == 360000.0  # above float16's largest number, 65504


def test_a_mask_lessens_the_loss_and_the_mean_is_over_the_whole_picture():
    prediction, target = torch.full((2, 4, 2, 2), 2.0), torch.zeros(2, 4, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.5, 0.0]]).view(1, 1, 2, 2).expand(2, 1, 2, 2)
    got = subject.per_sample_loss(prediction, target, mask)
    # 4 * (1 + 0 + 0.5 + 0) / 4, which is what sd-scripts' apply_masked_loss followed by a mean gives
    torch.testing.assert_close(got, torch.tensor([1.5, 1.5]))


def test_masked_pixels_get_no_gradient():
    prediction = torch.ones(1, 4, 2, 2, requires_grad=True)
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(1, 1, 2, 2)
    subject.per_sample_loss(prediction, torch.zeros(1, 4, 2, 2), mask).sum().backward()
    assert (prediction.grad[..., 1] == 0).all() and (prediction.grad[..., 0] > 0).all()


def test_a_mask_is_resized_by_the_mean_of_each_cell():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8, :4] = 1.0
    torch.testing.assert_close(subject.resize_mask(mask, 2, 2), torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]]))


def test_prior_loss_weights_only_regularisation_images():
    got = subject.prior_loss_weights(torch.tensor([False, True, False, True]), 0.25)
    assert got.dtype == torch.float32 and got.tolist() == [1.0, 0.25, 1.0, 0.25]


ALPHAS = np.cumprod(1 - np.linspace(np.sqrt(0.00085), np.sqrt(0.012), 1000) ** 2)
SNR = ALPHAS / (1 - ALPHAS)
EVERY = torch.arange(1000)
ERRORS = torch.linspace(-3, 3, 8, dtype=torch.float64).reshape(1, 1, 2, 4).repeat(3, 1, 1, 1)


def scheduler() -> SimpleNamespace:
    """What sd-scripts' functions look at of its noise scheduler."""
    config = SimpleNamespace(num_train_timesteps=1000)
    return SimpleNamespace(alphas_cumprod=torch.from_numpy(ALPHAS), all_snr=torch.from_numpy(SNR), config=config)


WEIGHTS = {
    "debiased, epsilon": (
        lambda snr: subject.debiased_weight(snr, "epsilon"),
        1 / np.sqrt(np.minimum(SNR, 1000)),
        lambda kohya, ones: kohya.apply_debiased_estimation(ones, EVERY, scheduler(), False),
    ),
    "debiased, velocity": (
        lambda snr: subject.debiased_weight(snr, "v_prediction"),
        1 / (np.minimum(SNR, 1000) + 1),
        lambda kohya, ones: kohya.apply_debiased_estimation(ones, EVERY, scheduler(), True),
    ),
    "velocity like noise": (
        subject.noise_like_weight,
        np.minimum(SNR, 1000) / (np.minimum(SNR, 1000) + 1),
        lambda kohya, ones: kohya.scale_v_prediction_loss_like_noise_prediction(ones, EVERY, scheduler()),
    ),
    "min-SNR, epsilon": (
        lambda snr: subject.min_snr_weight(snr, 5, "epsilon"),
        np.minimum(SNR, 5) / SNR,
        lambda kohya, ones: kohya.apply_snr_weight(ones, EVERY, scheduler(), 5, False),
    ),
    "min-SNR, velocity": (
        lambda snr: subject.min_snr_weight(snr, 5, "v_prediction"),
        np.minimum(SNR, 5) / (SNR + 1),
        lambda kohya, ones: kohya.apply_snr_weight(ones, EVERY, scheduler(), 5, True),
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weight_equals_its_formula_at_every_timestep(name):
    ours, formula, _ = WEIGHTS[name]
    np.testing.assert_allclose(ours(torch.from_numpy(SNR)).numpy(), formula, rtol=1e-12)


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weight_equals_sd_scripts_at_every_timestep(name):
    ours, _, theirs = WEIGHTS[name]
    kohya = functions(
        "library/custom_train_functions.py",
        "apply_debiased_estimation",
        "apply_snr_weight",
        "get_snr_scale",
        "scale_v_prediction_loss_like_noise_prediction",
    )
    expected = theirs(kohya, torch.ones(1000, dtype=torch.float64))
    torch.testing.assert_close(ours(torch.from_numpy(SNR)), expected.double(), rtol=1e-6, atol=0)  # min-SNR is float32


C = np.array([0.1, 0.5, 1.0])[:, None, None, None]
COSTS = {
    "l2": lambda d: d**2,
    "l1": np.abs,
    "huber": lambda d: 2 * C * (np.sqrt(d**2 + C**2) - C),
    "smooth_l1": lambda d: 2 * (np.sqrt(d**2 + C**2) - C),
}


@pytest.mark.parametrize("loss_type", subject.LOSS_TYPES)
def test_every_loss_equals_its_formula(loss_type):
    got = subject.elementwise_loss(ERRORS, loss_type, torch.from_numpy(C.ravel()))
    np.testing.assert_allclose(got.numpy(), COSTS[loss_type](ERRORS.numpy()), rtol=1e-12)


@pytest.mark.parametrize("loss_type", subject.LOSS_TYPES)
def test_every_loss_equals_sd_scripts(loss_type):
    theirs = functions("library/train_util.py", "conditional_loss").conditional_loss
    threshold = torch.from_numpy(C.ravel())
    expected = theirs(ERRORS, torch.zeros_like(ERRORS), loss_type, "none", threshold)
    torch.testing.assert_close(subject.elementwise_loss(ERRORS, loss_type, threshold), expected, rtol=1e-12, atol=1e-15)


def test_a_small_error_is_not_lost_beside_a_large_threshold():
    got = subject.elementwise_loss(torch.tensor([1e-4]), "huber", torch.tensor([1.0]))
    assert got.item() == pytest.approx(1e-8, rel=1e-6)  # sqrt(1 + 1e-8) - 1 is 0 in float32


THRESHOLDS = {
    "snr": (1 - 0.2) / (1 + np.sqrt((1 - ALPHAS) / ALPHAS)) ** 2 + 0.2,
    "exponential": 0.2 ** (np.arange(1000) / 1000) * 3.0,
    "constant": np.full(1000, 0.2 * 3.0),
}


@pytest.mark.parametrize("schedule", subject.HUBER_SCHEDULES)
def test_every_huber_schedule_equals_its_formula(schedule):
    got = subject.huber_threshold(EVERY, torch.from_numpy(ALPHAS), schedule, 0.2, 3.0)
    np.testing.assert_allclose(got.numpy(), THRESHOLDS[schedule], rtol=1e-12)


@pytest.mark.parametrize("schedule", subject.HUBER_SCHEDULES)
def test_every_huber_schedule_equals_sd_scripts(schedule):
    theirs = functions("library/train_util.py", "get_huber_threshold_if_needed").get_huber_threshold_if_needed
    args = SimpleNamespace(loss_type="huber", huber_schedule=schedule, huber_c=0.2, huber_scale=3.0)
    got = subject.huber_threshold(EVERY, torch.from_numpy(ALPHAS), schedule, 0.2, 3.0)
    torch.testing.assert_close(got, theirs(args, EVERY, scheduler()).double(), rtol=1e-5, atol=0)


def test_a_masked_loss_equals_sd_scripts():
    kohya = functions("library/custom_train_functions.py", "apply_masked_loss")
    prediction, target = ERRORS.float().repeat(1, 4, 1, 1), torch.zeros(3, 4, 2, 4)
    mask = torch.rand(3, 16, 32, generator=torch.Generator().manual_seed(0))
    kohya_loss = kohya.apply_masked_loss((prediction - target) ** 2, {"alpha_masks": mask})
    got = subject.per_sample_loss(prediction, target, subject.resize_mask(mask[:, None], 2, 4))
    torch.testing.assert_close(got, kohya_loss.mean(dim=(1, 2, 3)))
