from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lib_lora.base.errors import StudioError
from lib_lora.models.checkpoint_file import open_checkpoint
from lib_lora.models.loader import load_model
from lib_lora.models.prompt import emphasise, encode_captions, encode_prompt, obeys_clip_skip
from lib_lora.text.chunks import chunk_caption, chunk_prompt


@pytest.fixture(scope="module")
def models(tiny_checkpoints):
    """For tests that leave them as they are."""
    return {family: load_model(tiny_checkpoints[family]) for family in ("SD1", "SD2", "SDXL")}


@pytest.fixture
def model(models):
    return models["SD1"]


def text_tensors(tiny_checkpoints, family, prefix):
    tensors = open_checkpoint(tiny_checkpoints[family]).tensors
    return {key[len(prefix) :]: t.double() for key, t in tensors.items() if key.startswith(prefix)}


def attention(x, weight, bias, out_weight, out_bias, heads):
    """Causal attention with the fused projection of torch.nn.MultiheadAttention, [n, d] in and out."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in F.linear(x, weight, bias).chunk(3, -1))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    scores = scores + torch.full((len(x), len(x)), -torch.inf, dtype=x.dtype).triu(1)
    return F.linear((scores.softmax(-1) @ v).transpose(0, 1).flatten(1), out_weight, out_bias)


def open_clip_states(tensors, ids, layers, heads=3):
    """open_clip's text transformer written out in float64: the states after each layer, and ln_final."""
    p = {key[len("model.") :]: t for key, t in tensors.items()}

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    x = p["token_embedding.weight"][ids] + p["positional_embedding"]
    states = [x]
    for index in range(layers):
        block = f"transformer.resblocks.{index}"
        mha = [
            p[f"{block}.attn.{name}"] for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        ]
        x = x + attention(norm(f"{block}.ln_1", x), *mha, heads)
        hidden = F.linear(norm(f"{block}.ln_2", x), p[f"{block}.mlp.c_fc.weight"], p[f"{block}.mlp.c_fc.bias"])
        x = x + F.linear(F.gelu(hidden), p[f"{block}.mlp.c_proj.weight"], p[f"{block}.mlp.c_proj.bias"])
        states.append(x)
    return states, lambda x: norm("ln_final", x)


def transformers_states(tensors, ids, layers, heads=2):
    """OpenAI's CLIP written out in float64, as above."""
    root = "transformer.text_model"
    p = {key[len(root) + 1 :]: t for key, t in tensors.items()}

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    x = p["embeddings.token_embedding.weight"][ids] + p["embeddings.position_embedding.weight"]
    states = [x]
    for index in range(layers):
        layer = f"encoder.layers.{index}"
        weight, bias = (
            torch.cat([p[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]) for kind in ("weight", "bias")
        )
        out = [p[f"{layer}.self_attn.out_proj.{kind}"] for kind in ("weight", "bias")]
        x = x + attention(norm(f"{layer}.layer_norm1", x), weight, bias, *out, heads)
        hidden = F.linear(norm(f"{layer}.layer_norm2", x), p[f"{layer}.mlp.fc1.weight"], p[f"{layer}.mlp.fc1.bias"])
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + F.linear(hidden, p[f"{layer}.mlp.fc2.weight"], p[f"{layer}.mlp.fc2.bias"])
        states.append(x)
    return states, lambda x: norm("final_layer_norm", x)


def ids_of(model, index, text="red cat"):
    (chunk,) = chunk_prompt(text, model.tokenizers[index])
    return torch.tensor(chunk.ids)


def close(ours, expected):
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_counts_layers_from_the_end(model, tiny_checkpoints, clip_skip):
    tensors = text_tensors(tiny_checkpoints, "SD1", "cond_stage_model.")
    states, norm = transformers_states(tensors, ids_of(model, 0), 3)
    close(encode_prompt(model, "red cat", clip_skip).context[0], norm(states[-clip_skip]))


@pytest.mark.parametrize("clip_skip", [0, 4])
def test_more_layers_than_there_are_cannot_be_skipped(model, clip_skip):
    with pytest.raises(StudioError, match="clip_skip.*from 1 to 3"):
        encode_prompt(model, "red", clip_skip)


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_sd2_takes_the_last_layer_but_one_through_the_norm_whatever_clip_skip_says(models, tiny_checkpoints, clip_skip):
    model = models["SD2"]
    states, norm = open_clip_states(text_tensors(tiny_checkpoints, "SD2", "cond_stage_model."), ids_of(model, 0), 4)
    conditioning = encode_prompt(model, "red cat", clip_skip)
    close(conditioning.context[0], norm(states[-2]))
    assert conditioning.pooled is None and not obeys_clip_skip(model)


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_sdxl_takes_both_last_layers_but_one_and_the_projected_end(models, tiny_checkpoints, clip_skip):
    model = models["SDXL"]
    first = text_tensors(tiny_checkpoints, "SDXL", "conditioner.embedders.0.")
    second = text_tensors(tiny_checkpoints, "SDXL", "conditioner.embedders.1.")
    ids = ids_of(model, 1)
    states1, _ = transformers_states(first, ids_of(model, 0), 3)
    states2, norm = open_clip_states(second, ids, 4)
    end = int((ids == model.tokenizers[1].eos_id).nonzero()[0])
    conditioning = encode_prompt(model, "red cat", clip_skip)
    close(conditioning.context[0], torch.cat([states1[-2], states2[-2]], dim=-1))
    close(conditioning.pooled[0], norm(states2[-1])[end] @ second["model.text_projection"])
    assert not obeys_clip_skip(model)


def test_sdxls_first_encoder_obeys_clip_skip_where_the_host_says_so(models, tiny_checkpoints):
    model = dataclasses.replace(models["SDXL"], clip_l_skip=True)
    tensors = text_tensors(tiny_checkpoints, "SDXL", "conditioner.embedders.0.")
    states, _ = transformers_states(tensors, ids_of(model, 0), 3)
    plain = encode_prompt(models["SDXL"], "red cat")
    for clip_skip in (1, 2, 3):
        conditioning = encode_prompt(model, "red cat", clip_skip)
        close(conditioning.context[0, :, :32], states[-clip_skip])
        assert torch.equal(conditioning.context[..., 32:], plain.context[..., 32:])
    assert obeys_clip_skip(model)


@pytest.mark.parametrize(("family", "index"), [("SD2", 0), ("SDXL", 1)])
def test_open_clips_chunks_are_filled_with_zeros(models, family, index):
    tokenizer = models[family].tokenizers[index]
    ids = ids_of(models[family], index).tolist()
    end = ids.index(tokenizer.eos_id)
    assert ids[end + 1 :] == [0] * (76 - end)
    assert ids_of(models["SDXL"], 0).tolist()[end:] == [tokenizer.eos_id] * (77 - end)


def test_emphasis_keeps_each_chunks_mean():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 77, 8, generator=generator, dtype=torch.float64) + 0.5
    weights = torch.ones(3, 77, dtype=torch.float64)
    weights[0, 3:6], weights[1, 10] = 1.4, 0.7
    result = emphasise(states, weights)
    for row, (before, weight) in enumerate(zip(states, weights)):
        weighted = before * weight[:, None]
        expected = weighted * (before.sum() / weighted.sum())
        assert torch.allclose(result[row], expected, rtol=1e-12, atol=0)
    assert torch.equal(result[2], states[2])


