"""Every network type against LyCORIS' own modules, and against its formula written out."""

from __future__ import annotations

import math
from importlib.metadata import version

import pytest
import torch
import torch.nn.functional as F
from lycoris import modules as lycoris
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib_lora.adapters.base import NETWORKS, Adapter
from lib_lora.adapters.dora import DoraAdapter
from lib_lora.adapters.dylora import DyLoraAdapter
from lib_lora.adapters.full import NormAdapter
from lib_lora.adapters.lokr import factors_of
from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import BlockRank, NetworkSpec, NetworkState, Target
from lib_lora.base.errors import StudioError

LAYERS = {
    "linear": lambda: nn.Linear(20, 24),
    "linear without bias": lambda: nn.Linear(20, 24, bias=False),
    "1x1": lambda: nn.Conv2d(20, 24, 1),
    "3x3": lambda: nn.Conv2d(20, 24, 3, padding=1),
    "3x3 without bias": lambda: nn.Conv2d(20, 24, 3, padding=1, bias=False),
    "3x3, stride 2": lambda: nn.Conv2d(20, 24, 3, stride=2, padding=1),
}


def frozen(name: str) -> nn.Module:
    torch.manual_seed(3)
    return LAYERS[name]().requires_grad_(False)


def input_for(layer: nn.Module, batch: int = 2) -> Tensor:
    shape = (batch, 20, 5, 5) if isinstance(layer, nn.Conv2d) else (batch, 7, 20)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def spec_of(name: str, **options) -> NetworkSpec:
    return NetworkSpec(**{"rank": 3, "alpha": 2.0, "conv_rank": 3, "conv_alpha": 2.0, "network_type": name, **options})


def adapter_on(layer: nn.Module, name: str, seed: int = 7, **options) -> Adapter:
    spec = spec_of(name, **options)
    target = Target("lora_unet_layer", "layer", "unet", layer)
    state = NetworkState(seed)
    return (DoraAdapter if spec.dora else NETWORKS.get(name)).create(target, spec, state)


