"""A tiny SD1-layout checkpoint with random weights, written name by name as LDM writes it.

The names follow ldm/modules/diffusionmodules/openaimodel.py and model.py, not our own key tables: what is built
from this file tests those tables.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

CHANNELS, CONTEXT, HEADS, VOCABULARY = 32, 32, 2, 600
UNET_LEVELS, VAE_LEVELS = (32, 32, 64, 64), (32, 32, 64, 64)


class _State(dict):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def tensor(self, name: str, *shape: int, scale: float | None = None) -> None:
        fan_in = max(1, torch.Size(shape[1:]).numel())
        scale = fan_in**-0.5 if scale is None else scale
        self[name] = torch.randn(shape, generator=self.generator) * scale

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self.tensor(f"{name}.weight", *shape)
        if bias:
            self.tensor(f"{name}.bias", shape[0], scale=0.05)

    def norm(self, name: str, channels: int) -> None:
        self[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=self.generator)
        self.tensor(f"{name}.bias", channels, scale=0.1)


def checkpoint_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint, float32."""
    state = _State(seed)
    _unet(state)
    _vae(state)
    _text_encoder(state)
    return dict(state)


def write_checkpoint(folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, name: str = "tiny") -> Path:
    """``name.safetensors``, ``name.yaml`` and the text encoder's folder ``clip``; the checkpoint's path."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to(dtype) for key, tensor in checkpoint_tensors(seed).items()}
    path = folder / f"{name}.safetensors"
    save_file(tensors, str(path), metadata={"format": "pt"})
    path.with_suffix(".yaml").write_text(_YAML, encoding="utf-8")
    write_clip_folder(folder / "clip")
    return path


def write_clip_folder(folder: Path) -> Path:
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
        "hidden_size": CONTEXT,
        "intermediate_size": 2 * CONTEXT,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 3,
        "max_position_embeddings": 77,
        "vocab_size": VOCABULARY,
        "hidden_act": "quick_gelu",
        "projection_dim": CONTEXT,
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


def _resblock(state: _State, name: str, inputs: int, outputs: int) -> None:
    state.norm(f"{name}.in_layers.0", inputs)
    state.layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
    state.layer(f"{name}.emb_layers.1", outputs, 4 * CHANNELS)
    state.norm(f"{name}.out_layers.0", outputs)
    state.layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
    if inputs != outputs:
        state.layer(f"{name}.skip_connection", outputs, inputs, 1, 1)


def _transformer(state: _State, name: str, channels: int) -> None:
    state.norm(f"{name}.norm", channels)
    state.layer(f"{name}.proj_in", channels, channels, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, width in (("attn1", channels), ("attn2", CONTEXT)):
        state.layer(f"{block}.{attention}.to_q", channels, channels, bias=False)
        state.layer(f"{block}.{attention}.to_k", channels, width, bias=False)
        state.layer(f"{block}.{attention}.to_v", channels, width, bias=False)
        state.layer(f"{block}.{attention}.to_out.0", channels, channels)
    state.layer(f"{block}.ff.net.0.proj", 8 * channels, channels)
    state.layer(f"{block}.ff.net.2", channels, 4 * channels)
    for index in (1, 2, 3):
        state.norm(f"{block}.norm{index}", channels)
    state.layer(f"{name}.proj_out", channels, channels, 1, 1)


def _unet(state: _State) -> None:
    unet = "model.diffusion_model"
    state.layer(f"{unet}.time_embed.0", 4 * CHANNELS, CHANNELS)
    state.layer(f"{unet}.time_embed.2", 4 * CHANNELS, 4 * CHANNELS)
    state.layer(f"{unet}.input_blocks.0.0", CHANNELS, 4, 3, 3)
    skips, width, number = [CHANNELS], CHANNELS, 1
    for level, channels in enumerate(UNET_LEVELS):
        for _ in range(2):
            _resblock(state, f"{unet}.input_blocks.{number}.0", width, channels)
            if level < 3:
                _transformer(state, f"{unet}.input_blocks.{number}.1", channels)
            width = channels
            skips.append(width)
            number += 1
        if level < 3:
            state.layer(f"{unet}.input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    _resblock(state, f"{unet}.middle_block.0", width, width)
    _transformer(state, f"{unet}.middle_block.1", width)
    _resblock(state, f"{unet}.middle_block.2", width, width)
    number = 0
    for level, channels in reversed(list(enumerate(UNET_LEVELS))):
        for place in range(3):
            name = f"{unet}.output_blocks.{number}"
            _resblock(state, f"{name}.0", width + skips.pop(), channels)
            width = channels
            if level < 3:
                _transformer(state, f"{name}.1", channels)
            if level and place == 2:
                state.layer(f"{name}.{2 if level < 3 else 1}.conv", channels, channels, 3, 3)
            number += 1
    state.norm(f"{unet}.out.0", CHANNELS)
    state.layer(f"{unet}.out.2", 4, CHANNELS, 3, 3)


def _vae_block(state: _State, name: str, inputs: int, outputs: int) -> None:
    state.norm(f"{name}.norm1", inputs)
    state.layer(f"{name}.conv1", outputs, inputs, 3, 3)
    state.norm(f"{name}.norm2", outputs)
    state.layer(f"{name}.conv2", outputs, outputs, 3, 3)
    if inputs != outputs:
        state.layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)


def _vae_middle(state: _State, name: str, channels: int) -> None:
    _vae_block(state, f"{name}.block_1", channels, channels)
    state.norm(f"{name}.attn_1.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        state.layer(f"{name}.attn_1.{part}", channels, channels, 1, 1)
    _vae_block(state, f"{name}.block_2", channels, channels)


def _vae(state: _State) -> None:
    encoder, decoder = "first_stage_model.encoder", "first_stage_model.decoder"
    state.layer(f"{encoder}.conv_in", VAE_LEVELS[0], 3, 3, 3)
    width = VAE_LEVELS[0]
    for level, channels in enumerate(VAE_LEVELS):
        for index in range(2):
            _vae_block(state, f"{encoder}.down.{level}.block.{index}", width, channels)
            width = channels
        if level < 3:
            state.layer(f"{encoder}.down.{level}.downsample.conv", width, width, 3, 3)
    _vae_middle(state, f"{encoder}.mid", width)
    state.norm(f"{encoder}.norm_out", width)
    state.layer(f"{encoder}.conv_out", 8, width, 3, 3)
    state.layer("first_stage_model.quant_conv", 8, 8, 1, 1)
    state.layer("first_stage_model.post_quant_conv", 4, 4, 1, 1)
    state.layer(f"{decoder}.conv_in", width, 4, 3, 3)
    _vae_middle(state, f"{decoder}.mid", width)
    for level, channels in reversed(list(enumerate(VAE_LEVELS))):
        for index in range(3):
            _vae_block(state, f"{decoder}.up.{level}.block.{index}", width, channels)
            width = channels
        if level:
            state.layer(f"{decoder}.up.{level}.upsample.conv", width, width, 3, 3)
    state.norm(f"{decoder}.norm_out", width)
    state.layer(f"{decoder}.conv_out", 3, width, 3, 3)


def _text_encoder(state: _State) -> None:
    text = "cond_stage_model.transformer.text_model"
    state.tensor(f"{text}.embeddings.token_embedding.weight", VOCABULARY, CONTEXT, scale=0.5)
    state.tensor(f"{text}.embeddings.position_embedding.weight", 77, CONTEXT, scale=0.1)
    state[f"{text}.embeddings.position_ids"] = torch.arange(77)[None].float()
    for index in range(3):
        layer = f"{text}.encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state.layer(f"{layer}.self_attn.{part}", CONTEXT, CONTEXT)
        state.layer(f"{layer}.mlp.fc1", 2 * CONTEXT, CONTEXT)
        state.layer(f"{layer}.mlp.fc2", CONTEXT, 2 * CONTEXT)
        state.norm(f"{layer}.layer_norm1", CONTEXT)
        state.norm(f"{layer}.layer_norm2", CONTEXT)
    state.norm(f"{text}.final_layer_norm", CONTEXT)


_YAML = f"""model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: "jpg"
    cond_stage_key: "txt"
    image_size: 16
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: 0.18215
    use_ema: False
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 32
        in_channels: 4
        out_channels: 4
        model_channels: {CHANNELS}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: 2
        channel_mult: [1, 1, 2, 2]
        num_heads: {HEADS}
        use_spatial_transformer: True
        transformer_depth: 1
        context_dim: {CONTEXT}
        use_checkpoint: False
        legacy: False
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 128
          in_channels: 3
          out_ch: 3
          ch: {VAE_LEVELS[0]}
          ch_mult: [1, 1, 2, 2]
          num_res_blocks: 2
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: clip
"""
