"""Text encoder outputs of prompts (with emphasis) and of training captions (with gradients)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lib_lora.base.errors import StudioError
from lib_lora.models.compat_transformers import clip_text_body
from lib_lora.text.chunks import CHUNK_TOKENS, Chunk, chunk_caption, make_chunk
from lib_lora.text.tokenizer import Tokenizer


def encode_chunks(text_encoder: Any, chunks: Sequence[Chunk], clip_skip: int = 1) -> torch.Tensor:
    """The conditioning of one prompt.

    Args:
        text_encoder: transformers' CLIPTextModel.
        chunks: n of them, from ``text.chunks.chunk_prompt``.
        clip_skip: 1 takes the last layer, 2 the one before it, and so on.

    Returns:
        [1, 77 n, d] in the encoder's precision; each chunk is encoded and emphasised by itself.

    Raises:
        StudioError: ``clip_skip`` asks for more layers than there are.
    """
    device = text_encoder_device(text_encoder)
    ids = torch.tensor([chunk.ids for chunk in chunks], device=device)
    weights = torch.tensor([chunk.weights for chunk in chunks], device=device)
    states = emphasise(text_states(text_encoder, ids, clip_skip), weights)
    return states.reshape(1, -1, states.shape[-1])


def encode_captions(
    text_encoder: Any,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    clip_skip: int = 1,
    max_tokens: int = CHUNK_TOKENS,
) -> torch.Tensor:
    """The conditioning of a training batch; gradients flow into what is attached to the encoder.

    Captions are divided as ``text.chunks.chunk_caption`` says; shorter ones get empty chunks, so that all have
    as many as the longest.

    Returns:
        [B, 77 n, d], n the number of chunks of the longest caption.

    Raises:
        StudioError: ``max_tokens`` is no multiple of 75, or ``clip_skip`` is out of range.
    """
    divided = [chunk_caption(caption, tokenizer, max_tokens) for caption in captions]
    n_chunks = max(map(len, divided))
    empty = make_chunk(tokenizer, [])
    ids = [chunk.ids for chunks in divided for chunk in chunks + [empty] * (n_chunks - len(chunks))]
    states = text_states(text_encoder, torch.tensor(ids, device=text_encoder_device(text_encoder)), clip_skip)
    return states.reshape(len(captions), -1, states.shape[-1])


def text_states(text_encoder: Any, ids: torch.Tensor, clip_skip: int = 1) -> torch.Tensor:
    """Ids [N, 77] to states [N, 77, d].

    With ``clip_skip`` k > 1 the output of the k-th last layer through the final layer norm, as the WebUI and
    sd-scripts have it for SD1.
    """
    layers = text_encoder.config.num_hidden_layers
    if not 1 <= clip_skip <= layers:
        allowed = f"a whole number from 1 to {layers}"
        raise StudioError("not allowed", field="clip_skip", came=clip_skip, allowed=allowed)
    if clip_skip == 1:
        return text_encoder(input_ids=ids).last_hidden_state
    states = text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-clip_skip]
    return clip_text_body(text_encoder).final_layer_norm(states)


def emphasise(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weight each token's state, then scale each chunk so that its mean is what it was.

        z' = w z;  z'' = z' mean(z) / mean(z')

    The WebUI's emphasis "Original" (``sd_emphasis.py``), which takes the means over one chunk.

    Args:
        states: [N, 77, d], one row per chunk.
        weights: [N, 77].

    Returns:
        [N, 77, d]; the very same tensor where no weight differs from 1.
    """
    if torch.all(weights == 1):
        return states
    weighted = states * weights.unsqueeze(-1).to(states.dtype)
    scale = states.mean(dim=(1, 2), keepdim=True) / weighted.mean(dim=(1, 2), keepdim=True)
    # Exactly 1 in theory, and exactly the unscaled states in practice, where a chunk has no emphasis.
    plain = torch.all(weights == 1, dim=1)[:, None, None]
    return torch.where(plain, states, weighted * scale)


def text_encoder_device(text_encoder: Any) -> torch.device:
    """Where token ids have to be."""
    return clip_text_body(text_encoder).final_layer_norm.weight.device
