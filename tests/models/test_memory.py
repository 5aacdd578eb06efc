"""Activations computed again, attention kernels and compilation leave the numbers and the model as they are."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from lib_lora.adapters.network import Network
from lib_lora.adapters.spec import TEXT_ENCODER, UNET, NetworkSpec
from lib_lora.base.errors import StudioError
from lib_lora.models.memory import MemoryOptions, run_with, text_layers, unet_layers
from lib_lora.models.prompt import encode_captions

CPU = torch.device("cpu")
DROPOUTS = {"dropout": 0.3, "rank_dropout": 0.3, "module_dropout": 0.3}
ALL_LAYERS = 22 + 16 + 3  # SD1: 8 + 2 + 12 residual blocks, 6 + 1 + 9 transformers; three layers of the tiny encoder


@pytest.fixture
def network(tiny_model):
    """Attached, with a change in every layer."""
    network = Network.create(
        tiny_model.unet, tiny_model.text_encoders, NetworkSpec(2, 2.0, conv_rank=1, **DROPOUTS), seed=3
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    network.attach()
    network.train()
    network.set_step(5, (0, 1))
    yield network
    network.detach_from_model()


def predict(model) -> torch.Tensor:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return model.predict(latents, torch.tensor([100, 700]), encode_captions(model, ["red dog", "blue cat"]))


def gradients(model, network, options: MemoryOptions, after_forward=contextlib.nullcontext) -> list[torch.Tensor]:
    network.zero_grad(set_to_none=True)
    with run_with(model, options, network.state.repeat):
        loss = predict(model).square().mean()
        with after_forward():
            loss.backward()
    return [torch.zeros(0) if p.grad is None else p.grad.clone() for p in network.parameters()]


def equal(these: list[torch.Tensor], those: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))


def kept_bytes(model, options: MemoryOptions, network) -> int:
    """What autograd holds on to between forward and backward, each storage once, without weights."""
    weights = {t.untyped_storage().data_ptr() for m in [*model.modules(), network] for t in m.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with run_with(model, options, network.state.repeat):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prediction = predict(model)
        total = sum(kept.values())
        del prediction
    return total


@pytest.mark.parametrize("depth", [None, 1, 2, 9])
def test_gradients_are_bit_for_bit_those_without_checkpointing_dropouts_included(tiny_model, network, depth):
    wanted = gradients(tiny_model, network, MemoryOptions())
    assert any(bool(gradient.abs().sum()) for gradient in wanted)
    assert equal(gradients(tiny_model, network, MemoryOptions(True, depth)), wanted)


def test_a_repeated_forward_finds_strengths_and_step_of_the_first(tiny_model, network):
    """An objective may run several forwards under different strengths before its one backward pass."""

    @contextlib.contextmanager
    def other_state():
        before = network.state.step
        with network.strength(te=0.0, unet=-2.0):
            network.set_step(6, (7, 8))
            yield
        network.set_step(before, (0, 1))

    wanted = gradients(tiny_model, network, MemoryOptions())
    assert equal(gradients(tiny_model, network, MemoryOptions(True), other_state), wanted)
    assert network.state.strengths == {UNET: 1.0, TEXT_ENCODER: 1.0}


def test_the_more_levels_are_computed_again_the_less_is_kept(tiny_model, network):
    sizes = [
        kept_bytes(tiny_model, options, network)
        for options in (MemoryOptions(), MemoryOptions(True, 1), MemoryOptions(True, 2), MemoryOptions(True))
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    assert sizes[-1] < sizes[0] / 2


def test_depth_counts_levels_from_the_finest(tiny_model):
    unet = tiny_model.unet
    finest = [*unet.down_blocks[0].modules(), *unet.up_blocks[3].modules()]
    layers = unet_layers(unet, 1)
    assert len(layers) == 2 + 3 + 2 + 3  # residual blocks and transformers down, and up
    assert all(any(layer is module for module in finest) for layer in layers)
    assert len(unet_layers(unet)) == len(unet_layers(unet, 4)) == 22 + 16


def test_afterwards_the_model_is_as_it_was(tiny_model):
    layers = [*unet_layers(tiny_model.unet), *text_layers(tiny_model.text_encoders)]
    assert len(layers) == ALL_LAYERS
    own = layers[0].forward
    layers[0].forward = own  # as precision.cast_on_use leaves it
    with run_with(tiny_model, MemoryOptions(True)):
        assert all("forward" in vars(layer) and layer.forward is not own for layer in layers)
    assert layers[0].forward is own
    assert not any("forward" in vars(layer) for layer in layers[1:])


def test_sampling_under_checkpointing_gives_the_same_numbers(tiny_model):
    with torch.no_grad():
        plain = predict(tiny_model)
        with run_with(tiny_model, MemoryOptions(True)):
            assert torch.equal(predict(tiny_model), plain)


OLD_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5)


@pytest.mark.skipif(OLD_TORCH, reason="torch.compile is refused there")
def test_compiled_layers_hold_their_adapters_and_give_the_same_gradients():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
    ).requires_grad_(False)
    model = SimpleNamespace(unet=unet, text_encoders=[], device=CPU)
    network = Network.create(unet, [], NetworkSpec(3, 3.0, train_text_encoder=False), seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    network.attach()
    network.train()
    products = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        products.append(sum("addmm" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    def gradients(options: MemoryOptions) -> list[torch.Tensor]:
        network.zero_grad(set_to_none=True)
        with run_with(model, options, network.state.repeat):
            unet(torch.ones(1, 4, 8, 8), 7, torch.ones(1, 5, 16)).sample.square().mean().backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    wanted = gradients(MemoryOptions())
    torch._dynamo.reset()
    try:
        compiled = gradients(MemoryOptions(compiled=True, backend=backend))
        both = gradients(MemoryOptions(True, compiled=True, backend=backend))
    finally:
        torch._dynamo.reset()
    for other in (compiled, both):
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(other, wanted, strict=True))
    # A transformer has ten adapted layers; without them in its graph there would be none of these products.
    assert max(products) == 10


@pytest.mark.skipif(not OLD_TORCH, reason="this PyTorch takes hooks into its graphs")
def test_a_torch_that_leaves_the_graph_at_every_adapter_is_refused():
    with pytest.raises(StudioError, match="torch_compile.*2.5 or newer"):
        MemoryOptions(compiled=True, backend="eager").check(CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MemoryOptions(attention="xformers"), "attention.*CUDA"),
        (MemoryOptions(attention="flash"), "attention.*sdpa, xformers"),
        (MemoryOptions(depth=2), "gradient_checkpointing_depth.*gradient_checkpointing"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_by_name(options, message):
    with pytest.raises(StudioError, match=f"(?s){message}"):
        options.check(CPU)


def test_without_xformers_a_card_is_refused_too(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StudioError, match="xformers, which is not installed"):
        MemoryOptions(attention="xformers").check(torch.device("cuda"))


@pytest.mark.skipif(OLD_TORCH, reason="torch.compile is refused there")
def test_compiling_for_a_processor_is_refused():
    with pytest.raises(StudioError, match="torch_compile.*CUDA"):
        MemoryOptions(compiled=True).check(CPU)
