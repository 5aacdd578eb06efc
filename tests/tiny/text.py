"""The text encoders, as transformers and open_clip name them, and the folders with vocabulary and configuration."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .shapes import CLIP, SD1, Shape, TextShape
from .state import State


def text_encoders(state: State, shape: Shape) -> None:
    prefixes = ("conditioner.embedders.0", "conditioner.embedders.1") if shape.size_width else ("cond_stage_model",)
    for prefix, text in zip(prefixes, shape.texts):
        write = _open_clip if text.open_clip else _transformers
        write(state, prefix, text, shape.vocabulary)


def _transformers(state: State, prefix: str, shape: TextShape, vocabulary: int) -> None:
    text, width = f"{prefix}.transformer.text_model", shape.width
    state.tensor(f"{text}.embeddings.token_embedding.weight", vocabulary, width, scale=0.5)
    state.tensor(f"{text}.embeddings.position_embedding.weight", 77, width, scale=0.1)
    state[f"{text}.embeddings.position_ids"] = torch.arange(77)[None].float()
    for index in range(shape.layers):
        layer = f"{text}.encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state.layer(f"{layer}.self_attn.{part}", width, width)
        state.layer(f"{layer}.mlp.fc1", 2 * width, width)
        state.layer(f"{layer}.mlp.fc2", width, 2 * width)
        state.norm(f"{layer}.layer_norm1", width)
        state.norm(f"{layer}.layer_norm2", width)
    state.norm(f"{text}.final_layer_norm", width)


def _open_clip(state: State, prefix: str, shape: TextShape, vocabulary: int) -> None:
    """open_clip's TextTransformer has an MLP of four times the width."""
    text, width = f"{prefix}.model", shape.width
    state.tensor(f"{text}.positional_embedding", 77, width, scale=0.1)
    state.tensor(f"{text}.text_projection", width, shape.projection, scale=width**-0.5)
    state[f"{text}.logit_scale"] = torch.tensor(4.6)
    state.tensor(f"{text}.token_embedding.weight", vocabulary, width, scale=0.5)
    for index in range(shape.layers):
        block = f"{text}.transformer.resblocks.{index}"
        state.norm(f"{block}.ln_1", width)
        state.tensor(f"{block}.attn.in_proj_weight", 3 * width, width)
        state.tensor(f"{block}.attn.in_proj_bias", 3 * width, scale=0.05)
        state.layer(f"{block}.attn.out_proj", width, width)
        state.norm(f"{block}.ln_2", width)
        state.layer(f"{block}.mlp.c_fc", 4 * width, width)
        state.layer(f"{block}.mlp.c_proj", width, 4 * width)
    state.norm(f"{text}.ln_final", width)


def text_folder_name(text: TextShape) -> str:
    return "open_clip" if text.open_clip else "clip"


def write_clip_folder(folder: Path, shape: TextShape = CLIP, vocabulary: int = SD1.vocabulary) -> Path:
    """A text encoder's ``config.json`` and a small vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = ["r e", "re d</w>", "b l", "bl u", "blu e</w>", "c a", "ca t</w>", "d o", "do g</w>"]
    symbols = list(_bytes_to_unicode().values())
    words = symbols + [s + "</w>" for s in symbols] + ["".join(m.split()) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(
        json.dumps({**specials, "pad_token": "<|endoftext|>"}), encoding="utf-8"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {**specials, "pad_token": "<|endoftext|>", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
        ),
        encoding="utf-8",
    )
    config = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": shape.width,
        "intermediate_size": (4 if shape.open_clip else 2) * shape.width,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "max_position_embeddings": 77,
        "vocab_size": vocabulary,
        "hidden_act": "gelu" if shape.open_clip else "quick_gelu",
        "projection_dim": shape.projection or shape.width,
        "bos_token_id": len(words) - 2,
        "eos_token_id": len(words) - 1,
        "layer_norm_eps": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _bytes_to_unicode() -> dict[int, str]:
    """The printable stand-ins that CLIP's and GPT-2's byte-level BPE write bytes with."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
