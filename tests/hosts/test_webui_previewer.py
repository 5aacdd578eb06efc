"""Adapters on the WebUI's own kinds of layers, without a WebUI."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lib_lora.adapters.base import NETWORKS, Adapter
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.hosts.webui.previewer import _attention_with

WIDTH = 8


def stirred_adapter(name: str, layer: nn.Linear, place: str) -> Adapter:
    target = Target(f"lora_te_{place}", f"self_attn.{place}", "text_encoder", layer.requires_grad_(False))
    adapter = NETWORKS.get(name).create(target, NetworkSpec(2, 2.0, network_type=name, unit=1), NetworkState(1)).eval()
    generator = torch.Generator().manual_seed(len(place))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return adapter


@pytest.mark.parametrize("name", list(NETWORKS))
def test_open_clips_attention_computes_with_every_type(name):
    """Its q, k and v are one tensor there, and layers of their own in ours."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True).requires_grad_(False).eval()
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    before = copy.deepcopy(attention.state_dict())
    places = ("q_proj", "k_proj", "v_proj", "out_proj")
    layers = {place: nn.Linear(WIDTH, WIDTH) for place in places}
    for place, weight in zip(places, (*attention.in_proj_weight.chunk(3), attention.out_proj.weight)):
        layers[place].weight.data.copy_(weight)
    for place, bias in zip(places, (*attention.in_proj_bias.chunk(3), attention.out_proj.bias)):
        layers[place].bias.data.copy_(bias)
    adapters = {place: stirred_adapter(name, layer, place) for place, layer in layers.items()}
    x = torch.randn(2, 5, WIDTH)
    for adapter in adapters.values():
        adapter.state.multiplier = 0.5
        adapter.attach()
    q, k, v = (layers[place](x).unflatten(-1, (2, -1)).transpose(1, 2) for place in places[:3])
    heads = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // 2) ** 0.5, -1) @ v
    expected = layers["out_proj"](heads.transpose(1, 2).flatten(2))
    with _attention_with(attention, adapters):
        actual = attention(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in attention.state_dict().items())
