from __future__ import annotations

import pytest
import torch

from lib_lora.base.errors import StudioError
from lib_lora.models.loader import load_model
from lib_lora.models.prompt import emphasise, encode_captions, encode_chunks
from lib_lora.text.chunks import chunk_caption, chunk_prompt


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture
def encoder(model):
    return model.text_encoders[0]


@pytest.fixture
def tokenizer(model):
    return model.tokenizers[0]


def layer_outputs(encoder, ids):
    """The output of every layer, caught by hooks, and the final layer norm."""
    caught, layers = [], [m for m in encoder.modules() if type(m).__name__ == "CLIPEncoderLayer"]
    (norm,) = [m for name, m in encoder.named_modules() if name.endswith("final_layer_norm")]

    def keep(module, args, output):
        caught.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    encoder(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return caught, norm


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip_counts_layers_from_the_end(encoder, tokenizer, clip_skip):
    chunks = chunk_prompt("red cat", tokenizer)
    outputs, norm = layer_outputs(encoder, torch.tensor([chunks[0].ids]))
    assert torch.allclose(encode_chunks(encoder, chunks, clip_skip), norm(outputs[-clip_skip]), atol=1e-6)


@pytest.mark.parametrize("clip_skip", [0, 4])
def test_more_layers_than_there_are_cannot_be_skipped(encoder, tokenizer, clip_skip):
    with pytest.raises(StudioError, match="clip_skip.*from 1 to 3"):
        encode_chunks(encoder, chunk_prompt("red", tokenizer), clip_skip)


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


def test_each_chunk_is_encoded_by_itself(encoder, tokenizer):
    both = encode_chunks(encoder, chunk_prompt("red BREAK (cat:1.5) dog", tokenizer))
    first = encode_chunks(encoder, chunk_prompt("red", tokenizer))
    second = encode_chunks(encoder, chunk_prompt("(cat:1.5) dog", tokenizer))
    assert both.shape == (1, 154, 32)
    assert torch.allclose(both, torch.cat([first, second], dim=1), atol=1e-6)


def test_captions_equal_prompts_without_emphasis(encoder, tokenizer):
    captions = ["red cat", "blue dog, " * 40]
    states = encode_captions(encoder, tokenizer, captions, clip_skip=2, max_tokens=150)
    assert states.shape == (2, 154, 32)
    short = encode_chunks(encoder, [*chunk_caption("red cat", tokenizer), *chunk_caption("", tokenizer)], 2)
    long = encode_chunks(encoder, chunk_caption(captions[1], tokenizer, 150), 2)
    assert torch.allclose(states, torch.cat([short, long]), atol=1e-5)


def test_short_batches_stay_short(encoder, tokenizer):
    assert encode_captions(encoder, tokenizer, ["red", "cat"], max_tokens=225).shape == (2, 77, 32)


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_gradients_reach_what_is_attached_to_the_encoder(encoder, tokenizer, clip_skip):
    offset = torch.zeros(32, requires_grad=True)
    (first,) = [m for name, m in encoder.named_modules() if name.endswith("layers.0.self_attn.q_proj")]
    hook = first.register_forward_hook(lambda module, args, output: output + offset)
    encode_captions(encoder, tokenizer, ["red cat", "blue"], clip_skip).pow(2).sum().backward()
    hook.remove()
    assert offset.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