def test_without_emphasis_the_states_are_untouched():
    states = torch.randn(1, 77, 4, generator=torch.Generator().manual_seed(0))
    assert emphasise(states, torch.ones(1, 77)) is states


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_each_chunk_is_encoded_by_itself_and_pooled_is_the_firsts(models, family):
    model = models[family]
    both = encode_prompt(model, "red BREAK (cat:1.5) dog")
    first, second = encode_prompt(model, "red"), encode_prompt(model, "(cat:1.5) dog")
    assert both.context.shape[:2] == (1, 154)
    assert torch.allclose(both.context, torch.cat([first.context, second.context], dim=1), atol=1e-5)
    if family == "SDXL":
        assert torch.allclose(both.pooled, first.pooled, atol=1e-5)
        assert torch.equal(encode_prompt(model, "cat dog").pooled, second.pooled), "emphasis does not reach it"


@pytest.mark.parametrize("family", ["SD1", "SD2", "SDXL"])
def test_captions_equal_prompts_without_emphasis(models, family):
    model = models[family]
    captions = ["red cat", "blue dog, " * 40]
    both = encode_captions(model, captions, clip_skip=2, max_tokens=150)
    assert both.context.shape[:2] == (2, 154)
    alone = encode_prompt(model, "red cat BREAK", 2)
    chunks = [chunk_caption(captions[1], tokenizer, 150) for tokenizer in model.tokenizers]
    assert all(len(own) == 2 for own in chunks)
    assert torch.allclose(both.context[:1, :77], alone.context[:, :77], atol=1e-5)
    empty = encode_prompt(model, "", 2)
    assert torch.allclose(both.context[:1, 77:], empty.context, atol=1e-5)
    if family == "SDXL":
        assert torch.allclose(both.pooled[:1], alone.pooled, atol=1e-5)
        short = encode_captions(model, [captions[1]], clip_skip=2, max_tokens=75)
        assert torch.allclose(both.pooled[1:], short.pooled, atol=1e-5)


def test_short_batches_stay_short(model):
    assert encode_captions(model, ["red", "cat"], max_tokens=225).context.shape == (2, 77, 32)


@pytest.mark.parametrize(
    ("family", "index", "layer", "read"),
    [("SD1", 0, 0, "context"), ("SD2", 0, 2, "context"), ("SDXL", 0, 1, "context"), ("SDXL", 1, 3, "pooled")],
)
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_gradients_reach_what_is_attached_to_the_encoders(models, family, index, layer, read, clip_skip):
    encoder = models[family].text_encoders[index]
    (projection,) = [m for name, m in encoder.named_modules() if name.endswith(f"layers.{layer}.self_attn.q_proj")]
    offset = torch.zeros(projection.out_features, requires_grad=True)
    hook = projection.register_forward_hook(lambda module, args, output: output + offset)
    getattr(encode_captions(models[family], ["red cat", "blue"], clip_skip), read).pow(2).sum().backward()
    hook.remove()
    assert offset.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
