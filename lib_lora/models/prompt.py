"""What the text encoders make of prompts (with emphasis) and of training captions (with gradients)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lib_lora.arch.family import Family
from lib_lora.base.errors import StudioError
from lib_lora.models.compat_transformers import clip_text_body
from lib_lora.models.conditioning import Conditioning
from lib_lora.models.model import DiffusionModel
from lib_lora.text.chunks import CHUNK_TOKENS, Chunk, chunk_caption, chunk_prompt, make_chunk
from lib_lora.text.tokenizer import Tokenizer


def encode_prompt(model: DiffusionModel, prompt: str, clip_skip: int = 1) -> Conditioning:
    """The conditioning of one prompt; each chunk is encoded and emphasised by itself.

    Args:
        clip_skip: as in ``text_states``.

    Raises:
        StudioError: ``clip_skip`` asks for more layers than there are.
    """
    return _encode(model, [[chunk_prompt(prompt, tokenizer)] for tokenizer in model.tokenizers], clip_skip)


def encode_captions(
    model: DiffusionModel,
    captions: Sequence[str],
    clip_skip: int = 1,
    max_tokens: int = CHUNK_TOKENS,
    weighted: bool = False,
) -> Conditioning:
    """The conditioning of a training batch; gradients flow into what is attached to the encoders.

    Captions are divided as ``text.chunks.chunk_caption`` says; shorter ones get empty chunks, so that all have
    as many as the longest.

    Args:
        weighted: ``(tag:1.2)`` in a caption is a weight.

    Raises:
        StudioError: ``max_tokens`` is no multiple of 75, or ``clip_skip`` is out of range.
    """
    divided = [
        [chunk_caption(caption, tokenizer, max_tokens, weighted) for caption in captions]
        for tokenizer in model.tokenizers
    ]
    return _encode(model, divided, clip_skip)


def _encode(model: DiffusionModel, divided: list[list[list[Chunk]]], clip_skip: int) -> Conditioning:
    """The chunks of each text for each encoder; the encoders' states stand side by side, as in sgm's conditioner."""
    n_chunks = max(len(chunks) for texts in divided for chunks in texts)
    contexts, pooled = [], None
    for index, (texts, tokenizer) in enumerate(zip(divided, model.tokenizers)):
        chunks = [chunk for own in texts for chunk in _filled(own, n_chunks, tokenizer)]
        device = text_encoder_device(model.text_encoders[index])
        ids = torch.tensor([chunk.ids for chunk in chunks], device=device)
        weights = torch.tensor([chunk.weights for chunk in chunks], device=device)
        states, own_pooled = text_states(model, index, ids, clip_skip)
        contexts.append(emphasise(states, weights).reshape(len(texts), -1, states.shape[-1]))
        if own_pooled is not None:
            pooled = own_pooled[::n_chunks]  # of each text the first chunk's, as in the WebUI and sd-scripts
    return Conditioning(torch.cat(contexts, dim=-1) if len(contexts) > 1 else contexts[0], pooled)


def _filled(chunks: list[Chunk], n_chunks: int, tokenizer: Tokenizer) -> list[Chunk]:
    return chunks + [make_chunk(tokenizer, [])] * (n_chunks - len(chunks))


def text_states(
    model: DiffusionModel, index: int, ids: torch.Tensor, clip_skip: int = 1
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ids [N, 77] to states [N, 77, d] of one encoder and, of SDXL's second, the pooled [N, p].

    SD1: the output of the ``clip_skip``-th last layer, through the final layer norm.
    SD2: the layer that its configuration names, through the final layer norm.
    SDXL: the last layer but one of each encoder, without a norm; pooled is the projected state of the text's end
    after the last layer and the norm.

    Clip skip is SD1's alone, as in the WebUI (sd_hijack_open_clip.py, ``FrozenCLIPEmbedderForSDXLWithCustomWords``),
    except that ``model.clip_l_skip`` lets SDXL's first encoder give its ``clip_skip``-th last layer.
    """
    encoder = model.text_encoders[index]
    if model.family is Family.SDXL:
        skip = clip_skip if model.clip_l_skip and index == 0 else 2
        _check_skip(skip, encoder)
        outputs = encoder(input_ids=ids, output_hidden_states=True)
        return outputs.hidden_states[-skip], getattr(outputs, "text_embeds", None)
    if model.family is Family.SD2 or clip_skip == 1:
        return encoder(input_ids=ids).last_hidden_state, None
    _check_skip(clip_skip, encoder)
    states = encoder(input_ids=ids, output_hidden_states=True).hidden_states[-clip_skip]
    return clip_text_body(encoder).final_layer_norm(states), None


def obeys_clip_skip(model: DiffusionModel) -> bool:
    """Whether ``clip_skip`` changes anything."""
    return model.family is Family.SD1 or model.clip_l_skip


def _check_skip(clip_skip: int, encoder: Any) -> None:
    layers = encoder.config.num_hidden_layers
    if not 1 <= clip_skip <= layers:
        allowed = f"a whole number from 1 to {layers}"
        raise StudioError("not allowed", field="clip_skip", came=clip_skip, allowed=allowed)


def emphasise(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weight each token's state, then scale each chunk so that its mean is what it was.

        z' = w z;  z'' = z' mean(z) / mean(z')

    The WebUI's emphasis "Original" (``sd_emphasis.py``), which takes the means over one chunk of one encoder.

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
