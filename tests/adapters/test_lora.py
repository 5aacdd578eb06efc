import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib_lora.adapters.lora import LoraAdapter
from lib_lora.adapters.spec import NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError

LAYERS = {
    "linear": lambda: nn.Linear(6, 5),
    "conv 1x1": lambda: nn.Conv2d(6, 5, 1),
    "conv 3x3": lambda: nn.Conv2d(6, 5, 3, padding=1),
    "conv 3x3, stride 2": lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1),
    "conv 3x3, no padding": lambda: nn.Conv2d(6, 5, 3, bias=False),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def input_for(layer, batch=2):
    shape = (batch, 6, 7, 7) if isinstance(layer, nn.Conv2d) else (batch, 3, 6)
    return torch.randn(shape, generator=generator(1), dtype=torch.float64)


def adapted(layer, rank=3, alpha=1.5, seed=7, spec=None, key="lora_unet_layer"):
    """An adapter with values in both matrices, as after some training."""
    spec = spec or NetworkSpec(rank, alpha, conv_rank=rank, conv_alpha=alpha)
    adapter = LoraAdapter.create(Target(key, "layer", "unet", layer.requires_grad_(False)), spec, NetworkState(seed))
    with torch.no_grad():
        adapter.lora_up.copy_(torch.randn(adapter.lora_up.shape, generator=generator(2)))
    adapter.attach()
    return adapter


def composed(layer, adapter, x, strength=1.0):
    """layer with W + strength * alpha / r * U D in place of W, the kernel made entry by entry."""
    up, down = adapter.lora_up, adapter.lora_down
    change = torch.einsum("or,r...->o...", up.reshape(up.shape[:2]), down)
    weight = layer.weight + strength * adapter.alpha / adapter.rank * change
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
    return F.linear(x, weight, layer.bias)


@pytest.mark.parametrize("kind", LAYERS)
def test_output_and_gradients_are_those_of_the_composed_weight(kind):
    layer = LAYERS[kind]().double()
    adapter = adapted(layer).double()
    x = input_for(layer).requires_grad_()
    weights = torch.randn(layer(x).shape, generator=generator(3), dtype=torch.float64)
    wanted_of = (x, adapter.lora_up, adapter.lora_down)
    ours = torch.autograd.grad((layer(x) * weights).sum(), wanted_of)
    wanted = torch.autograd.grad((composed(layer, adapter, x) * weights).sum(), wanted_of)
    torch.testing.assert_close(layer(x), composed(layer, adapter, x), rtol=1e-12, atol=1e-12)
    for ours_, wanted_ in zip(ours, wanted, strict=True):
        torch.testing.assert_close(ours_, wanted_, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["linear", "conv 3x3, stride 2"])
