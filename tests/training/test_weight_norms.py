"""Longest changes of layers, against the dense product and against sd-scripts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_lora.adapters.base import NetworkSpec
from lib_lora.adapters.network import Network
from lib_lora.training.weight_norms import check_scalable, scale_weight_norms
from sd_scripts import functions


@pytest.fixture
def network(tiny_model):
    """Every third change shorter than 1, the others longer."""
    spec = NetworkSpec(rank=2, alpha=1.0, conv_rank=2, conv_alpha=2.0)
    made = Network.create(tiny_model.unet, tiny_model.text_encoders, spec, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for index, parameter in enumerate(made.parameters()):
            strength = 0.01 if index // 2 % 3 == 0 else 0.5
            parameter.copy_(strength * torch.randn(parameter.shape, generator=generator))
    return made


def test_only_long_changes_are_shortened_and_to_the_limit(network):
    before = {adapter.key: adapter.dense_delta().detach().double() for adapter in network}
    scale_weight_norms(network, 1.0)
    longer = 0
    for adapter in network:
        norm = before[adapter.key].norm()
        longer += bool(norm > 1)
        expected = before[adapter.key] * (1.0 / norm if norm > 1 else 1.0)
        torch.testing.assert_close(adapter.dense_delta().double(), expected, rtol=1e-5, atol=1e-8)
    assert 0 < longer < len(network)


def test_both_factors_are_scaled_as_sd_scripts_scales_them(network):
    theirs = functions("networks/lora.py", "apply_max_norm_regularization").apply_max_norm_regularization
    tensors = network.state_tensors()
    theirs(SimpleNamespace(state_dict=lambda: tensors), 1.0, "cpu")
    scale_weight_norms(network, 1.0)
    for key, tensor in network.state_tensors().items():
        torch.testing.assert_close(tensor, tensors[key], rtol=1e-5, atol=1e-8)


def test_a_fresh_network_stays_as_it_is(tiny_model):
    fresh = Network.create(tiny_model.unet, tiny_model.text_encoders, NetworkSpec(rank=2, alpha=1.0), seed=1)
    before = fresh.state_tensors()
    check_scalable(fresh)
    scale_weight_norms(fresh, 1.0)
    assert all(torch.equal(before[key], tensor) for key, tensor in fresh.state_tensors().items())