def stirred(adapter: Adapter, seed: int = 2) -> Adapter:
    """As after some training: something in every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return adapter


LYCORIS = {
    "LoRA": lycoris.locon.LoConModule,
    "LoHa": lycoris.loha.LohaModule,
    "LoKr": lycoris.lokr.LokrModule,
    "IA3": lycoris.ia3.IA3Module,
    "GLoRA": lycoris.glora.GLoRAModule,
    "Diag-OFT": lycoris.diag_oft.DiagOFTModule,
    "BOFT": lycoris.boft.ButterflyOFTModule,
    "Full": lycoris.full.FullModule,
}
DORA = {"dora": True}
# Type, layer, our options, LyCORIS' where they are called otherwise there.
CASES = [
    *(("LoRA", layer, {"use_tucker": True}, {}) for layer in ("3x3", "3x3, stride 2")),
    *(("LoRA", layer, {"use_scalar": True}, {}) for layer in ("linear", "3x3")),
    ("LoRA", "linear", {"rs_lora": True}, {}),
    *(("LoRA", layer, DORA, {}) for layer in LAYERS),
    ("LoRA", "3x3", {**DORA, "use_tucker": True}, {}),
    *(("LoHa", layer, {}, {}) for layer in LAYERS),
    ("LoHa", "linear", {"rank": 5}, {"lora_dim": 5}),
    *(("LoHa", layer, {"use_tucker": True}, {}) for layer in ("3x3", "3x3, stride 2")),
    ("LoHa", "linear", {"use_scalar": True, "rs_lora": True}, {}),
    *(("LoHa", layer, DORA, {}) for layer in ("linear", "3x3")),
    *(("LoKr", layer, {"rank": 2, "conv_rank": 2, "factor": 4}, {"lora_dim": 2}) for layer in LAYERS),
    ("LoKr", "linear", {}, {}),
    ("LoKr", "3x3", {"conv_rank": 2, "factor": 4, "use_tucker": True}, {"lora_dim": 2}),
    ("LoKr", "linear", {"rank": 1, "factor": 4, "decompose_both": True}, {"lora_dim": 1}),
    *(("LoKr", layer, {"full_matrix": True, "factor": 4}, {}) for layer in ("linear", "1x1", "3x3")),
    ("LoKr", "linear", {"rank": 2, "factor": 4, "use_scalar": True}, {"lora_dim": 2}),
    *(
        ("LoKr", layer, {"rank": 2, "conv_rank": 2, "factor": 4, **DORA}, {"lora_dim": 2})
        for layer in ("linear", "3x3")
    ),
    *(("GLoRA", layer, {}, {}) for layer in LAYERS),
    ("GLoRA", "linear", {"use_scalar": True}, {}),
    ("IA3", "linear", {}, {}),
    *(("IA3", layer, {}, {"train_on_input": True}) for layer in ("1x1", "3x3, stride 2")),
    *(("Diag-OFT", layer, {"rank": 4, "conv_rank": 4}, {"lora_dim": 4}) for layer in LAYERS),
    ("Diag-OFT", "linear", {"rank": 4, "constraint": 1e-2}, {"lora_dim": 4}),
    *(
        ("BOFT", f"{layer} without bias", {"rank": 6, "conv_rank": 6}, {"lora_dim": 6, "bypass_mode": True})
        for layer in ("linear", "3x3")
    ),
    *(("Full", layer, {}, {}) for layer in LAYERS),
]


def lycoris_module(name: str, layer: nn.Module, options: dict, more: dict, adapter: Adapter) -> nn.Module:
    """LyCORIS' module on a layer of its own, with our adapter's values."""
    spec = {"lora_dim": 3, "alpha": 2.0, **{key: value for key, value in options.items() if "rank" not in key}, **more}
    if spec.pop("dora", False):
        spec |= {"weight_decompose": True, "wd_on_out": False}
    module = LYCORIS[name]("x", layer, **spec)
    if name == "Full":
        module.apply_to()
    theirs = dict(module.named_parameters())
    for own, parameter in adapter.named_parameters():
        tensor = theirs[_their_name(own, theirs)]
        with torch.no_grad():
            tensor.copy_(parameter.detach().reshape(tensor.shape) + (tensor.detach() if name == "Full" else 0))
    return module


def _their_name(own: str, theirs: dict) -> str:
    own = own.removeprefix("inner.")
    return own if own in theirs else f"{own}.weight"


@pytest.mark.parametrize("name, layer_name, options, more", CASES)
def test_values_and_gradients_are_those_of_lycoris(name, layer_name, options, more):
    layer, other = frozen(layer_name), frozen(layer_name)
    adapter = stirred(adapter_on(layer, name, **options))
    module = lycoris_module(name, other, options, more, adapter)
    x = input_for(layer).requires_grad_()
    base = layer(x)
    weights = torch.randn(base.shape, generator=torch.Generator().manual_seed(3))
    expected = module(x)
    theirs = dict(module.named_parameters())
    own = dict(adapter.named_parameters())
    wanted_of = [x, *(theirs[_their_name(key, theirs)] for key in own)]
    wanted = torch.autograd.grad((expected * weights).sum(), wanted_of)
    adapter.attach()
    actual = layer(x)
    gradients = torch.autograd.grad((actual * weights).sum(), [x, *own.values()])
    change = float((expected - base).norm())
    assert change > 0.01 * float(base.norm()), "the module must do something"
    assert float((actual - expected).norm()) < 2e-5 * change
    if options.get("use_tucker") and name == "LoHa" and version("lycoris_lora").startswith("3."):
        pytest.skip("LyCORIS 3 has other gradients for LoHa in Tucker's form than its own values have")
    for key, ours, theirs_ in zip(["x", *own], gradients, wanted, strict=True):
        error = float((ours - theirs_.reshape(ours.shape)).norm() / theirs_.norm())
        assert error < 5e-5, f"{key}: {error}"
    adapter.detach_from_layer()
    assert torch.equal(layer(x), base) and not layer._forward_hooks and "forward" not in vars(layer)


TYPES = [
    *((name, {}) for name in ("LoRA", "LoHa", "LoKr", "IA3", "DyLoRA", "GLoRA", "Diag-OFT", "BOFT", "Full")),
    *((name, DORA) for name in ("LoRA", "LoHa", "LoKr")),
    *((name, {"use_tucker": True}) for name in ("LoRA", "LoHa", "LoKr")),
    *((name, {"use_scalar": True}) for name in ("LoRA", "LoHa", "LoKr", "GLoRA")),
]
SMALL = {"rank": 6, "conv_rank": 6, "unit": 2}


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize("name, options", TYPES)
def test_all_ways_to_the_output_are_one(name, options, layer_name):
    """Taken over, added to a layer's output at several strengths, and by the dense change."""
    layer = frozen(layer_name)
    adapter = stirred(adapter_on(layer, name, **{**SMALL, **options})).eval()
    x = input_for(layer)
    base = layer(x)
    weight = adapter.dense_delta()
    assert weight.shape == layer.weight.shape
    bias = adapter.bias_delta()
    for strength in (1.0, 0.5, -0.3):
        adapter.state.multiplier = strength
        changed = layer.bias if bias is None else (0 if layer.bias is None else layer.bias) + strength * bias
        geometry = (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else ()
        product = F.conv2d if geometry else F.linear
        expected = product(x, layer.weight + strength * weight, changed, *geometry)
        adapter.attach()
        taken_over = layer(x)
        adapter.detach_from_layer()
        added = adapter.add_to(base, x, strength)
        torch.testing.assert_close(taken_over, expected, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(added, expected, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(adapter.delta(x), adapter.add_to(base, x, 1.0) - base, rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize("name, options", TYPES)
def test_a_fresh_adapter_changes_nothing(name, options):
    for layer_name in ("linear", "3x3"):
        layer = frozen(layer_name)
        x = input_for(layer)
        base = layer(x)
        adapter_on(layer, name, **{**SMALL, **options}).attach()
        torch.testing.assert_close(layer(x), base, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["LoHa", "GLoRA", "LoRA"])
def test_low_rank_is_the_dense_change(name):
    for layer_name in ("linear", "3x3"):
        adapter = stirred(adapter_on(frozen(layer_name), name))
        up, down, scale = adapter.low_rank()
        torch.testing.assert_close((scale * up @ down).flatten(), adapter.dense_delta().flatten(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name, options", TYPES)
@pytest.mark.parametrize("layer_name", ["linear", "1x1", "3x3"])
def test_a_file_brings_back_the_same_change(name, options, layer_name):
    layer = frozen(layer_name)
    adapter = stirred(adapter_on(layer, name, **{**SMALL, **options})).eval()
    holder = nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([nn.ModuleDict({"x": layer})])})})
    tensors = {f"lora_unet_mid_block_attentions_0_x.{key}": each for key, each in adapter.state_tensors().items()}
    (loaded,) = Network.from_file_tensors(holder, [], tensors)
    torch.testing.assert_close(loaded.dense_delta(), adapter.dense_delta(), rtol=1e-4, atol=1e-5)
    own = loaded.state_tensors()
    assert own.keys() == adapter.state_tensors().keys()


@pytest.mark.parametrize("name, options", TYPES)
def test_tensors_of_another_layer_are_refused(name, options):
    tensors = adapter_on(frozen("linear"), name, **{**SMALL, **options}).state_tensors()
    holder = nn.ModuleDict({"x": nn.Linear(15, 33)})
    with pytest.raises(StudioError, match="does not fit|blocks"):
        Network.from_file_tensors(holder, [], {f"lora_unet_x.{key}": each for key, each in tensors.items()})


# -- LoHa --


@pytest.mark.parametrize("rows", [1, 300])
def test_lohas_two_ways_give_the_same(rows):
    """Few rows go through factors of rank r * r, many through the matrix."""
    torch.manual_seed(0)
    layer = nn.Linear(40, 48).requires_grad_(False)
    adapter = stirred(adapter_on(layer, "LoHa", rank=5))
    x = torch.randn(rows, 40)
    assert adapter._is_thin(x, replaces=True) == (rows == 1)
    adapter.attach()
    torch.testing.assert_close(layer(x), adapter.layer_forward(x) + F.linear(x, adapter.dense_delta()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_a_dense_size_is_kept_for_the_backward_pass(dtype):
    layer = nn.Linear(64, 64).requires_grad_(False).to(dtype)
    kinds = [("LoHa", {}), ("LoKr", {}), ("Full", {})] if dtype == torch.float32 else []
    for name, options in [*kinds, *((name, DORA) for name in ("LoRA", "LoHa", "LoKr"))]:
        adapter = stirred(adapter_on(layer, name, rank=2, **options))
        adapter.attach()
        kept: list[Tensor] = []

        def keep(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(torch.randn(8, 64, dtype=dtype, requires_grad=True))
        adapter.detach_from_layer()
        own = {parameter.data_ptr() for parameter in adapter.parameters()} | {layer.weight.data_ptr()}
        assert not [each for each in kept if each.numel() >= 64 * 64 and each.data_ptr() not in own], name


# -- LoKr --


@pytest.mark.parametrize(
    "size, wanted, factors",
    # LyCORIS' table in functional/general.py
    [
        (127, -1, (1, 127)),
        (128, -1, (8, 16)),
        (250, 4, (2, 125)),
        (360, 16, (15, 24)),
        (360, 8, (8, 45)),
        (512, 2, (2, 256)),
        (1024, 16, (16, 64)),
        (320, 16, (16, 20)),
    ],
)
def test_sizes_are_cut_as_lycoris_cuts_them(size, wanted, factors):
    from lycoris.functional import factorization

    assert factors_of(size, wanted) == factorization(size, wanted) == factors


# -- DyLoRA --


def test_dylora_trains_one_unit_on_top_of_those_before_it():
    layer = frozen("linear").double()
    adapter = stirred(adapter_on(layer, "DyLoRA", rank=6, unit=2)).double()
    assert isinstance(adapter, DyLoraAdapter)
    x = input_for(layer).double()
    adapter.attach()
    drawn = set()
    for step in range(20):
        adapter.state.step = step
        for parameter in adapter.parameters():
            parameter.grad = None
        out = layer(x)
        out.sum().backward()
        learns = [index for index, up in enumerate(adapter.ups) if up.grad is not None]
        assert len(learns) == 1
        assert [index for index, down in enumerate(adapter.downs) if down.grad is not None] == learns
        units = learns[0] + 1
        drawn.add(units)
        up, down = torch.cat(list(adapter.ups)[:units], 1), torch.cat(list(adapter.downs)[:units])
        change = 2.0 / 6 * math.sqrt(6 / (2 * units)) * x @ down.T @ up.T
        torch.testing.assert_close(out, F.linear(x, layer.weight, layer.bias) + change, rtol=1e-10, atol=1e-10)
    assert drawn == {1, 2, 3}


def test_dylora_is_a_lora_once_it_is_trained():
    adapter = stirred(adapter_on(frozen("3x3"), "DyLoRA", conv_rank=4, unit=2)).eval()
    tensors = adapter.state_tensors()
    assert tensors.keys() == {"lora_up.weight", "lora_down.weight", "alpha"}
    change = torch.einsum("or...,rikl->oikl", tensors["lora_up.weight"].flatten(1), tensors["lora_down.weight"])
    torch.testing.assert_close(adapter.dense_delta(), 2.0 / 4 * change)


def test_a_unit_that_does_not_divide_the_rank_is_refused():
    with pytest.raises(StudioError, match="unit"):
        adapter_on(frozen("linear"), "DyLoRA", rank=5, unit=2)


# -- DoRA --


def test_doras_norm_is_by_input_columns_and_its_file_the_webuis():
    for layer_name, shape in (("linear", (1, 20)), ("3x3", (1, 20, 1, 1))):
        layer = frozen(layer_name)
        adapter = adapter_on(layer, "LoRA", dora=True)
        axes = tuple(axis for axis in range(layer.weight.dim()) if axis != 1)
        assert adapter.state_tensors()["dora_scale"].shape == shape
        torch.testing.assert_close(adapter.dora_scale, layer.weight.square().sum(axes, keepdim=True).sqrt())


@pytest.mark.parametrize("name", ["LoRA", "LoHa", "LoKr"])
def test_dora_takes_inputs_that_the_checkpoint_has_no_weights_for(name):
    """As pruned and merged checkpoints have them: 0 of norm 0 is 0."""
    layer = frozen("linear")
    with torch.no_grad():
        layer.weight[:, 4] = 0
    x = input_for(layer)
    expected = layer(x)
    adapter = adapter_on(layer, name, dora=True)
    assert "1 of its inputs" in adapter.note()
    adapter.attach()
    for step in range(3):
        out = layer(x)
        if not step:
            torch.testing.assert_close(out, expected)
        adapter.zero_grad()
        (out - 1).square().mean().backward()
        with torch.no_grad():
            for parameter in adapter.parameters():
                assert parameter.grad.isfinite().all()
                parameter -= 0.01 * parameter.grad
    assert adapter.dora_scale[0, 4] != 0, "it learns like the others"


def test_repeated_forwards_give_the_same_gradients():
    layer = frozen("linear")
    for name, options in TYPES:
        adapter = stirred(adapter_on(layer, name, **{**SMALL, **options}, module_dropout=0.2))
        adapter.attach()
        x = input_for(layer).requires_grad_()
        parameters = list(adapter.parameters())
        plain = torch.autograd.grad(layer(x).square().sum(), parameters, allow_unused=True)
        again = torch.autograd.grad(
            checkpoint(layer, x, use_reentrant=False).square().sum(), parameters, allow_unused=True
        )
        adapter.detach_from_layer()
        for first, second in zip(plain, again, strict=True):
            assert (first is None) == (second is None)
            assert first is None or torch.equal(first, second), name


# -- layers --


@pytest.mark.parametrize("layer", [nn.LayerNorm(20), nn.GroupNorm(4, 20)], ids=["LayerNorm", "GroupNorm"])
def test_norms_change_as_in_lycoris(layer):
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    layer.requires_grad_(False)
    x = torch.randn(3, 20, 20)
    state = NetworkState()
    adapter = stirred(NormAdapter.create(Target("k", "n", "unet", layer), spec_of("LoRA"), state))
    module = lycoris.norms.NormModule("x", layer)
    with torch.no_grad():
        module.w_norm.copy_(adapter.weight)
        module.b_norm.copy_(adapter.bias)
    base, expected = layer(x), module(x)
    adapter.attach()
    torch.testing.assert_close(layer(x), expected)
    adapter.detach_from_layer()
    torch.testing.assert_close(adapter.add_to(base, x, 1.0), expected)
    assert adapter.state_tensors().keys() == {"w_norm", "b_norm"}


@pytest.mark.parametrize("first, second", [("LoHa", "LoRA"), ("LoRA", "Full"), ("Full", "LoHa"), ("LoHa", "LoKr")])
def test_two_loras_on_a_layer_add_up(first, second):
    layer = frozen("linear")
    x = input_for(layer)
    base = layer(x)
    adapters = [stirred(adapter_on(layer, name), seed) for seed, name in enumerate((first, second))]
    expected = adapters[1].add_to(adapters[0].add_to(base, x, 1.0), x, 1.0)
    for adapter in adapters:
        adapter.attach()
    torch.testing.assert_close(layer(x), expected)
    for adapter in adapters:
        adapter.detach_from_layer()
    assert torch.equal(layer(x), base) and "forward" not in vars(layer)


@pytest.mark.parametrize("name, options", TYPES)
def test_parameters_stay_float32_on_a_half_layer(name, options):
    layer = frozen("linear")
    adapter = stirred(adapter_on(layer, name, **{**SMALL, **options})).eval()
    expected = F.linear(input_for(layer), adapter.dense_delta())
    layer.to(torch.bfloat16)
    x = input_for(layer).bfloat16()
    adapter.attach()
    out = layer(x)
    assert out.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    change = out.float() - F.linear(x.float(), layer.weight.float(), layer.bias.float())
    if adapter.bias_delta() is not None:
        change = change - adapter.bias_delta()
    assert float((change - expected).norm() / expected.norm()) < 0.15


@pytest.mark.parametrize("layer_name", ["linear", "1x1", "3x3"])
@pytest.mark.parametrize("name, options", TYPES)
def test_autocast_gives_the_same_there_and_back_in_half_precision(name, options, layer_name):
    layer = frozen(layer_name)
    adapter = stirred(adapter_on(layer, name, **{**SMALL, **options})).eval()
    adapter.attach()
    x = input_for(layer)
    parameters = list(adapter.parameters())
    wanted = layer(x)
    gradients = torch.autograd.grad(wanted.sum(), parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert float((out.float() - wanted).norm() / wanted.norm()) < 0.05
    for half, whole in zip(torch.autograd.grad(out.float().sum(), parameters), gradients, strict=True):
        assert half.dtype == torch.float32
        assert float((half - whole).norm()) < 0.1 * float(whole.norm()) + 1e-3


def test_blocks_have_ranks_of_their_own():
    spec = NetworkSpec(8, 4.0, block_ranks={"IN01": BlockRank(2, 1.0, 3, 0.0), "M00.1": BlockRank(0, 1.0, None, 1.0)})
    linear, conv = nn.Linear(20, 24), nn.Conv2d(20, 24, 3)
    place = "down_blocks.0.attentions.0.proj_in"
    assert spec.rank_of(Target("k", place, "unet", linear)) == (2, 1.0)
    assert spec.rank_of(Target("k", place, "unet", conv)) == (3, 3.0)
    assert spec.rank_of(Target("k", "mid_block.attentions.0.proj_in", "unet", linear)) is None
    assert spec.rank_of(Target("k", "mid_block.resnets.1.conv1", "unet", linear)) == (8, 4.0)
    assert spec.rank_of(Target("k", "text_model.encoder.layers.0.mlp.fc1", "text_encoder", linear)) == (8, 4.0)


def test_ia3_of_inputs_is_no_ia3_of_outputs():
    layer = nn.Linear(20, 20).requires_grad_(False)
    adapter = adapter_on(layer, "IA3")
    adapter.check({"weight": torch.ones(20), "on_input": torch.tensor(0)})
    with pytest.raises(StudioError, match="on_input"):
        adapter.check({"weight": torch.ones(20), "on_input": torch.tensor(1)})


def test_boft_wants_sizes_that_it_can_cut():
    with pytest.raises(StudioError, match="network_dim.*at least 6"):
        adapter_on(frozen("linear"), "BOFT", rank=4)
