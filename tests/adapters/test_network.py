import hashlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from lib_lora.adapters.base import NETWORKS
from lib_lora.adapters.network import Network
from lib_lora.adapters.save import read_tensors, save_network
from lib_lora.adapters.spec import TEXT_ENCODER, UNET, BlockRank, NetworkSpec
from lib_lora.arch.keys import module_name
from lib_lora.base.errors import StudioError
from lib_lora.base.options import options_of
from lib_lora.training.options.network import NetworkOptions


def trained(models, spec=None, seed=5):
    """A network with values in all matrices, attached."""
    unet, text_encoder = models
    network = Network.create(unet, [text_encoder], spec or NetworkSpec(4, 2, conv_rank=2), seed)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for adapter in network:
            adapter.lora_up.copy_(torch.randn(adapter.lora_up.shape, generator=generator) * 0.05)
    network.attach()
    return network


def unet_inputs():
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(2, 4, 8, 8, generator=generator)
    return {
        "sample": sample,
        "timestep": torch.tensor([10, 700]),
        "encoder_hidden_states": torch.randn(2, 5, 16, generator=generator),
    }


def outputs(models):
    unet, text_encoder = models
    ids = torch.tensor([[48, 3, 4, 49, 49], [48, 7, 8, 9, 49]])
    return unet(**unet_inputs()).sample, text_encoder(ids).last_hidden_state


def flags(models):
    return [(name, p.requires_grad) for model in models for name, p in model.named_parameters()]


# Counts and key lists of kohya-ss/sd-scripts 48d368f: LoRANetwork over its own original_unet.UNet2DConditionModel
# and CLIPTextModel ViT-L on the meta device, rank 8 (conv 4); sha256 of the sorted lines "key [shape]".
SD_SCRIPTS = [
    (None, 192, "63063dc5d17a30a78858b7dd32dd5f0977711f6d7ebfc8cdc802b6a45e503205", 4_718_856),
    (4, 278, "93024ef573b0055b94e3b82a16b4ad2d94f9a0118619bc75ee4813a2dc193b27", 7_557_982),
]


