"""Stable Diffusion checkpoints of full size with random weights, in the layout of the published single files.

Nothing is downloaded: the modules come from the published configurations on the meta device, their names from
``lib_lora.arch``, and their numbers from a generator. A random model learns nothing, but takes the time and the memory
of a real one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib_lora.adapters.save import tensor_data
from lib_lora.arch.diffusers_keys import ldm_unet_keys, ldm_vae_keys
from lib_lora.files.safetensors_file import write_safetensors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """What the shapes of one checkpoint come from: arguments of diffusers' and transformers' classes."""

    unet: Mapping[str, Any]
    text_encoders: tuple[Mapping[str, Any], ...]
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)

    @property
    def is_sdxl(self) -> bool:
        return len(self.text_encoders) == 2


_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "vocab_size": 49408,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

# The configurations of stable-diffusion-v1-5 and stable-diffusion-xl-base-1.0; "tiny" ones have the same layout.
SIZES = {
    "sd15": Size({"cross_attention_dim": 768, "attention_head_dim": 8}, (_CLIP_L,)),
    "sdxl": Size(_SDXL_UNET, (_CLIP_L, _CLIP_G)),
    "tiny-sd15": Size(
        {"cross_attention_dim": 64, "attention_head_dim": 8, "block_out_channels": (32, 32, 64, 64)},
        ({**_CLIP_L, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 1, "num_hidden_layers": 2},),
        (32, 32, 32, 32),
    ),
    "tiny-sdxl": Size(
        {
            **_SDXL_UNET,
            "block_out_channels": (64, 64, 128),
            "attention_head_dim": (1, 1, 2),
            "transformer_layers_per_block": (1, 1, 2),
            "cross_attention_dim": 128,
            "projection_class_embeddings_input_dim": 64 + 6 * 256,
        },
        (
            {**_CLIP_L, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 1, "num_hidden_layers": 2},
            {
                **_CLIP_G,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_attention_heads": 1,
                "num_hidden_layers": 2,
                "projection_dim": 64,
            },
        ),
        (32, 32, 32, 32),
    ),
}


def shapes(size: Size) -> dict[str, Shape]:
    """Every tensor of the checkpoint file: its LDM or sgm name and its shape."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    levels = len(size.vae_channels)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**size.unet).state_dict()
        vae = AutoencoderKL(
            block_out_channels=size.vae_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            latent_channels=4,
        ).state_dict()
    named = {f"model.diffusion_model.{new}": tuple(unet[old].shape) for old, new in ldm_unet_keys(unet).items()}
    for old, new in ldm_vae_keys(vae).items():
        shape = tuple(vae[old].shape)
        is_attention = ".mid.attn_1." in new and len(shape) == 2
        named[f"first_stage_model.{new}"] = (*shape, 1, 1) if is_attention else shape
    if size.is_sdxl:
        first, second = size.text_encoders
        return named | _clip("conditioner.embedders.0.transformer.", first) | _open_clip(second)
    return named | _clip("cond_stage_model.transformer.", size.text_encoders[0])


def _clip(prefix: str, config: Mapping[str, Any]) -> dict[str, Shape]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    text = f"{prefix}text_model"
    named = {
        f"{text}.embeddings.token_embedding.weight": (config["vocab_size"], width),
        f"{text}.embeddings.position_embedding.weight": (77, width),
        **_layer(f"{text}.final_layer_norm", width),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"{text}.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            named |= _layer(f"{layer}.self_attn.{name}", width, width)
        named |= _layer(f"{layer}.mlp.fc1", inner, width) | _layer(f"{layer}.mlp.fc2", width, inner)
        named |= _layer(f"{layer}.layer_norm1", width) | _layer(f"{layer}.layer_norm2", width)
    return named


def _open_clip(config: Mapping[str, Any]) -> dict[str, Shape]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    text = "conditioner.embedders.1.model"
    named = {
        f"{text}.token_embedding.weight": (config["vocab_size"], width),
        f"{text}.positional_embedding": (77, width),
        f"{text}.text_projection": (width, config["projection_dim"]),
        f"{text}.logit_scale": (),
        **_layer(f"{text}.ln_final", width),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"{text}.transformer.resblocks.{index}"
        named |= {f"{layer}.attn.in_proj_weight": (3 * width, width), f"{layer}.attn.in_proj_bias": (3 * width,)}
        named |= _layer(f"{layer}.attn.out_proj", width, width)
        named |= _layer(f"{layer}.mlp.c_fc", inner, width) | _layer(f"{layer}.mlp.c_proj", width, inner)
        named |= _layer(f"{layer}.ln_1", width) | _layer(f"{layer}.ln_2", width)
    return named


def _layer(name: str, *shape: int) -> dict[str, Shape]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def random_tensors(
    named: Mapping[str, Shape], dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0
) -> Iterator[tuple[str, torch.Tensor]]:
    """Numbers under which activations stay of order 1: N(0, 1 / fan_in) for matrices, 1 for norms, 0 for biases."""
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in named.items():
        if len(shape) > 1:
            deviation = torch.Size(shape[1:]).numel() ** -0.5
            drawn = torch.empty(shape, device=device).normal_(0, deviation, generator=generator)
            yield name, drawn.to(dtype)
        else:
            yield name, torch.full(shape, float(name.endswith("weight")), dtype=dtype, device=device)


def write_checkpoint(folder: Path, size: Size, dtype: torch.dtype, name: str) -> Path:
    """``name.safetensors``, a yaml beside it and a vocabulary in ``clip``; nothing is done where they are."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        write_vocabulary(folder / "clip")
        _write_yaml(path.with_suffix(".yaml"), size)
        tensors = dict(random_tensors(shapes(size), dtype))
        write_safetensors(path, tensor_data(tensors), {"format": "pt"})
    return path


def _write_yaml(path: Path, size: Size) -> None:
    """What a loader cannot read off shapes: SD1's heads, SDXL's channels of a head, the vocabulary's folder."""
    clip = "{target: ldm.modules.encoders.modules.FrozenCLIPEmbedder, input_key: txt, params: {version: clip}}"
    if size.is_sdxl:
        open_clip = "{target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2, input_key: txt}"
        unet = "network_config: {params: {num_head_channels: 64}}"
        text = f"conditioner_config: {{params: {{emb_models: [{clip}, {open_clip}]}}}}"
    else:
        unet = f"unet_config: {{params: {{num_heads: {size.unet['attention_head_dim']}}}}}"
        text = f"cond_stage_config: {clip}"
    path.write_text(f"model:\n  params:\n    {unet}\n    {text}\n", encoding="utf-8")


def write_vocabulary(folder: Path) -> Path:
    """A stand-in for OpenAI's vocabulary: as many words and merges of it, other words."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    merges = list(islice(_merges(), 49408 - 2 - 2 * len(symbols)))
    words = symbols + [f"{symbol}</w>" for symbol in symbols] + [a + b for a, b in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": words[-1]}
    config = {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    files = {
        "vocab.json": json.dumps({word: index for index, word in enumerate(words)}),
        "merges.txt": "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n",
        "special_tokens_map.json": json.dumps(special),
        "tokenizer_config.json": json.dumps(config),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of what stands before them, never twice the same word."""
    for length in (2, 3, 4):
        for letters in product(ascii_lowercase, repeat=length):
            word = "".join(letters)
            yield word[:-1], word[-1]
            yield word[:-1], f"{word[-1]}</w>"
