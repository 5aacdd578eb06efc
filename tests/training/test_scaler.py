from __future__ import annotations

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.training.scaler import LossScaler


def parameters(*gradients):
    made = [torch.nn.Parameter(torch.zeros(2)) for _ in gradients]
    for parameter, gradient in zip(made, gradients):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return made


def test_gradients_are_divided_by_the_scale_exactly():
    scaler = LossScaler(True)
    both = parameters([0.1 * 2**16, -3.0], None)
    assert scaler.scale == 2**16 and scaler.unscale(both)
    assert torch.equal(both[0].grad, torch.tensor([0.1, -3.0 / 2**16]))


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), -float("inf")])
def test_a_step_that_is_not_finite_is_skipped_and_halves_the_scale(bad):
    scaler = LossScaler(True)
    assert not scaler.unscale(parameters([1.0, 1.0], [bad, 1.0]))
    assert (scaler.scale, scaler.skipped) == (2**15, 1)


def test_the_scale_follows_torchs_own():
    """``torch._amp_update_scale_`` is what torch.cuda.amp.GradScaler calls."""
    ours, scale, tracker = LossScaler(True), torch.tensor(2.0**16), torch.tensor(0, dtype=torch.int32)
    try:
        torch._amp_update_scale_(scale.clone(), tracker.clone(), torch.tensor(0.0), 2.0, 0.5, 2000)
    except NotImplementedError:
        pytest.skip("this torch has it for CUDA alone")
    pattern = [False, False] + [True] * 2001 + [False] + [True] * 2000
    for finite in pattern:
        ours.unscale(parameters([1.0 if finite else float("inf"), 0.0]))
        torch._amp_update_scale_(scale, tracker, torch.tensor(0.0 if finite else 1.0), 2.0, 0.5, 2000)
        assert ours.scale == scale.item()


def test_the_state_goes_on_where_it_was():
    first, second = LossScaler(True), LossScaler(True)
    for scaler in (first,):
        scaler.unscale(parameters([float("inf"), 0.0]))
        scaler.unscale(parameters([1.0, 1.0]))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() == {"scale": 2.0**15, "good_steps": 1, "skipped": 1}


def test_gradients_that_are_never_finite_are_an_error():
    scaler = LossScaler(True)
    while scaler.scale > 2**-14:
        scaler.unscale(parameters([float("nan"), 0.0]))
    with pytest.raises(StudioError, match="mixed_precision"):
        scaler.unscale(parameters([float("nan"), 0.0]))


def test_without_half_precision_nothing_is_scaled_or_looked_at():
    scaler = LossScaler(False)
    only = parameters([float("nan"), 2.0])
    assert scaler.scale == 1 and scaler.unscale(only) and only[0].grad[1] == 2