@pytest.mark.parametrize("conv_rank, unet_modules, digest, elements", SD_SCRIPTS)
def test_sd1_has_the_modules_keys_and_shapes_of_sd_scripts(meta_sd1, conv_rank, unet_modules, digest, elements):
    unet, text_encoder = meta_sd1
    network = Network.create(unet, [text_encoder], NetworkSpec(8, 4, conv_rank=conv_rank, conv_alpha=1), seed=0)
    parts = [adapter.target.part for adapter in network]
    assert (parts.count(UNET), parts.count(TEXT_ENCODER)) == (unet_modules, 72)
    tensors = {f"{a.key}.{suffix}": tensor for a in network for suffix, tensor in a.state_tensors().items()}
    lines = sorted(f"{key} {list(tensor.shape)}" for key, tensor in tensors.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
    assert sum(tensor.numel() for tensor in tensors.values()) == elements


def test_every_key_of_sd1_leads_back_to_its_module(meta_sd1):
    unet, text_encoder = meta_sd1
    for adapter in Network.create(unet, [text_encoder], NetworkSpec(8, 4, conv_rank=4), seed=0):
        assert module_name(adapter.key) == adapter.target.module_name


def test_two_text_encoders_get_numbered_names(models):
    unet, text_encoder = models
    network = Network.create(unet, [text_encoder, text_encoder], NetworkSpec(4, 1, train_unet=False), seed=0)
    assert {adapter.key[:9] for adapter in network} == {"lora_te1_", "lora_te2_"}


@pytest.mark.parametrize(
    "targets, found, unet_modules, text_modules",
    [
        ("all", ".", 192, 72),
        ("attention", "attn1|attn2|self_attn", 128, 48),
        ("self-attention", "attn1|self_attn", 64, 48),
        ("cross-attention", "attn2", 64, 0),
        (r"^up_blocks\..*to_k$", "to_k", 18, 0),
        (r"layers\.11\.mlp", "text_model.encoder.layers.11.mlp", 0, 2),
    ],
)
def test_targets_choose_layers_by_their_own_names(meta_sd1, targets, found, unet_modules, text_modules):
    unet, text_encoder = meta_sd1
    network = Network.create(unet, [text_encoder], NetworkSpec(8, 4, targets=targets), seed=0)
    parts = [adapter.target.part for adapter in network]
    assert (parts.count(UNET), parts.count(TEXT_ENCODER)) == (unet_modules, text_modules)
    assert all(any(word in adapter.target.module_name for word in found.split("|")) for adapter in network)


@pytest.mark.parametrize(
    "spec, words",
    [
        ({"targets": "nowhere"}, "no layer"),
        ({"targets": "("}, "regular expression"),
        ({"train_unet": False, "train_text_encoder": False}, "no layer"),
        ({"network_type": "LoRa-Deluxe"}, "network_type"),
    ],
)
def test_a_choice_without_layers_is_refused(models, spec, words):
    unet, text_encoder = models
    with pytest.raises(StudioError, match=words):
        Network.create(unet, [text_encoder], NetworkSpec(4, 1, **spec), seed=0)


def test_parts_can_be_left_out(models):
    unet, text_encoder = models
    only_unet = Network.create(unet, [text_encoder], NetworkSpec(4, 1, train_text_encoder=False), seed=0)
    assert set(only_unet.parameter_groups()) == {"unet"}
    only_text = Network.create(unet, [text_encoder], NetworkSpec(4, 1, train_unet=False), seed=0)
    assert set(only_text.parameter_groups()) == {"text_encoder"}


def test_a_layers_start_does_not_depend_on_the_other_layers(models):
    unet, text_encoder = models
    whole = Network.create(unet, [text_encoder], NetworkSpec(4, 1), seed=3).state_tensors()
    part = Network.create(unet, [text_encoder], NetworkSpec(4, 1, targets="attn2"), seed=3).state_tensors()
    assert part and all(torch.equal(tensor, whole[key]) for key, tensor in part.items())


def test_groups_hold_every_parameter_once(models):
    network = trained(models)
    groups = network.parameter_groups()
    assert list(groups) == ["unet", "text_encoder"]
    listed = [id(p) for group in groups.values() for p in group]
    assert len(listed) == len(set(listed)) and set(listed) == {id(p) for p in network.parameters()}
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def test_the_models_own_output_is_exact_at_strength_zero_and_after_detaching(models):
    before_flags, base = flags(models), outputs(models)
    state = torch.get_rng_state()
    network = trained(models)
    assert torch.equal(torch.get_rng_state(), state)
    changed = outputs(models)
    assert not any(torch.equal(ours, own) for ours, own in zip(changed, base, strict=True))
    network.multiplier = 0
    assert all(torch.equal(ours, own) for ours, own in zip(outputs(models), base, strict=True))
    network.multiplier = 1
    network.detach_from_model()
    assert all(torch.equal(ours, own) for ours, own in zip(outputs(models), base, strict=True))
    assert not any(module._forward_hooks for model in models for module in model.modules())
    assert flags(models) == before_flags
    network.attach()
    assert all(torch.equal(ours, first) for ours, first in zip(outputs(models), changed, strict=True))


def test_the_change_is_that_of_weights_with_the_dense_deltas_added(models):
    network = trained(models)
    adapted = outputs(models)
    network.detach_from_model()
    with torch.no_grad():
        for adapter in network:
            adapter.target.layer.weight += adapter.dense_delta()
    for ours, merged in zip(adapted, outputs(models), strict=True):
        torch.testing.assert_close(ours, merged, rtol=1e-4, atol=1e-5)


def test_strength_sets_each_part_for_a_while(models):
    base = outputs(models)
    network = trained(models)
    full = outputs(models)
    with network.strength(te=0):
        assert torch.equal(outputs(models)[0], full[0]) and torch.equal(outputs(models)[1], base[1])
        with network.strength(unet=0.0):
            assert torch.equal(outputs(models)[0], base[0]) and torch.equal(outputs(models)[1], base[1])
        assert torch.equal(outputs(models)[0], full[0])
    with pytest.raises(RuntimeError), network.strength(te=0.3, unet=0.3):
        raise RuntimeError
    assert all(torch.equal(ours, first) for ours, first in zip(outputs(models), full, strict=True))
    network.multiplier = 0.5
    with network.strength(te=2, unet=2):
        assert all(torch.equal(ours, first) for ours, first in zip(outputs(models), full, strict=True))


def test_gradient_checkpointing_gives_the_same_gradients_with_every_dropout(models):
    spec = NetworkSpec(4, 4, conv_rank=2, dropout=0.3, rank_dropout=0.2, module_dropout=0.2, train_text_encoder=False)
    network, unet = trained(models, spec), models[0].train()
    network.set_step(12, (3, 7))

    def gradients():
        network.zero_grad(set_to_none=True)
        unet(**unet_inputs()).sample.square().mean().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    plain = gradients()
    unet.enable_gradient_checkpointing()
    again = gradients()
    assert plain.keys() == again.keys() and 0 < len(plain) < len(list(network.parameters()))
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=1e-5, atol=1e-8)
    network.set_step(13, (3, 7))
    other = gradients()
    assert any(name not in plain or not torch.allclose(other[name], plain[name]) for name in other)


