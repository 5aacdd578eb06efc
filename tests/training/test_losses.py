from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.training import losses as subject


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
    got = subject.per_sample_mse(prediction, target)
    expected = ((prediction.double().numpy() - target.double().numpy()) ** 2).mean(axis=(1, 2, 3))
    assert got.dtype == torch.float32 and got.shape == (3,)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_mse_does_not_overflow_in_half_precision():
    got = subject.per_sample_mse(torch.full((1, 1, 2, 2), 300.0).half(), torch.full((1, 1, 2, 2), -300.0).half())
    assert got.item() == 360000.0  # above float16's largest number, 65504


def test_a_mask_lessens_the_loss_and_the_mean_is_over_the_whole_picture():
    prediction, target = torch.full((2, 4, 2, 2), 2.0), torch.zeros(2, 4, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.5, 0.0]]).view(1, 1, 2, 2).expand(2, 1, 2, 2)
    got = subject.per_sample_mse(prediction, target, mask)
    # 4 * (1 + 0 + 0.5 + 0) / 4, which is what sd-scripts' apply_masked_loss followed by a mean gives
    torch.testing.assert_close(got, torch.tensor([1.5, 1.5]))


def test_masked_pixels_get_no_gradient():
    prediction = torch.ones(1, 4, 2, 2, requires_grad=True)
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(1, 1, 2, 2)
    subject.per_sample_mse(prediction, torch.zeros(1, 4, 2, 2), mask).sum().backward()
    assert (prediction.grad[..., 1] == 0).all() and (prediction.grad[..., 0] > 0).all()


def test_a_mask_is_resized_by_the_mean_of_each_cell():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8, :4] = 1.0
    torch.testing.assert_close(subject.resize_mask(mask, 2, 2), torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]]))


def test_prior_loss_weights_only_regularisation_images():
    got = subject.prior_loss_weights(torch.tensor([False, True, False, True]), 0.25)
    assert got.dtype == torch.float32 and got.tolist() == [1.0, 0.25, 1.0, 0.25]
