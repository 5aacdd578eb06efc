"""The UNet, as ldm/modules/diffusionmodules/openaimodel.py (SD1, SD2) and sgm's (SDXL) name it."""

from __future__ import annotations

from .shapes import Shape
from .state import State


def _resblock(state: State, name: str, inputs: int, outputs: int, time: int) -> None:
    state.norm(f"{name}.in_layers.0", inputs)
    state.layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
    state.layer(f"{name}.emb_layers.1", outputs, time)
    state.norm(f"{name}.out_layers.0", outputs)
    state.layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
    if inputs != outputs:
        state.layer(f"{name}.skip_connection", outputs, inputs, 1, 1)


def _transformer(state: State, name: str, channels: int, depth: int, shape: Shape) -> None:
    projection = (channels, channels) if shape.linear else (channels, channels, 1, 1)
    state.norm(f"{name}.norm", channels)
    state.layer(f"{name}.proj_in", *projection)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, width in (("attn1", channels), ("attn2", shape.context)):
            state.layer(f"{block}.{attention}.to_q", channels, channels, bias=False)
            state.layer(f"{block}.{attention}.to_k", channels, width, bias=False)
            state.layer(f"{block}.{attention}.to_v", channels, width, bias=False)
            state.layer(f"{block}.{attention}.to_out.0", channels, channels)
        state.layer(f"{block}.ff.net.0.proj", 8 * channels, channels)
        state.layer(f"{block}.ff.net.2", channels, 4 * channels)
        for number in (1, 2, 3):
            state.norm(f"{block}.norm{number}", channels)
    state.layer(f"{name}.proj_out", *projection)


def unet(state: State, shape: Shape) -> None:
    root, time = "model.diffusion_model", 4 * shape.channels
    last = len(shape.levels) - 1
    state.layer(f"{root}.time_embed.0", time, shape.channels)
    state.layer(f"{root}.time_embed.2", time, time)
    if shape.vector:
        state.layer(f"{root}.label_emb.0.0", time, shape.vector)
        state.layer(f"{root}.label_emb.0.2", time, time)
    state.layer(f"{root}.input_blocks.0.0", shape.channels, shape.inputs, 3, 3)
    skips, width, number = [shape.channels], shape.channels, 1
    for level, (channels, depth) in enumerate(zip(shape.levels, shape.depths)):
        for _ in range(2):
            _resblock(state, f"{root}.input_blocks.{number}.0", width, channels, time)
            if depth:
                _transformer(state, f"{root}.input_blocks.{number}.1", channels, depth, shape)
            width = channels
            skips.append(width)
            number += 1
        if level < last:
            state.layer(f"{root}.input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    _resblock(state, f"{root}.middle_block.0", width, width, time)
    _transformer(state, f"{root}.middle_block.1", width, shape.depths[-1] or 1, shape)
    _resblock(state, f"{root}.middle_block.2", width, width, time)
    number = 0
    for level, (channels, depth) in reversed(list(enumerate(zip(shape.levels, shape.depths)))):
        for place in range(3):
            name = f"{root}.output_blocks.{number}"
            _resblock(state, f"{name}.0", width + skips.pop(), channels, time)
            width = channels
            if depth:
                _transformer(state, f"{name}.1", channels, depth, shape)
            if level and place == 2:
                state.layer(f"{name}.{2 if depth else 1}.conv", channels, channels, 3, 3)
            number += 1
    state.norm(f"{root}.out.0", shape.channels)
    state.layer(f"{root}.out.2", 4, shape.channels, 3, 3)