@pytest.mark.parametrize(
    "precision, dtype, rounding",
    [
        ("float", torch.float32, 0),
        ("fp16", torch.float16, 2**-11),
        ("bf16", torch.bfloat16, 2**-8),
    ],
)
def test_a_saved_network_comes_back(models, tmp_path, precision, dtype, rounding):
    network = trained(models)
    path = tmp_path / "lora.safetensors"
    written = save_network(path, network, precision, {"ss_output_name": "lora"})
    library = load_file(path)
    ours, metadata = read_tensors(path)
    assert metadata == dict(written.metadata)
    assert ours.keys() == library.keys() == network.state_tensors().keys()
    assert all(torch.equal(ours[key], library[key]) and ours[key].dtype == library[key].dtype for key in ours)
    assert {tensor.dtype for tensor in ours.values()} == {dtype}
    unet, text_encoder = models
    loaded = Network.from_file_tensors(unet, [text_encoder], ours)
    assert loaded.unmatched == []
    came_back = loaded.state_tensors()
    for key, tensor in network.state_tensors().items():
        torch.testing.assert_close(came_back[key], tensor, rtol=rounding, atol=1e-7 if rounding else 0)
    if precision == "float":
        first = outputs(models)
        network.detach_from_model()
        loaded.attach()
        assert all(torch.equal(a, b) for a, b in zip(outputs(models), first, strict=True))


