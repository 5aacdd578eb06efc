"""The VAE, as ldm/modules/diffusionmodules/model.py names it; all families have the same."""

from __future__ import annotations

from .state import State

VAE_LEVELS = (32, 32, 64, 64)


def _vae_block(state: State, name: str, inputs: int, outputs: int) -> None:
    state.norm(f"{name}.norm1", inputs)
    state.layer(f"{name}.conv1", outputs, inputs, 3, 3)
    state.norm(f"{name}.norm2", outputs)
    state.layer(f"{name}.conv2", outputs, outputs, 3, 3)
    if inputs != outputs:
        state.layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)


def _vae_middle(state: State, name: str, channels: int) -> None:
    _vae_block(state, f"{name}.block_1", channels, channels)
    state.norm(f"{name}.attn_1.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        state.layer(f"{name}.attn_1.{part}", channels, channels, 1, 1)
    _vae_block(state, f"{name}.block_2", channels, channels)


def vae(state: State) -> None:
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