def test_gradients_are_those_of_finite_differences(kind):
    layer = LAYERS[kind]().double()
    adapter = adapted(layer, rank=2).double()
    x = input_for(layer, batch=1)

    def output(up, down):
        with torch.no_grad():
            adapter.lora_up.copy_(up)
            adapter.lora_down.copy_(down)
        loss = layer(x).square().sum()
        return loss, torch.autograd.grad(loss, (adapter.lora_up, adapter.lora_down))

    up, down = adapter.lora_up.detach().clone(), adapter.lora_down.detach().clone()
    _, (grad_up, grad_down) = output(up, down)
    h = 1e-6
    for matrix, grad in ((up, grad_up), (down, grad_down)):
        flat, flat_grad = matrix.view(-1), grad.reshape(-1)
        for index in range(0, flat.numel(), max(1, flat.numel() // 7)):
            old = flat[index].item()
            flat[index] = old + h
            above = output(up, down)[0]
            flat[index] = old - h
            below = output(up, down)[0]
            flat[index] = old
            assert flat_grad[index].item() == pytest.approx(((above - below) / (2 * h)).item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_dense_and_low_rank_forms_are_the_same_change(kind):
    layer = LAYERS[kind]()
    adapter = adapted(layer)
    up, down, scale = adapter.low_rank()
    assert up.shape == (5, 3) and down.shape == (3, layer.weight[0].numel())
    change = torch.einsum("or,r...->o...", adapter.lora_up.reshape(5, 3), adapter.lora_down) * 1.5 / 3
    torch.testing.assert_close(adapter.dense_delta(), change)
    torch.testing.assert_close((scale * up @ down).reshape(layer.weight.shape), change)
    assert adapter.dense_delta().shape == layer.weight.shape


@pytest.mark.parametrize("kind", LAYERS)
def test_a_fresh_adapter_changes_nothing_and_starts_as_sd_scripts_does(kind):
    layer = LAYERS[kind]()
    x = input_for(layer).float()
    before = layer(x)
    adapter = adapted(layer)
    fresh = LoraAdapter.create(adapter.target, NetworkSpec(4096, 1, conv_rank=4096), NetworkState(3))
    assert (fresh.lora_up == 0).all()
    adapter.detach_from_layer()
    fresh.attach()
    assert torch.equal(layer(x), before)
    # kaiming_uniform(a = sqrt 5): gain sqrt(2 / (1 + 5)), bound gain * sqrt(3 / fan_in); its variance is bound^2 / 3.
    bound = math.sqrt(2 / 6) * math.sqrt(3 / layer.weight[0].numel())
    down = fresh.lora_down.detach()
    assert down.abs().max() <= bound and down.abs().max() > 0.99 * bound
    assert down.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert abs(down.mean().item()) < 0.02 * bound


def test_the_start_depends_on_seed_and_name_alone():
    state = torch.get_rng_state()
    first, same = adapted(nn.Linear(6, 5)), adapted(nn.Linear(6, 5))
    assert torch.equal(first.lora_down, same.lora_down)
    assert not torch.equal(first.lora_down, adapted(nn.Linear(6, 5), seed=8).lora_down)
    assert not torch.equal(first.lora_down, adapted(nn.Linear(6, 5), key="lora_unet_other").lora_down)
    torch.set_rng_state(state)
    adapted_layer = nn.Linear(6, 5)
    after_layer = torch.get_rng_state()
    adapted(adapted_layer)
    assert torch.equal(torch.get_rng_state(), after_layer)


@pytest.mark.parametrize("alpha, scale", [(0, 1.0), (4, 1.0), (1, 0.25), (8, 2.0)])
def test_alpha_zero_means_rank(alpha, scale):
    assert adapted(nn.Linear(6, 5), rank=4, alpha=alpha).scale == scale


@pytest.mark.parametrize("conv_alpha, scale", [(None, 3 / 2), (0, 1.0), (1, 0.5)])
def test_spatial_convolutions_have_their_own_rank_and_alpha(conv_alpha, scale):
    spec = NetworkSpec(8, 3, conv_rank=2, conv_alpha=conv_alpha)
    spatial = LoraAdapter.create(Target("k", "n", "unet", nn.Conv2d(6, 5, 3)), spec, NetworkState())
    pointwise = LoraAdapter.create(Target("k", "n", "unet", nn.Conv2d(6, 5, 1)), spec, NetworkState())
    assert (spatial.rank, spatial.scale) == (2, scale)
    assert (pointwise.rank, pointwise.scale) == (8, 3 / 8)
    spec = NetworkSpec(8, 3)
    assert LoraAdapter.create(Target("k", "n", "unet", nn.Conv2d(6, 5, 3)), spec, NetworkState()) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_stay_float32_on_a_half_layer(dtype):
    layer = nn.Linear(6, 5)
    adapter = adapted(layer)
    with torch.no_grad():
        layer.to(dtype)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    x = input_for(layer).to(dtype)
    # The host's torch has no half matrix product on the CPU: the layer's own part is worked out in float32.
    change = adapter.delta(x)
    assert change.dtype == torch.float32
    torch.testing.assert_close(change, x.float() @ adapter.dense_delta().T)
    out = adapter._hook(layer, (x,), torch.zeros(2, 3, 5, dtype=dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out, change.to(dtype))


def test_autocast_chooses_the_dtype():
    layer = nn.Linear(6, 5)
    adapter = adapted(layer)
    x = input_for(layer).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
        assert out.dtype == torch.bfloat16
        assert adapter.delta(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), composed(layer, adapter, x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("strength", [0.0, 0.5, -1.0])
def test_strength_scales_the_change(strength):
    layer = nn.Linear(6, 5).double()
    x = input_for(layer)
    base = layer(x)
    adapter = adapted(layer).double()
    adapter.state.multiplier = strength
    torch.testing.assert_close(layer(x), composed(layer, adapter, x, strength), rtol=1e-12, atol=1e-12)
    if strength == 0:
        assert torch.equal(layer(x), base)


def test_strength_zero_is_the_base_output_even_with_broken_weights():
    layer = nn.Linear(6, 5)
    x = input_for(layer).float()
    base = layer(x)
    adapter = adapted(layer)
    with torch.no_grad():
        adapter.lora_up.fill_(float("nan"))
    adapter.state.strengths["unet"] = 0.0
    assert torch.equal(layer(x), base)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cuda_autocast_computes_in_its_dtype(dtype):
    layer = nn.Linear(6, 5).to("cuda", dtype)
    adapter = adapted(layer)
    x = input_for(layer).to("cuda", dtype)
    with torch.autocast("cuda", dtype=dtype):
        assert adapter.delta(x).dtype == dtype
        assert layer(x).dtype == dtype
    assert adapter.delta(x).dtype == torch.float32
    assert adapter.lora_up.device.type == "cuda"


def test_attaching_twice_is_once_and_detaching_leaves_no_hook():
    layer = nn.Linear(6, 5)
    x = input_for(layer).float()
    base = layer(x)
    adapter = adapted(layer)
    adapter.attach()
    assert len(layer._forward_hooks) == 1
    adapter.detach_from_layer()
    adapter.detach_from_layer()
    assert not layer._forward_hooks and not adapter.attached
    assert torch.equal(layer(x), base)


def test_the_frozen_layer_is_no_part_of_the_adapter():
    layer = nn.Linear(6, 5)
    adapter = adapted(layer)
    assert {name for name, _ in adapter.named_parameters()} == {"lora_up", "lora_down"}
    assert not layer.weight.requires_grad and adapter.lora_up.requires_grad
    layer(input_for(layer).float()).sum().backward()
    assert layer.weight.grad is None and adapter.lora_up.grad is not None


def test_a_rank_above_what_the_layer_allows_is_noted():
    assert adapted(nn.Linear(6, 5), rank=5).note() is None
    assert "rank 6" in adapted(nn.Linear(6, 5), rank=6).note()
    assert adapted(nn.Conv2d(1, 9, 3), rank=9).note() is None


def test_grouped_convolutions_are_refused():
    with pytest.raises(ValueError, match="grouped"):
        adapted(nn.Conv2d(6, 6, 3, groups=2))


# -- dropout --


def dropping(layer, seed=7, **shares):
    rank = 8
    return adapted(layer, rank=rank, spec=NetworkSpec(rank, rank, conv_rank=rank, **shares), seed=seed)


def changes(layer, adapter, x, steps):
    base_layer_output = adapter.target.layer.forward(x)
    for step in range(steps):
        adapter.state.step = step
        yield layer(x) - base_layer_output


@pytest.mark.parametrize("kind", ["linear", "conv 3x3"])
@pytest.mark.parametrize("shares", [{"dropout": 0.3}, {"rank_dropout": 0.3}, {"dropout": 0.2, "rank_dropout": 0.3}])
def test_the_mean_over_dropouts_is_the_change_without(kind, shares):
    layer = LAYERS[kind]().double()
    adapter = dropping(layer, **shares).double()
    x = input_for(layer)
    steps = 400
    drawn = torch.stack(list(changes(layer, adapter, x, steps)))
    adapter.eval()
    wanted = layer(x) - layer.forward(x)
    # In standard errors of the mean: normal, and below 1 in square mean unless a factor is missing.
    error = (drawn.mean(0) - wanted) / (drawn.std(0) / math.sqrt(steps))
    assert error.abs().max() < 6 and error.square().mean() < 2.5


def test_module_dropout_leaves_out_whole_layers_in_the_given_share():
    layer = nn.Linear(6, 5).double()
    adapter = dropping(layer, module_dropout=0.25).double()
    x = input_for(layer)
    out = [bool((change == 0).all()) for change in changes(layer, adapter, x, 2000)]
    # 4 standard deviations of a binomial share.
    assert sum(out) / 2000 == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))


def masks_of(layer, adapter, shape):
    """What both dropouts multiply activations of the given shape with."""
    return adapter.drop(torch.ones(shape), 1 if isinstance(layer, nn.Conv2d) else -1)


def test_rank_dropout_drops_ranks_of_whole_samples():
    layer = nn.Conv2d(6, 5, 3)
    mask = masks_of(layer, dropping(layer, rank_dropout=0.5), (64, 8, 4, 4))
    assert torch.equal(mask, mask[:, :, :1, :1].expand_as(mask))
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(mask[0], mask[1])
    linear = nn.Linear(6, 5)
    mask = masks_of(linear, dropping(linear, rank_dropout=0.5), (64, 9, 8))
    assert torch.equal(mask, mask[:, :1, :].expand_as(mask))
    assert mask.mean().item() == pytest.approx(1, abs=0.2)


def test_network_dropout_drops_single_activations():
    layer = nn.Linear(6, 5)
    mask = masks_of(layer, dropping(layer, dropout=0.2), (64, 50, 8))
    assert set(mask.unique().tolist()) == {0.0, 1.25}
    assert (mask == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)


def test_nothing_is_dropped_outside_training():
    layer = nn.Linear(6, 5).double()
    adapter = dropping(layer, dropout=0.5, rank_dropout=0.5, module_dropout=0.5).double()
    adapter.eval()
    x = input_for(layer)
    for step in range(5):
        adapter.state.step = step
        torch.testing.assert_close(layer(x), composed(layer, adapter, x))


def test_a_step_draws_the_same_again_and_another_step_another():
    layer = nn.Linear(6, 5)
    adapter = dropping(layer, dropout=0.5)
    x = input_for(layer).float()
    first = layer(x)
    assert torch.equal(layer(x), first)
    adapter.state.step = 1
    assert not torch.equal(layer(x), first)
    adapter.state.step = 0
    assert torch.equal(layer(x), first)
    other = nn.Linear(6, 5)
    other.load_state_dict(layer.state_dict())
    dropping(other, seed=8, dropout=0.5).lora_down.data.copy_(adapter.lora_down.data)
    assert not torch.equal(other(x), first)


@pytest.mark.parametrize("kind", ["dropout", "rank_dropout"])
def test_a_picture_draws_the_same_in_every_batch(kind):
    layer = nn.Linear(6, 5).double()
    adapter = dropping(layer, **{kind: 0.5}).double()
    x = torch.randn(4, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    adapter.state.samples = (30, 11, 25, 4)
    whole = layer(x)
    adapter.state.samples = (25, 11)
    torch.testing.assert_close(layer(x[[2, 1]]), whole[[2, 1]], rtol=1e-12, atol=1e-12)
    adapter.state.samples = (31, 11)
    other = layer(x[:2])
    assert not torch.allclose(other[0], whole[0]) and torch.allclose(other[1], whole[1])


def test_a_caption_of_several_chunks_draws_for_each_of_them():
    layer = nn.Linear(6, 5).double()
    adapter = dropping(layer, dropout=0.5).double()
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = x.repeat_interleave(2, 0)[:, None]  # three captions of two chunks with the same content
    adapter.state.samples = (5, 6, 7)
    whole = layer(rows)
    assert not torch.allclose(whole[0], whole[1])
    adapter.state.samples = (7,)
    torch.testing.assert_close(layer(rows[4:]), whole[4:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_draws_the_same_masks_again(reentrant):
    layers = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    spec = {"dropout": 0.4, "rank_dropout": 0.3, "module_dropout": 0.2}
    adapters = [
        adapted(layers[index], spec=NetworkSpec(8, 8, **spec), key=f"lora_unet_{index}").double() for index in (0, 2)
    ]
    x = input_for(layers[0]).requires_grad_()
    parameters = [p for adapter in adapters for p in adapter.parameters()]
    unused = 0
    for step in range(20):
        for adapter in adapters:
            adapter.state.step = step
        plain = torch.autograd.grad(layers(x).square().sum(), parameters, allow_unused=True)
        for parameter in parameters:
            parameter.grad = None
        checkpoint(layers, x, use_reentrant=reentrant).square().sum().backward()
        for wanted, parameter in zip(plain, parameters, strict=True):
            unused += wanted is None
            assert (wanted is None) == (parameter.grad is None)
            assert wanted is None or torch.equal(parameter.grad, wanted)
    assert unused > 0


@pytest.mark.parametrize(
    "field, spec",
    [
        ("network_dim", {"rank": 0}),
        ("network_alpha", {"alpha": -1}),
        ("conv_dim", {"conv_rank": 0}),
        ("conv_alpha", {"conv_alpha": -0.1}),
        ("network_dropout", {"dropout": 1.0}),
        ("rank_dropout", {"rank_dropout": -0.1}),
        ("module_dropout", {"module_dropout": 1}),
    ],
)
def test_a_spec_with_a_bad_number_names_the_option(field, spec):
    with pytest.raises(StudioError) as caught:
        NetworkSpec(**{"rank": 4, "alpha": 1, **spec})
    assert caught.value.field == field