def test_a_saved_file_holds_its_hashes(models, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_network(path, trained(models), "fp16", {"ss_output_name": "lora", "modelspec.title": "lora"})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    raw = path.read_bytes()
    digest = hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()
    assert metadata["sshs_model_hash"] == digest
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"
    assert len(metadata["sshs_legacy_hash"]) == 8
    assert metadata["ss_output_name"] == metadata["modelspec.title"] == "lora"


def test_an_alpha_that_the_precision_cannot_hold_keeps_its_value(models):
    unet, text_encoder = models
    network = Network.create(unet, [text_encoder], NetworkSpec(4, 0.1, targets="attn2"), seed=0)
    alphas = {t for key, t in network.state_tensors(torch.bfloat16).items() if key.endswith("alpha")}
    assert all(alpha.dtype == torch.float32 and alpha.item() == torch.tensor(0.1).item() for alpha in alphas)


def test_saved_tensors_are_copies(models):
    network = trained(models)
    tensors = network.state_tensors()
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    assert all(torch.equal(tensors[key], before[key]) for key in tensors)


@pytest.mark.parametrize("bad, precision", [(float("nan"), "float"), (float("inf"), "bf16"), (1e6, "fp16")])
def test_weights_that_are_no_finite_numbers_are_not_saved(models, tmp_path, bad, precision):
    network = trained(models)
    with torch.no_grad():
        next(iter(network)).lora_up.view(-1)[0] = bad
    with pytest.raises(StudioError, match="not saved"):
        save_network(tmp_path / "x.safetensors", network, precision, {})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_refused(models, tmp_path):
    with pytest.raises(StudioError, match="save_precision"):
        save_network(tmp_path / "x.safetensors", trained(models), "fp8", {})


# -- loading --


def test_ranks_alphas_and_layers_come_from_the_file(models):
    unet, text_encoder = models
    tensors = trained(models, NetworkSpec(3, 1.5, conv_rank=2, conv_alpha=4, targets="resnets|mlp")).state_tensors()
    loaded = Network.from_file_tensors(unet, [text_encoder], tensors)
    assert {(a.target.is_spatial, a.rank, a.alpha) for a in loaded} == {(False, 3, 1.5), (True, 2, 4.0)}
    assert loaded.state_tensors().keys() == tensors.keys()


def test_layers_beyond_sd_scripts_targets_are_loaded(models):
    unet, text_encoder = models
    tensors = {
        "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": torch.ones(16, 2, 1, 1),
    }
    (adapter,) = Network.from_file_tensors(unet, [text_encoder], tensors)
    assert adapter.target.layer is unet.conv_in
    # No alpha in the file: an old one, alpha = rank.
    assert adapter.scale == 1


def test_a_pointwise_convolutions_matrices_may_come_without_ones(models):
    unet, text_encoder = models
    key = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {f"{key}.lora_down.weight": torch.ones(2, 16), f"{key}.lora_up.weight": torch.ones(16, 2)}
    (adapter,) = Network.from_file_tensors(unet, [text_encoder], tensors)
    assert adapter.dense_delta().shape == (16, 16, 1, 1) and (adapter.dense_delta() == 2).all()


def test_keys_without_a_place_are_listed(models):
    unet, text_encoder = models
    tensors = trained(models).state_tensors()
    strange = {f"lora_unet_input_blocks_{i}_1_proj_in.lora_up.weight": torch.ones(1) for i in range(12)}
    with pytest.raises(StudioError, match="12 keys") as caught:
        Network.from_file_tensors(unet, [text_encoder], {**tensors, **strange})
    assert str(caught.value).count("input_blocks") == 10
    loaded = Network.from_file_tensors(unet, [text_encoder], {**tensors, **strange}, strict=False)
    assert loaded.unmatched == list(strange) and len(loaded) == len(trained(models))


@pytest.mark.parametrize("suffix", ["bias", "lora_A.weight", "hada_w1_a"])
def test_a_module_of_an_unknown_type_is_not_loaded_in_part(models, suffix):
    unet, text_encoder = models
    tensors = trained(models).state_tensors()
    key = next(iter(tensors)).split(".")[0]
    tensors[f"{key}.{suffix}"] = torch.ones(1)
    with pytest.raises(StudioError, match=suffix):
        Network.from_file_tensors(unet, [text_encoder], tensors)
    loaded = Network.from_file_tensors(unet, [text_encoder], tensors, strict=False)
    assert {name.split(".")[0] for name in loaded.unmatched} == {key} and len(loaded.unmatched) == 4


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_with_nothing_for_this_model_is_refused(models, strict):
    unet, text_encoder = models
    with pytest.raises(StudioError, match="match no layer"):
        Network.from_file_tensors(unet, [text_encoder], {"unet.x.lora_A.weight": torch.ones(1)}, strict=strict)
    with pytest.raises(StudioError, match="no tensors"):
        Network.from_file_tensors(unet, [text_encoder], {}, strict=strict)


@pytest.mark.parametrize(
    "down, up", [((2, 17), (32, 2)), ((2, 16), (33, 2)), ((2, 16), (32, 3)), ((0, 16), (32, 0)), ((), ())]
)
def test_a_tensor_of_another_familys_size_is_named(models, down, up):
    unet, text_encoder = models
    key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors = {f"{key}.lora_down.weight": torch.zeros(down), f"{key}.lora_up.weight": torch.zeros(up)}
    with pytest.raises(StudioError, match=key):
        Network.from_file_tensors(unet, [text_encoder], tensors)


def test_load_restores_every_bit(models):
    network = trained(models)
    tensors = network.state_tensors()
    other = Network.create(models[0], [models[1]], NetworkSpec(4, 9, conv_rank=2), seed=77)
    assert other.load(tensors) == ([], [])
    restored = other.state_tensors()
    assert all(torch.equal(restored[key], tensor) for key, tensor in tensors.items())


def test_load_refuses_other_modules_and_ranks_and_changes_nothing(models):
    unet, text_encoder = models
    network = Network.create(unet, [text_encoder], NetworkSpec(4, 1), seed=0)
    before = network.state_tensors()
    part = Network.create(unet, [text_encoder], NetworkSpec(4, 1, targets="attn2"), seed=1).state_tensors()
    more = Network.create(unet, [text_encoder], NetworkSpec(4, 1, conv_rank=2), seed=1).state_tensors()
    wider = Network.create(unet, [text_encoder], NetworkSpec(5, 1), seed=1).state_tensors()
    late = {**more, "lora_unet_up_blocks_1_attentions_1_proj_out.lora_up.weight": torch.ones(3)}
    for tensors, words in ((part, "has nothing for"), (more, "match no layer"), (wider, "another rank")):
        with pytest.raises(StudioError, match=words):
            network.load(tensors)
    with pytest.raises(StudioError, match="does not fit"):
        network.load(late, strict=False)
    after = network.state_tensors()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_load_without_strict_tells_what_did_not_match(models):
    unet, text_encoder = models
    network = Network.create(unet, [text_encoder], NetworkSpec(4, 1), seed=0)
    part = Network.create(unet, [text_encoder], NetworkSpec(4, 1, targets="attn2"), seed=1).state_tensors()
    unmatched = network.load({**part, "x.y": torch.ones(1)}, strict=False)
    assert unmatched.in_file == ["x.y"]
    assert len(unmatched.in_network) == len(network) - len(part) // 3
    after = network.state_tensors()
    assert all(torch.equal(after[key], tensor) for key, tensor in part.items())


def test_notes_tell_of_too_large_a_rank(models):
    unet, text_encoder = models
    assert Network.create(unet, [text_encoder], NetworkSpec(4, 1), seed=0).notes == []
    (note,) = Network.create(unet, [text_encoder], NetworkSpec(64, 1), seed=0).notes
    assert "rank 64" in note and "more layers" in note


_LORA = {"lora_up.weight", "lora_down.weight", "alpha"}
# A new network type adds a row: name, its file keys' suffixes for a linear layer without bias, [16, 16].
SUFFIXES = [
    ("LoRA", _LORA),
    ("LoHa", {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"}),
    ("LoKr", {"lokr_w1", "lokr_w2", "alpha"}),
    ("IA3", {"weight", "on_input"}),
    ("DyLoRA", _LORA),
    ("GLoRA", {"a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"}),
    ("Diag-OFT", {"oft_blocks", "alpha"}),
    ("BOFT", {"oft_blocks", "alpha"}),
    ("Full", {"diff"}),
]


@pytest.mark.parametrize("name, suffixes", SUFFIXES)
def test_every_network_type_saves_and_finds_its_own_keys(models, name, suffixes):
    unet, text_encoder = models
    network = Network.create(
        unet, [text_encoder], NetworkSpec(4, 2, network_type=name.lower(), targets="attn2.to_[qkv]"), seed=0
    )
    kind = NETWORKS.get(name)
    for adapter in network:
        assert isinstance(adapter, kind) and isinstance(adapter.target.layer, nn.Linear)
        assert set(adapter.state_tensors()) == suffixes and kind.owns(suffixes)
        torch.testing.assert_close(
            adapter.delta(torch.eye(adapter.target.in_size)).T, adapter.dense_delta(), rtol=1e-5, atol=1e-6
        )
    loaded = Network.from_file_tensors(unet, [text_encoder], network.state_tensors())
    assert loaded.state_tensors().keys() == network.state_tensors().keys()


def test_the_test_above_has_a_row_for_every_network_type():
    assert sorted(NETWORKS.names()) == sorted(name for name, _ in SUFFIXES)


def test_an_option_gives_the_choice_of_every_type():
    (info,) = [info for info in options_of(NetworkOptions) if info.name == "network_type"]
    assert sorted(info.choices) == sorted(NETWORKS.names())


@pytest.mark.parametrize("conv_rank", [None, 2])
def test_normalisation_layers_are_trained_where_they_are_wanted(models, conv_rank):
    unet, text_encoder = models
    spec = NetworkSpec(4, 2, conv_rank=conv_rank, train_norm=True)
    network = Network.create(unet, [text_encoder], spec, seed=0)
    norms = {adapter.target.module_name for adapter in network if adapter.target.is_norm}
    inside = {
        f"{name}.{inner}"
        for name, block in unet.named_modules()
        if type(block).__name__ in ("Transformer2DModel", "ResnetBlock2D")
        for inner, layer in block.named_modules()
        if isinstance(layer, (nn.LayerNorm, nn.GroupNorm))
    }
    assert norms == inside
    tensors = network.state_tensors()
    assert {"w_norm", "b_norm"} <= {key.split(".", 1)[1] for key in tensors}
    loaded = Network.from_file_tensors(unet, [text_encoder], tensors)
    assert loaded.state_tensors().keys() == tensors.keys()


def test_normalisation_layers_are_those_of_the_chosen_names_and_blocks(models):
    unet, text_encoder = models

    def places(**options) -> set[str]:
        network = Network.create(unet, [text_encoder], NetworkSpec(4, 2, train_norm=True, **options), seed=0)
        norms = [adapter.target.module_name for adapter in network if adapter.target.is_norm]
        return {name.split("_")[0] for name in norms}

    assert places(targets="mid_block") == {"mid"}
    left_out = BlockRank(0, 1.0, None, 1.0)
    assert places(block_ranks={f"OUT{index:02}": left_out for index in range(12)}) == {"down", "mid"}
    with pytest.raises(StudioError, match="train_norm.*network_targets"):
        places(targets="cross-attention")


def test_a_glora_whose_convolutions_are_loras_is_named(models):
    unet, text_encoder = models
    network = Network.create(unet, [text_encoder], NetworkSpec(4, 2, network_type="GLoRA"), seed=0)
    with pytest.raises(StudioError, match="another type.*proj_in.*dim_from_weights"):
        network.load(network.state_tensors())


def test_groups_may_tell_lora_plus_parameters_apart(models):
    unet, text_encoder = models
    network = Network.create(unet, [text_encoder], NetworkSpec(4, 1), seed=0)
    groups = network.parameter_groups(lambda target, plus: f"{target.part} {'up' if plus else 'down'}")
    assert list(groups) == ["unet down", "unet up", "text_encoder down", "text_encoder up"]
    ups = {id(adapter.lora_up) for adapter in network if adapter.target.part == UNET}
    assert {id(parameter) for parameter in groups["unet up"]} == ups
